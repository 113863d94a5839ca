"""Examples that aren't single images: a kind of its own through extraction, and what is refused."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import iceprobe
from iceprobe.backbones import Backbone, Preprocessing, kinds
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged, batched
from iceprobe.backbones.options import OutputOptions
from iceprobe.backbones.readers import OutputReader
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset, Split
from iceprobe.tokens import Tokens

SERIES = [np.arange(3 * n, dtype=np.float32).reshape(n, 3) + n for n in (2, 5, 1, 4, 3, 7)]


class Series(Split):
    """Numbers (L, 3) of several lengths."""

    kind = "series"

    def image(self, index: int) -> Image.Image:
        raise NotImplementedError

    def example(self, index: int) -> np.ndarray:
        return SERIES[index]

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.name, self.labels.tolist())).encode()).hexdigest()


@dataclass(frozen=True)
class Cut(ExamplePreprocessing):
    """The first ``length`` rows; all of them if it is 0."""

    kind: ClassVar[str] = "series"
    length: int = 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        return (self.length, 3) if self.length else None

    def transform(self, example: np.ndarray) -> Inputs:
        values = torch.from_numpy(example)
        if not self.length:
            return Ragged.of(values, torch.arange(len(values))[:, None].float())
        if len(values) < self.length:
            raise IceprobeError(f"it has {len(values)} rows, fewer than {self.length}")
        return values[: self.length]

    def blank(self) -> Inputs:
        return super().blank() if self.length else Ragged.of(torch.zeros(2, 3), torch.zeros(2, 1))

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "length": self.length}


class Doubled(nn.Module):
    """Each row twice as large is a token."""

    def tokens(self, rows: Inputs) -> Tokens:
        if isinstance(rows, Ragged):
            coords = None if rows.coords is None else rows.padded(rows.coords)
            found = 2 * rows.padded()
            return Tokens(found, found[:, :0], mask=rows.mask, coords=coords)
        return Tokens(2 * rows, rows[:, :0])


@pytest.fixture(autouse=True)
def series(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is registered as any other is."""
    entry = kinds.Kind(f"{__name__}:Cut", "series of numbers")
    monkeypatch.setitem(kinds.KINDS, "series", entry)


def dataset() -> Dataset:
    labels = {"train": [0, 1, 0, 1, 0, 1], "test": [1, 0, 1, 0, 1, 0]}
    made = {
        name: Series(name, np.array(given), [f"{name}/{row}" for row in range(6)])
        for name, given in labels.items()
    }
    return Dataset("python:series", "series", ["even", "odd"], made)


def backbone(length: int) -> Backbone:
    reader = OutputReader(Doubled(), OutputOptions(), pooled_class=False)
    return Backbone(reader, Cut(length), spec="python:doubled", name="doubled")


def test_alike_examples_are_stored(tmp_path: Any) -> None:
    data = dataset()
    store = iceprobe.extract(
        backbone(2), data, tmp_path, tokens="float32", on_bad_image="skip", forward_batch_size=4
    )
    kept = [0, 1, 3, 4, 5]  # the third has one row
    assert store["train"].index.tolist() == kept
    tokens = store["train"].tokens(np.arange(5), "cpu")
    assert torch.equal(
        tokens.patches, torch.from_numpy(np.stack([2 * SERIES[k][:2] for k in kept]))
    )
    assert store.manifest.skipped[0] == "train/2"
    assert store.manifest.backbone.preprocessing == {"kind": "series", "length": 2}
    again = Preprocessing.from_dict(store.manifest.backbone.preprocessing)
    assert again == Cut(2)


def test_an_example_that_cannot_be_made_ready_is_named(tmp_path: Any) -> None:
    with pytest.raises(IceprobeError, match=r"series 'train/2' can't be made ready.*fewer than 2"):
        iceprobe.extract(backbone(2), dataset(), tmp_path)


def test_live_tokens_equal_stored_ones(tmp_path: Any) -> None:
    stored = iceprobe.extract(backbone(1), dataset(), tmp_path, tokens="float32")
    from iceprobe.store.live_split import live

    now = live(backbone(1), dataset(), tokens="float32", augmentation=None)
    rows = np.array([4, 0, 2])
    one, other = (store["test"].tokens(rows, "cpu").patches for store in (stored, now))
    assert torch.equal(one, other)


def test_a_batch_of_several_lengths() -> None:
    reads = Cut()
    batch = batched([reads.transform(SERIES[k]) for k in (0, 1, 2)])
    assert isinstance(batch, Ragged)
    assert len(batch) == 3
    assert batch.lengths.tolist() == [2, 5, 1]
    tokens = backbone(0)(batch)
    assert tokens.mask is not None
    assert tokens.mask.sum(1).tolist() == [2, 5, 1]
    for row, k in enumerate((0, 1, 2)):
        own = tokens.mask[row]
        assert torch.equal(tokens.patches[row, own], torch.from_numpy(2 * SERIES[k]))
        assert tokens.coords is not None
        assert tokens.coords[row, own, 0].tolist() == list(range(len(SERIES[k])))
        assert not tokens.patches[row, ~own].any()
    assert torch.allclose(tokens.mean[2], torch.from_numpy(2 * SERIES[2][0]))


def test_a_batch_of_several_lengths_moves_and_casts() -> None:
    batch = Ragged.together([Cut().transform(one) for one in SERIES]).to(torch.float64)  # type: ignore[misc]
    assert batch.values.dtype is torch.float64
    assert batch.lengths.dtype is torch.int64
    assert batch.coords is not None
    assert batch.coords.dtype is torch.float32


@pytest.mark.parametrize("coords", [True, False])
def test_a_batch_of_several_lengths_is_cut_as_a_tensor_is(coords: bool) -> None:
    made = [Cut().transform(one) for one in SERIES]
    examples = [one if coords else Ragged(one.values, one.lengths) for one in made]  # type: ignore[union-attr]
    parts = Ragged.together(examples).split(4)
    assert [part.lengths.tolist() for part in parts] == [[2, 5, 1, 4], [3, 7]]
    for part, own in zip(parts, (examples[:4], examples[4:]), strict=True):
        expected = Ragged.together(own)
        assert torch.equal(part.values, expected.values)
        assert (part.coords is not None) == coords
        assert not coords or torch.equal(part.coords, expected.coords)  # type: ignore[arg-type]
    assert sum(part.nbytes for part in parts) == sum(n for n in (2, 5, 1, 4, 3, 7)) * 4 * (
        3 + coords
    )


def test_another_kind_is_refused(tmp_path: Any) -> None:
    images = iceprobe.load_dataset("bundled:fashion")
    with pytest.raises(IceprobeError) as caught:
        iceprobe.extract(backbone(2), images, tmp_path)
    assert str(caught.value) == (
        "backbone 'python:doubled' reads series of numbers, and bundled:fashion holds images: take a "
        "backbone of images, or data of series of numbers"
    )
    tiny = iceprobe.load_backbone("bundled:mae-tiny")
    with pytest.raises(IceprobeError, match="reads images, and python:series holds series"):
        iceprobe.extract(tiny, dataset(), tmp_path)
    with pytest.raises(IceprobeError, match="random views are of images"):
        iceprobe.extract(backbone(1), dataset(), tmp_path, views=2)


def test_what_is_of_images_refuses_others() -> None:
    with pytest.raises(
        IceprobeError, match=r"the attention of heads is of images, .* reads series of numbers"
    ):
        backbone(2).of_images("the attention of heads")


@pytest.mark.parametrize(
    "fields", [{"kind": "smell"}, {"kind": ["image"]}, {"kind": "series", "a": 1}]
)
def test_an_unknown_preprocessing_is_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(IceprobeError, match="isn't one of this iceprobe"):
        Preprocessing.from_dict(fields)


def test_images_are_prepared_as_before() -> None:
    reads = Preprocessing(8, (0.5,), (0.5,), channels=1)
    assert reads.shape == (1, 8, 8)
    assert "kind" not in reads.as_dict()
    assert Preprocessing.from_dict(reads.as_dict()) == reads
    made = batched([reads.transform(Image.new("L", (9, 9), value)) for value in (0, 255)])
    assert isinstance(made, Tensor)
    assert made.amin((1, 2, 3)).tolist() == [-1, 1]
