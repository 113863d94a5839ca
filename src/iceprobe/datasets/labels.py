"""What a label can be: the index of a class, one an image. Whatever holds labels is checked here."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from iceprobe.core.errors import IceprobeError


class Labelled(Protocol):
    """What has labels, and a name for each (`datasets.base.Split`)."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def names(self) -> Sequence[str]: ...


def whole_labels(labels: Any, split: str) -> np.ndarray:
    """Labels as given → ``(n,)`` int64.

    Raises:
        IceprobeError: if they aren't one whole number an image.
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
    """See that there is one label for each image, name and box.

    Raises:
        IceprobeError: with both counts.
    """
    for what, count in others.items():
        if count != labels:
            raise IceprobeError(
                f"split {split!r} has {labels} labels and {count} {what}: give one of each an image"
            )


def check_stored(labels: np.ndarray, classes: Sequence[str], split: str, store: object) -> None:
    """See that labels of a store, which may be older than this check, are indices of its classes.

    Raises:
        IceprobeError: naming the first that isn't.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(outside):
        row = int(outside[0])
        raise IceprobeError(
            f"label {labels[row]} of row {row} in split {split!r} of store {store} is no class: "
            f"{len(classes)} are named ({len(outside)} such labels); extract it again from a data "
            "set without these images"
        )


def check_labels(data: str, classes: Sequence[str], splits: Sequence[Labelled]) -> None:
    """See that every label is the index of a class, and that train has every class of the others.

    Raises:
        IceprobeError: naming split, image and label.
    """
    for split in splits:
        labels = whole_labels(split.labels, split.name)
        check_count(split.name, len(labels), names=len(split.names))
        outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(outside):
            row = int(outside[0])
            raise IceprobeError(
                f"label {labels[row]} of {split.names[row]!r} in split {split.name!r} of {data!r} "
                f"is no class: {len(classes)} are named, 0 to {len(classes) - 1} "
                f"({len(outside)} such labels); mend them or leave the images out"
            )
    trained = next((np.unique(s.labels) for s in splits if s.name == "train"), np.array([]))
    for split in splits:
        unseen = np.setdiff1d(split.labels, trained)
        if len(trained) and len(unseen):
            raise IceprobeError(
                f"class {str(classes[int(unseen[0])])!r} is in split {split.name!r} of {data!r} but "
                "missing from train: add images of it to train or leave it out"
            )
