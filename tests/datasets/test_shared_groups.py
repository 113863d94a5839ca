"""Groups of examples on both sides of a split are told, with how many examples they have."""

import numpy as np
import pytest

import iceprobe
from iceprobe.datasets.base import ArraySplit, Column, Dataset
from iceprobe.fitting.rounds import cut_groups

VALUES = ["p0", "p1", "p2", "p3", "p4"]


def split(name: str, codes: list[int]) -> ArraySplit:
    images, labels = np.zeros((len(codes), 8, 8, 3), np.uint8), np.arange(len(codes)) % 2
    names = [f"{name}{i}" for i in range(len(codes))]
    return ArraySplit(
        name, images, labels, names, columns={"patient": Column(np.array(codes), VALUES)}
    )


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ([4, 4, -1, -1], []),
        ([1, 1, 4, -1], [
            "1 group (patient 'p1') is in train and in test: 2 of 4 test examples aren't independent of train, "
            "so scores may be too high"
        ]),
        ([1, 0, 2, 4], [
            "3 groups (patient 'p0', 'p1', 'p2') are in train and in test: 3 of 4 test examples aren't "
            "independent of train, so scores may be too high"
        ]),
    ],
)  # fmt: skip
def test_of_a_data_set(test, said):
    splits = {"train": split("train", [0, 0, 1, 2, -1]), "test": split("test", test)}
    assert Dataset("own", "own", ["a", "b"], splits, group="patient").assumed == said


def test_of_the_folds_of_a_column():
    x, y = np.zeros((6, 3), np.float32), np.arange(6) % 2
    store = iceprobe.from_tokens(
        {"train": (x, y)}, groups={"train": ["a", "a", "b", "b", "c", "c"]}
    )
    found = cut_groups(store, [np.array([0, 2, 3]), np.array([1, 4, 5])])
    assert found == (
        "1 group (group 'a') is in several folds: their examples aren't independent of what is learnt, so "
        "scores may be too high"
    )
    assert cut_groups(store, [np.array([0, 1]), np.array([2, 3, 4, 5])]) == ""
