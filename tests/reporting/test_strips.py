"""Maps over the moments of a clip: where each cell comes to lie, on which scale, over which frame."""

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.backbones import load_backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset, Split
from iceprobe.datasets.clips import ArrayClip
from iceprobe.reporting.pictures import SIDE, enlarged, map_picture, side_by_side
from iceprobe.reporting.strips import Moments, moments

from .strips import checked, fitted


class Shades(Split):
    """Clip k has frames of one shade each: 20 t + k."""

    kind = "clip"

    def example(self, index: int) -> ArrayClip:
        shades = 20 * np.arange(9) + index
        return ArrayClip(np.broadcast_to(shades[:, None, None], (9, 40, 40)).astype(np.uint8))

    def image(self, index: int) -> Image.Image:
        return self.example(index).middle()

    def fingerprint(self) -> str:
        return f"{self.name} {len(self)}"


def shades(count: int = 12) -> Dataset:
    made = {
        name: Shades(name, np.arange(count) % 2, [f"{name}{k}" for k in range(count)])
        for name in ("train", "test")
    }
    return Dataset("python:shades", "shades", ["a", "b"], made)


def test_cells_lie_where_their_token_is() -> None:
    found = Moments((4, 2, 3), [0, 1, 3], [])
    maps = torch.arange(2 * 24).reshape(2, 24)
    cells = found.cells(maps)
    assert cells.shape == (2, 2, 9)
    for clip in range(2):
        for place, time in enumerate([0, 1, 3]):
            for row in range(2):
                for column in range(3):
                    token = time * 6 + row * 3 + column
                    assert cells[clip, row, 3 * place + column] == maps[clip, token]
    assert found.cells(maps, one=True)[1].tolist() == [[30, 31, 32], [33, 34, 35]]  # moment 1


@pytest.mark.parametrize("one", [False, True])
def test_attention_that_is_uniform_over_all_moments_stays_dark(one: bool) -> None:
    found = Moments((5, 2, 2), [0, 2, 4], [[Image.new("RGB", (8, 8), "red")] * 3])
    cells = found.shares(torch.full((1, 20), 1 / 20), one=one)
    assert cells.sum() == pytest.approx(1)
    picture, frames = (found.middle[0], 1) if one else (found.strips[0], 3)
    plain = np.asarray(enlarged(picture, frames).convert("L"), np.float64)
    expected = np.repeat((0.62 * plain + 12).astype(np.uint8)[..., None], 3, -1)
    assert np.array_equal(np.asarray(map_picture(picture, cells[0], frames)), expected)


def test_colour_of_a_frame_does_not_run_into_the_next() -> None:
    """All attention is on the right column of the first of two frames."""
    picture = side_by_side([Image.new("RGB", (8, 8))] * 2)
    cells = np.zeros((2, 4))
    cells[:, 1] = 0.5
    drawn = np.asarray(map_picture(picture, cells, 2), np.float64).sum(-1)
    dark = drawn[:, -1].max()
    assert drawn.shape == (SIDE, 2 * SIDE)
    assert drawn[:, SIDE - 8].min() > dark + 100
    assert (drawn[:, SIDE + 3 :] == dark).all()


def test_a_wide_image_is_no_strip() -> None:
    """All attention is on the right end of the left half: an image has no line and no edge in its middle."""
    picture, cells = Image.new("RGB", (16, 8)), np.zeros((2, 4))
    cells[:, 1] = 0.5
    assert enlarged(picture).size == (SIDE, SIDE // 2)
    drawn = np.asarray(map_picture(picture, cells), np.float64).sum(-1)
    assert drawn.shape == (SIDE // 2, SIDE)
    assert np.abs(np.diff(drawn, axis=1)).max() < 60
    assert drawn[:, SIDE // 2 + 4].min() > drawn[:, -1].max() + 60


@pytest.mark.parametrize(("frames", "each"), [(3, "patches"), (8, "patches"), (4, "pooled")])
def test_frames_are_those_that_were_read(frames: int, each: str, tmp_path) -> None:
    reads = load_backbone("bundled:mae-tiny", frames=frames, each=each, stride=1)
    store = iceprobe.extract(reads, shades(2), tmp_path)
    found = moments(store, "test", np.array([1, 0]))
    assert found.grid == ((frames, 14, 14) if each == "patches" else (frames, 1, 1))
    read = reads.preprocessing.indices(ArrayClip(np.zeros((9, 1, 1), np.uint8)))
    for clip, own in zip((1, 0), found.frames, strict=True):
        shade = [np.asarray(frame).mean() for frame in own]
        assert shade == pytest.approx([20 * read[step] + clip for step in found.shown])
    assert len(found.shown) == min(frames, 6)


OF_PARTS = "of a probe that reads the parts of an example each by itself: to the mean of theirs"


def test_maps_of_averaged_clips_lie_over_all_of_them(tmp_path) -> None:
    spec = "bundled:mae-tiny?frames=2&clips=2&averaged=true"
    store = iceprobe.extract(spec, shades(), tmp_path / "features")
    album, page = checked(store, fitted(store, tmp_path / "run"), tmp_path)
    assert album.strips[0].size == (4 * 56, 56)
    assert OF_PARTS in page


def test_a_report_of_clips_has_strips(tmp_path) -> None:
    store = iceprobe.extract("bundled:mae-tiny?frames=3", shades(), tmp_path / "features")
    results = fitted(store, tmp_path / "run")
    album, page = checked(store, results, tmp_path)
    assert (
        "Test clips as the backbone saw them, of each clip up to six moments side by side" in page
    )
    assert album.strips[0].size == (3 * 56, 56)
    assert OF_PARTS not in page
    with pytest.raises(
        IceprobeError, match=r"lie on a grid: leave it out \(the report has their maps\)"
    ):
        iceprobe.analyze(results, attention=tmp_path / "weights")
    with pytest.raises(IceprobeError, match="a figure is of images, and tokens here are of clips"):
        iceprobe.figure(results, tmp_path / "maps.svg")
    with pytest.raises(IceprobeError, match="ep2 was fitted on clips, and --background"):
        iceprobe.analyze(results, background=True)
