"""A mask goes where its image goes: through resize and crop, into the shard and out again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.cost import plan
from iceprobe.datasets.base import BadImage
from iceprobe.store import Store, extract, extract_in_memory
from iceprobe.store.format import read_manifest, write_manifest
from tests.store.conftest import PREPROCESSING, SIDE, SMALL, make_backbone, make_dataset


def resampled(mask: np.ndarray, crop_pct: float) -> np.ndarray:
    """The pixel under each pixel's centre: shorter side to int(S / crop_pct), middle S x S."""
    height, width = mask.shape
    shorter = int(SIDE / crop_pct)
    scale = shorter / min(height, width)
    tall, wide = (int(side * scale) for side in (height, width))
    rows = ((np.arange(tall) + 0.5) * height / tall).astype(int)
    columns = ((np.arange(wide) + 0.5) * width / wide).astype(int)
    top, left = round((tall - SIDE) / 2), round((wide - SIDE) / 2)
    return (mask[rows][:, columns][top : top + SIDE, left : left + SIDE] > 0).astype(np.uint8)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_masks_come_back_as_resized(tmp_path, where):
    dataset = make_dataset(bad=(4, 31))
    backbone, bad = make_backbone(), dict(on_bad_image="skip")
    if where == "disk":
        path = extract(backbone, dataset, tmp_path, **SMALL, **bad).path
        store = Store.open(path, verify=True)
    else:
        store = extract_in_memory(backbone, dataset, batch_size=4, **bad)
    split, source = store["train"], dataset.splits["train"]
    assert split.has_masks
    rows = np.random.default_rng(0).permutation(48)
    for part in (split, split.hold(10**9)):
        masks = part.masks(rows)
        assert masks.dtype == torch.uint8
        wanted = np.stack([resampled(source.objects[i], 1.0) for i in split.index[rows]])
        assert np.array_equal(masks.numpy(), wanted)
    assert 0.1 < wanted.mean() < 0.5


def test_pixels_land_where_the_image_puts_them(tmp_path):
    """A wide image, cropped left and right: bright where its mask is, in the same places."""
    backbone, dataset = make_backbone(), make_dataset(train=4, test=2)
    backbone.preprocessing = replace(PREPROCESSING, crop_pct=0.8, interpolation="nearest")
    objects = np.zeros((4, 30, 64), np.uint8)
    objects[0, 5:9, 20:33] = objects[1, :, 30:] = objects[2, 29, 63] = 255
    for split in dataset.splits.values():
        split.objects = split.images = objects[: len(split)]
        split.boxes = np.array([[20, 5, 33, 9]] * len(split), np.float32)
    store = extract(backbone, dataset, tmp_path, **SMALL)
    masks = store["train"].masks([0, 1, 2, 3]).numpy()
    for row in range(4):
        assert np.array_equal(masks[row], resampled(objects[row], 0.8))
        (seen,) = store.images("train", [row])
        assert np.array_equal(np.asarray(seen) > 0, masks[row] > 0)
    assert not masks[2].any()  # outside the crop
    x0, y0, x1, y1 = store["train"].boxes[0]
    ys, xs = np.nonzero(masks[0])
    tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(tight, [x0, y0, x1, y1], atol=0.5)


def test_an_image_without_a_mask_has_none_of_its_pixels_on_the_object(backbone):
    dataset = make_dataset(train=6, test=2)
    split = dataset.splits["train"]
    whole = split.mask
    split.mask = lambda index: None if index == 2 else whole(index)
    masks = extract_in_memory(backbone, dataset, batch_size=4)["train"].masks(range(6))
    assert masks.flatten(1).any(1).tolist() == [True, True, False, True, True, True]


def test_a_mask_of_another_size_than_its_image_is_a_bad_image(backbone):
    dataset = make_dataset(train=6, test=2)
    dataset.splits["train"].mask = lambda index: Image.new("L", (20, 19))
    with pytest.raises(BadImage, match=r"'train/00000\.png' has 20 x 19 pixels and the image 20 x"):
        extract_in_memory(backbone, dataset)


def test_a_data_set_without_masks_stores_none(tmp_path, backbone, dataset):
    for split in dataset.splits.values():
        split.masks = False
    store = extract(backbone, dataset, tmp_path, **SMALL)
    assert not store["train"].has_masks
    with pytest.raises(IceprobeError, match="no masks"):
        store["train"].masks([0])


def test_a_store_made_without_masks_is_not_taken_for_one_with_them(tmp_path, backbone):
    """Same images, labels and boxes, and a fingerprint that says nothing of masks."""
    with_masks, without = make_dataset(train=6, test=2), make_dataset(train=6, test=2)
    for name, split in without.splits.items():
        split.masks = False
        assert split.fingerprint() == with_masks.splits[name].fingerprint()
    before = extract(backbone, without, tmp_path, **SMALL)
    after = extract(backbone, with_masks, tmp_path, **SMALL)
    assert after.path != before.path
    assert after["train"].has_masks
    assert not Store.open(before.path)["train"].has_masks


def test_planned_bytes_count_masks(tmp_path, backbone, dataset):
    planned = plan(backbone, dataset, tmp_path, measure_seconds=0, **SMALL)
    for split in dataset.splits.values():
        split.masks = False
    without = plan(backbone, dataset, tmp_path, measure_seconds=0, **SMALL)
    assert planned.store_bytes - without.store_bytes == 62 * SIDE**2
    assert planned.memory_bytes > without.memory_bytes


def test_stores_of_the_format_before_masks_are_refused(tmp_path, backbone, dataset):
    path = extract(backbone, dataset, tmp_path, **SMALL).path
    write_manifest(path, read_manifest(path).model_copy(update={"format_version": 1}))
    with pytest.raises(
        IceprobeError, match="has format 1, this iceprobe reads 2: extract it again"
    ):
        Store.open(path)
