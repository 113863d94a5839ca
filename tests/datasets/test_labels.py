"""Labels that can't be: refused in one line wherever a split or a data set is made."""

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import ArraySplit, Dataset


def split(name: str, labels, images: int | None = None, names: int | None = None, boxes=None):
    count = len(labels) if images is None else images
    pixels = np.zeros((count, 4, 4), np.uint8)
    shown = [f"{name}-{i}" for i in range(len(labels) if names is None else names)]
    return ArraySplit(name, pixels, labels, shown, boxes)


def data(train, test) -> Dataset:
    splits = {"train": split("train", train), "test": split("test", test)}
    return Dataset("test:labels", "labels", ["a", "b", "c"], splits)


@pytest.mark.parametrize(
    "labels", [[0, 1, 2], np.array([0, 1, 2], np.uint8), [0.0, 1.0, 2.0], [False, True, True]]
)
def test_whole_numbers_are_taken_whatever_their_type(labels):
    made = split("train", labels).labels
    assert made.dtype == np.int64
    assert made.tolist() == [int(label) for label in labels]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 0.5, 1.7], r"label 0\.5 of image 1 .* \(2 of 3 aren't whole\)"),
        ([0.0, float("nan")], r"label nan of image 1"),
        ([[0, 1], [1, 0]], r"shape \(2, 2\)"),
        ([[0], [1, 2]], "make no array"),
        (["cat", "dog"], "are of type <U3: give the index"),
        ([None, 1], "are of type object"),
    ],
)
def test_what_is_no_whole_number_is_refused(labels, message):
    with pytest.raises(IceprobeError, match=message) as caught:
        split("train", labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(images=40), "split 'train' has 30 labels and 40 images"),
        (dict(names=29), "split 'train' has 30 labels and 29 names"),
        (dict(boxes=np.zeros((31, 4))), "split 'train' has 30 labels and 31 boxes"),
    ],
)
def test_counts_that_differ_are_refused(sizes, message):
    with pytest.raises(IceprobeError, match=message):
        split("train", [0] * 30, **sizes)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1, -1, 2], [0], r"label -1 of 'train-2' in split 'train' .* 3 are named, 0 to 2"),
        ([0, 1, 2], [0, -1, -1], r"label -1 of 'test-1' .* \(2 such labels\)"),
        ([0, 1, 2], [0, 3], r"label 3 of 'test-1' in split 'test' .* no class"),
        ([0, 1, 5], [0], r"label 5 of 'train-2'"),
        ([0, 1, 0], [0, 2], r"class 'c' is in split 'test' .* missing from train"),
    ],
)
def test_labels_that_name_no_class_are_refused(train, test, message):
    with pytest.raises(IceprobeError, match=message) as caught:
        data(train, test)
    assert "\n" not in str(caught.value)


def test_a_class_that_no_image_has_is_no_error_here():
    assert data([0, 1], [1]).splits["test"].labels.tolist() == [1]
