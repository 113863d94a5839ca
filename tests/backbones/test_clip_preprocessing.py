"""Which frames of a clip are read, worked by hand and by VideoMAE's formula; their identity and views."""

import numpy as np
import pytest
import torch
from PIL import Image

from iceprobe.backbones.augmentation import augmentation, view_generator
from iceprobe.backbones.clip_preprocessing import ClipPreprocessing
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.clips import SHORT, ArrayClip
from iceprobe.datasets.pixels import seen

PICTURE = Preprocessing(8, (0.4,) * 3, (0.2,) * 3, crop_pct=1.0)


class Timed(ArrayClip):
    """Frames at times of their own."""

    def __init__(self, times: list[float]):
        super().__init__(np.zeros((len(times), 8, 8), np.uint8))
        self._times = np.array(times)

    @property
    def times(self) -> np.ndarray:
        return self._times


def numbered(count: int, fps: float = 10.0) -> ArrayClip:
    """Frame k is k everywhere."""
    values = np.arange(count, dtype=np.uint8)[:, None, None]
    return ArrayClip(np.broadcast_to(values, (count, 12, 9)).copy(), fps)


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (12, {"frames": 4}, [1, 4, 7, 10]),  # the middles of 0-2, 3-5, 6-8, 9-11
        (10, {"frames": 4}, [1, 3, 6, 8]),  # 1.25, 3.75, 6.25, 8.75
        (3, {"frames": 6}, [0, 0, 1, 1, 2, 2]),
        (1, {"frames": 3}, [0, 0, 0]),
        (8, {"frames": 2, "clips": 2}, [1, 5, 3, 7]),  # a quarter and three quarters of each half
        (11, {"frames": 3, "stride": 2}, [3, 5, 7]),  # a window of 5 of 11: 3 before, 3 after
        (11, {"frames": 3, "stride": 2, "clips": 2}, [0, 2, 4, 6, 8, 10]),
        (12, {"frames": 2, "stride": 3, "clips": 3}, [0, 3, 4, 7, 8, 11]),
        (4, {"frames": 3, "stride": 2}, [0, 2, 3]),  # the last frame again
        (20, {"frames": 3, "fps": 5.0}, [7, 9, 11]),  # 0.4 s of 1.9 s
        (20, {"frames": 2, "fps": 2.0, "clips": 2}, [0, 5, 14, 19]),
    ],
)
def test_frames_by_hand(count: int, options: dict, expected: list[int]) -> None:
    assert ClipPreprocessing(PICTURE, **options).indices(numbered(count)).tolist() == expected


@pytest.mark.parametrize("count", [7, 16, 30, 61, 300])
def test_evenly_spread_frames_are_videomae_s(count: int) -> None:
    """`ssv2.py`: tick = len / T; int(tick / 2 + tick · x)."""
    tick = count / 8
    expected = [int(tick / 2.0 + tick * x) for x in range(8)]
    assert ClipPreprocessing(PICTURE, 8).indices(numbered(count)).tolist() == expected


def test_moments_are_of_the_file_s_times() -> None:
    """At 0, 1, 2, 3 seconds the frames shown are those at 0, 0.9, 2, 2."""
    clip = Timed([0.0, 0.1, 0.9, 2.0, 3.0004])
    reads = ClipPreprocessing(PICTURE, 4, fps=1.0)
    assert reads.indices(clip).tolist() == [0, 2, 3, 3]
    assert reads.indices(Timed([0.0, 1.0, 2.0, 3.0])).tolist() == [0, 1, 2, 3]


def test_each_frame_is_prepared_as_an_image() -> None:
    reads, clip = ClipPreprocessing(PICTURE, 2, stride=1), numbered(4)
    made = reads.transform(clip)
    assert reads.shape == tuple(made.shape) == (2, 3, 8, 8)
    for row, frame in enumerate((1, 2)):
        own = PICTURE.transform(Image.fromarray(clip.frames([frame])[0]))
        assert torch.equal(made[row], own)
    assert seen(clip).done == ()
    short = numbered(1)
    reads.transform(short)
    assert seen(short).done == (SHORT,)


def test_a_random_view_is_the_same_of_every_frame() -> None:
    still = ArrayClip(
        np.repeat(np.random.default_rng(0).integers(0, 255, (1, 20, 24, 3), np.uint8), 5, 0)
    )
    view = augmentation(ClipPreprocessing(PICTURE, 3))
    first, again, other = (view(still, view_generator(7, v)) for v in (1, 1, 2))
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    own = augmentation(PICTURE)(still.middle(), view_generator(7, 1))
    assert torch.equal(first[0], own)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 4}, {"fps": 2.5}, {"clips": 3}, {"library": "tensor"}]
)
def test_it_comes_back_from_its_fields(options: dict) -> None:
    reads = ClipPreprocessing(PICTURE, 4, **options)
    fields = reads.as_dict()
    assert fields == {"kind": "clip", "picture": PICTURE.as_dict(), "frames": 4, **options}
    assert Preprocessing.from_dict(fields) == reads


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"frames": 0}, "frames=0: take a number above 0"),
        ({"frames": 4, "stride": -1}, "stride=-1: take a number above 0"),
        ({"frames": 4, "clips": 5000}, "are 20,000 frames a video: take at most 4,096"),
        ({"frames": 4, "library": "other"}, "library='other'"),
    ],
)
def test_what_is_no_choice_of_frames(fields: dict, error: str) -> None:
    with pytest.raises(IceprobeError, match=error):
        ClipPreprocessing(PICTURE, **fields)
