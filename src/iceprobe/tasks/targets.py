"""Targets as a source gives them → the array that a task works with; what is wrong is named by its row.

classification   ``(n,)`` int64, indices of classes
multilabel       ``(n, K)`` uint8, 1 with the tag and 0 without, `UNKNOWN` where that isn't known
regression       ``(n, K)`` float64, NaN where a number isn't known
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError

UNKNOWN = 255  # of a tag


def class_indices(given: Any, split: str) -> NDArray[np.int64]:
    """Labels as given → ``(n,)`` int64.

    Raises:
        IceprobeError: if they aren't one whole number per example.
    """
    array = _array(given, split, "the index of one class an image, (n,)")
    if array.ndim != 1:
        raise IceprobeError(
            f"labels of split {split!r} have the shape {array.shape}: give the index of one class "
            "an image, (n,)"
        )
    if array.dtype.kind == "f":
        broken = np.flatnonzero(~(np.isfinite(array) & (array == np.floor(array))))
        if len(broken):
            row = int(broken[0])
            raise IceprobeError(
                f"label {array[row]} of image {row} of split {split!r} is no index of a class "
                f"({len(broken)} of {len(array)} aren't whole): give whole numbers from 0 up, one "
                "for each class (numpy.digitize makes classes of a number), or task=regression"
            )
    elif array.dtype.kind not in "iub":
        raise IceprobeError(
            f"labels of split {split!r} are of type {array.dtype}: give the index of each image's "
            "class, whole numbers from 0 up (numpy.unique(names, return_inverse=True) makes them)"
        )
    return array.astype(np.int64)


def unseen_classes(labels: NDArray[Any], names: Sequence[str]) -> str | None:
    """The classes without a training example, in words; None if each has one."""
    missing = np.setdiff1d(np.arange(len(names)), labels).tolist()
    return f"no training image of class {some([names[c] for c in missing])}" if missing else None


def tags(given: Any, split: str) -> NDArray[np.uint8]:
    """Tags as given, 0, 1 or NaN (`UNKNOWN` in uint8) → ``(n, K)`` uint8.

    Raises:
        IceprobeError: naming the first cell that is something else, or another shape.
    """
    array = _array(given, split, "0 or 1 a tag, (n, K)")
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise IceprobeError(
            f"tags of split {split!r} have the shape {array.shape} and type {array.dtype}: give 0 "
            "or 1 for each example and tag, (n, K), and NaN where it isn't known"
        )
    if array.dtype.kind == "f":
        unknown = np.isnan(array)
    else:
        unknown = (array == UNKNOWN) & (array.dtype == np.uint8)
    broken = np.argwhere(~unknown & (array != 0) & (array != 1))
    if len(broken):
        row, tag = broken[0].tolist()
        raise IceprobeError(
            f"tag {tag} of example {row} in split {split!r} is {array[row, tag]}: give 0 or 1, or "
            f"NaN where it isn't known ({len(broken)} such cells)"
        )
    return np.where(unknown, UNKNOWN, array).astype(np.uint8)


def numbers(given: Any, split: str) -> NDArray[np.float64]:
    """Numbers as given, ``(n,)`` or ``(n, K)`` → ``(n, K)`` float64.

    Raises:
        IceprobeError: naming the first infinite one, or another shape.
    """
    array = _array(given, split, "one or several numbers an example, (n,) or (n, K)")
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiub":
        raise IceprobeError(
            f"numbers of split {split!r} have the shape {array.shape} and type {array.dtype}: give "
            "one or several an example, (n,) or (n, K), and NaN where one isn't known"
        )
    found = array.astype(np.float64).reshape(len(array), -1)
    broken = np.argwhere(np.isinf(found))
    if len(broken):
        row, output = broken[0].tolist()
        raise IceprobeError(
            f"number {output} of example {row} in split {split!r} is {found[row, output]}: give a "
            f"finite one, or NaN where it isn't known ({len(broken)} such numbers)"
        )
    return found


def known(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cells of tags or numbers are known, ``(n, K)``."""
    found: NDArray[np.bool_] = (
        targets != UNKNOWN if targets.dtype == np.uint8 else ~np.isnan(targets)
    )
    return found


def some(names: Sequence[str], most: int = 3) -> str:
    """``"'a', 'b' and 4 more"``."""
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _array(given: Any, split: str, wanted: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:  # lists of several lengths, tensors on a GPU
        what = " ".join(str(error).split())
        raise IceprobeError(
            f"labels of split {split!r} make no array ({what}): give {wanted}"
        ) from error
