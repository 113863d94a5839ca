"""`bundled:fashion-motion`: what it promises, from the pixels alone."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from iceprobe import datasets
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.motion import FRAMES, STEP

# Whatever changes these bytes makes another data set: results on it can't be laid beside older ones.
SHA256_OF_PIXELS = {
    "train": "c632c23b207ad954c0291ef054b4637c0337e20d27c54a3eeb21e8dd2f6f4e0e",
    "test": "db30da3070cd252632ecfd347814b965ccadb45372723cbfd347dd23d7efab75",
}


@pytest.fixture(scope="module")
def motion():
    return datasets.load_dataset("bundled:fashion-motion")


@pytest.fixture(scope="module")
def frames(motion):
    return {
        name: np.stack([split.example(i).values for i in range(len(split))])
        for name, split in motion.splits.items()
    }


def test_pixels_are_the_same_to_the_byte(frames) -> None:
    for name, values in frames.items():
        assert values.dtype == np.uint8
        assert hashlib.sha256(values.tobytes()).hexdigest() == SHA256_OF_PIXELS[name]


def test_classes_are_pairs_and_balanced(motion) -> None:
    assert len(motion.classes) == 40
    assert motion.classes[:4] == [
        "T-shirt/top down",
        "T-shirt/top left",
        "T-shirt/top right",
        "T-shirt/top up",
    ]
    for name, each in (("train", 75), ("test", 25)):
        split = motion.splits[name]
        assert np.bincount(split.labels).tolist() == [each] * 40
        column = split.columns["direction"]
        spoken = [motion.classes[label].rsplit(" ", 1)[1] for label in split.labels]
        assert [column.values[code] for code in column.codes] == spoken


def test_the_item_moves_as_the_class_says(motion, frames) -> None:
    """What changes from frame to frame is where the item is: each is the last one moved by STEP, on a torus."""
    split, moves = (
        motion.splits["test"],
        {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)},
    )
    for row in range(0, len(split), 37):
        values = frames["test"][row].astype(int)
        clutter = split.motions.clutter[row].astype(int)
        item = np.where(values != clutter, values, 0)
        name = motion.classes[split.labels[row]].rsplit(" ", 1)[1]
        assert len(values) == FRAMES
        for before, after in pairwise(item):
            moved = np.roll(before, [STEP * s for s in moves[name]], (0, 1))
            seen = (moved > 0) & (after > 0)
            assert np.array_equal(moved[seen], after[seen])
            assert seen.sum() > 0.8 * (after > 0).sum()  # but for pixels that equal the clutter


def test_no_frame_tells_the_direction(motion) -> None:
    """At the first, a middle and the last frame, places are as likely whatever the direction: chi-squared."""
    from scipy.stats import chi2_contingency

    motions = motion.splits["train"].motions
    steps = np.array([(1, 0), (0, -1), (0, 1), (-1, 0)])[motions.directions]
    for time in (0, 4, 7):
        corner = (motions.starts + time * STEP * steps) % 56
        for axis in range(2):
            counts = np.zeros((4, 8))
            np.add.at(counts, (motions.directions, corner[:, axis] // 7), 1)
            assert chi2_contingency(counts).pvalue > 0.001


def test_targets_alone() -> None:
    item = datasets.load_dataset("bundled:fashion-motion?target=item")
    direction = datasets.load_dataset("bundled:fashion-motion?target=direction")
    assert len(item.classes) == 10
    assert list(direction.classes) == ["down", "left", "right", "up"]
    assert np.bincount(direction.splits["test"].labels).tolist() == [250] * 4
    assert item.splits["test"].fingerprint() != direction.splits["test"].fingerprint()
    with pytest.raises(
        IceprobeError, match="target=count of fashion-motion: write item or direction"
    ):
        datasets.load_dataset("bundled:fashion-motion?target=count")
    with pytest.raises(IceprobeError, match="target=item of fashion-scenes: write tags, count"):
        datasets.load_dataset("bundled:fashion-scenes?target=item")
