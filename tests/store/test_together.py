"""Several processes, which a trainer has joined, make the tokens of one store in memory, bit by bit as one does."""

import pytest
import torch

from iceprobe.backbones.base import Backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.processes import joined_already
from iceprobe.store import extract_in_memory, extract_together
from tests.distributed.processes import joined
from tests.store.conftest import PREPROCESSING, make_backbone, make_dataset
from tests.store.test_ragged import BrightReader

PROCESSES = 3


def bright():
    return Backbone(BrightReader(), PREPROCESSING, spec="test:bright", name="bright")


# By name: backbone, data and options. Of batches of 16 there are 4 and 2: process 0 of 3 has none of the latter.
CASES = {
    "masks and boxes, of what can be read": (
        make_backbone,
        lambda: make_dataset(50, 20, bad=(4, 31)),
        {"on_bad_image": "skip", "tokens": "int8"},
    ),
    "lengths that differ": (
        bright,
        lambda: make_dataset(50, 20),
        {"tokens": "float32"},
    ),
}


def told(store) -> list:
    """All that a store tells of its images."""
    found = []
    for name in ("train", "test"):
        split = store[name]
        tokens = split.tokens(range(len(split)))
        parts = {"patches": tokens.patches, "prefix": tokens.prefix, "mean": split.mean}
        parts |= {"labels": torch.as_tensor(split.labels), "index": torch.as_tensor(split.index)}
        if tokens.mask is not None:
            parts |= {"mask": tokens.mask, "coords": tokens.coords}
        if split.has_masks:
            parts |= {
                "masks": split.masks(range(len(split))),
                "boxes": torch.as_tensor(split.boxes),
            }
        records = store.manifest.splits[name].shards
        skipped = [one for record in records for one in record.skipped]
        images, read = sum(record.images for record in records), [record.read for record in records]
        rounding = max(record.rounding for record in records)
        found.append([parts, skipped, images, rounding, sum(sum(one.values()) for one in read)])
    return found


def extracted(rank: int) -> list:
    processes, found = joined_already(), []
    for backbone, data, options in CASES.values():
        store = extract_together(
            backbone(), data(), None, processes, forward_batch_size=16, device="cpu", **options
        )
        found.append(store and told(store))
    try:
        extract_together(
            make_backbone(), make_dataset(50, 20, bad=(17,)), None, processes, forward_batch_size=16
        )
    except IceprobeError as error:
        found.append(str(error))
    return found


@pytest.mark.slow
def test_the_tokens_are_those_of_one_process(tmp_path):
    first, *others = joined(extracted, tmp_path, PROCESSES)
    for number, (backbone, data, options) in enumerate(CASES.values()):
        expected = told(
            extract_in_memory(backbone(), data(), forward_batch_size=16, device="cpu", **options)
        )
        for (parts, *rest), (alone, *same) in zip(first[number], expected, strict=True):
            assert rest == same
            assert list(parts) == list(alone)
            for key, tensor in parts.items():
                assert tensor.dtype == alone[key].dtype
                assert torch.equal(tensor, alone[key]), key
        assert [one[number] for one in others] == [None, None]
    # Of an image that process 1 alone would have read.
    assert ["can't be read" in one[-1] for one in (first, *others)] == [True] * 3
