"""Checks of labels: each image has one, the index of its class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError


def whole_labels(labels: Any, split: str) -> np.ndarray:
    """Labels as given → ``(n,)`` int64.

    Raises:
        IceprobeError: if they aren't one whole number per image.
    """
    try:
        given = np.asarray(labels)
    except (ValueError, TypeError) as error:  # lists of several lengths, tensors on a GPU
        raise IceprobeError(
            f"labels of split {split!r} make no array ({' '.join(str(error).split())}): give the "
            "index of one class an image, (n,)"
        ) from error
    if given.ndim != 1:
        raise IceprobeError(
            f"labels of split {split!r} have the shape {given.shape}: give the index of one class "
            "an image, (n,)"
        )
    if given.dtype.kind == "f":
        broken = np.flatnonzero(~(np.isfinite(given) & (given == np.floor(given))))
        if len(broken):
            row = int(broken[0])
            raise IceprobeError(
                f"label {given[row]} of image {row} of split {split!r} is no index of a class "
                f"({len(broken)} of {len(given)} aren't whole): give whole numbers from 0 up, one "
                "for each class (numpy.digitize makes classes of a number)"
            )
    elif given.dtype.kind not in "iub":
        raise IceprobeError(
            f"labels of split {split!r} are of type {given.dtype}: give the index of each image's "
            "class, whole numbers from 0 up (numpy.unique(names, return_inverse=True) makes them)"
        )
    return given.astype(np.int64)


def check_count(split: str, labels: int, **others: int) -> None:
    """Raise `IceprobeError` with both counts unless there is one label per image, name and box."""
    for what, count in others.items():
        if count != labels:
            raise IceprobeError(
                f"split {split!r} has {labels} labels and {count} {what}: give one of each an image"
            )


def labels_outside(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Rows whose label is not the index of a class."""
    return np.flatnonzero((labels < 0) | (labels >= len(classes)))


def check_stored(labels: np.ndarray, classes: Sequence[str], split: str, store: object) -> None:
    """Check the labels of a store, which may be older than the check of data sets.

    Raises:
        IceprobeError: naming the first label that is not the index of a class.
    """
    if len(outside := labels_outside(labels, classes)):
        raise IceprobeError(
            f"label {labels[outside[0]]} of row {outside[0]} in split {split!r} of store {store} is "
            f"no class: {len(classes)} are named ({len(outside)} such labels); extract it again from "
            "a data set without these images"
        )
