"""Targets given as arrays → task, names of the outputs, and targets as the task has them.

    text or whole numbers (n,)          classification
    0, 1 and NaN (n, K)                 multilabel
    numbers with fractions              regression

What could be two of these is refused, with what to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import shown
from iceprobe.datasets.labels import negative_numbers, numbered
from iceprobe.tasks.registry import TASKS, get_task
from iceprobe.tasks.targets import UNKNOWN, class_indices

TRAIN = "train"
KINDS = {"U": "text", "b": "bools", "i": "whole numbers", "u": "whole numbers", "f": "floats"}
WANTED = "text or whole numbers (n,) for classes, 0 and 1 (n, K) for tags, floats for numbers"


@dataclass(frozen=True)
class GivenTargets:
    """What was read.

    Attributes:
        task: name of it.
        classes: names of the outputs.
        arrays: of each split, as the task takes them.
        assumed: a line where another reading was possible.
    """

    task: str
    classes: list[str]
    arrays: dict[str, NDArray[Any]]
    assumed: list[str]


def read_targets(
    given: Mapping[str, Any], task: str | None, classes: Sequence[str] | None, name: str
) -> GivenTargets:
    """Read the targets of all splits together.

    Args:
        given: arrays, tensors, lists or tables of pandas, by split; ``"train"`` among them.
        task: overrules what follows from the values.
        classes: names of the outputs. Text is looked up in them, whole numbers are indices into them.
        name: of the data, for errors.

    Raises:
        IceprobeError: if they aren't targets, differ in kind between splits, may be of two tasks, or
            aren't of ``task``.
    """
    arrays = {split: _array(values, split) for split, values in given.items()}
    _check_alike(arrays)
    chosen = _task(arrays) if task is None else _checked(task)
    assumed: list[str] = []
    if classes is not None and len(set(classes)) < len(classes):
        twice = next(one for one in classes if list(classes).count(one) > 1)
        raise IceprobeError(f"classes= names {twice!r} twice: give each a name of its own")
    if chosen != "classification":
        names = _columns(given) if classes is None else list(classes)
        for split, array in arrays.items():
            arrays[split] = get_task(chosen).targets(array, split)
        names = names or _names(chosen, arrays[TRAIN].shape[1])
        return GivenTargets(chosen, names, arrays, assumed)
    text = arrays[TRAIN].dtype.kind == "U"
    if not text and arrays[TRAIN].dtype.kind != "b":
        arrays = {split: class_indices(array, split) for split, array in arrays.items()}
    if any(array.ndim != 1 for array in arrays.values()):
        raise IceprobeError(
            f"y has the shape {arrays[TRAIN].shape}: give one class an example, (n,), "
            "or task=multilabel"
        )
    if classes is not None:
        known = list(classes)
        if text:
            arrays = {split: _looked_up(array, known, split) for split, array in arrays.items()}
        return GivenTargets(chosen, known, arrays, assumed)
    names, labels = numbered({split: array.tolist() for split, array in arrays.items()}, name)
    if task is None and not text:
        if arrays[TRAIN].dtype.kind != "b":
            assumed = [
                f"y is whole numbers, read as {len(names)} classes (task=regression reads numbers)"
            ]
        _check_few(len(names), len(labels[TRAIN]))
    return GivenTargets(chosen, names, dict(labels), [*assumed, *negative_numbers(names, name)])


def _array(values: Any, split: str) -> NDArray[Any]:
    """Text, bools, whole numbers or floats; anything else is refused."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        values = _unmasked(values, split)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise IceprobeError(
            f"y of {split!r} makes no array (lists of several lengths?): give {WANTED}"
        ) from error
    if array.dtype.kind in "OT" and array.size:  # pandas and StringDType among them
        array = _unpacked(array, split)
    if not array.size:
        raise IceprobeError(f"y of {split!r} is empty: leave the split out")
    if array.dtype.kind not in KINDS or array.ndim not in (1, 2):
        raise IceprobeError(
            f"y of {split!r} has the shape {array.shape} and type {array.dtype}: give {WANTED}"
        )
    return array


def _unmasked(values: np.ma.MaskedArray, split: str) -> NDArray[np.float64]:
    """A masked array of tags or numbers with NaN where it is masked."""
    if values.dtype.kind not in "biuf" or (values.ndim == 1 and values.dtype.kind != "f"):
        row = np.argwhere(np.ma.getmaskarray(values))[0][0]
        raise IceprobeError(
            f"y of {split!r} is masked at row {row}: every example needs its class, leave out those "
            "without"
        )
    return np.ma.filled(values.astype(np.float64), np.nan)


def _unpacked(array: NDArray[Any], split: str) -> NDArray[Any]:
    """An array of Python objects as text or as numbers, where all are of one kind."""
    flat = array.ravel().tolist()
    kinds: tuple[tuple[type, ...], ...] = ((str,), (bool,), (int,), (int, float))
    for kind in kinds:
        if all(
            isinstance(one, kind) and (kind == (bool,) or not isinstance(one, bool)) for one in flat
        ):
            return np.array(flat, kind[-1]).reshape(array.shape)
    first = flat[0]
    row = next((i for i, one in enumerate(flat) if type(one) is not type(first)), 0)
    raise IceprobeError(
        f"y of {split!r} has values of several kinds or of none: {shown(first)} and {shown(flat[row])} "
        f"(number {row}); give {WANTED}"
    )


def _check_alike(arrays: Mapping[str, NDArray[Any]]) -> None:
    first = arrays[TRAIN]
    for split, array in arrays.items():
        if array.ndim != first.ndim or (array.dtype.kind == "U") != (first.dtype.kind == "U"):
            raise IceprobeError(
                f"y of 'train' is {KINDS[first.dtype.kind]} {first.shape} and of {split!r} "
                f"{KINDS[array.dtype.kind]} {array.shape}: give both alike"
            )
        if array.ndim == 2 and array.shape[1] != first.shape[1]:
            raise IceprobeError(
                f"y of 'train' has {first.shape[1]} columns and of {split!r} {array.shape[1]}: "
                "give both the same"
            )


def _checked(task: str) -> str:
    if not get_task(task).pooled:
        named = ", ".join(name for name in TASKS if get_task(name).pooled)
        raise IceprobeError(f"task={task!r} is of single patches: take one of {named}")
    return task


def _task(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The task that follows from the values of all splits.

    Raises:
        IceprobeError: if it could be another one.
    """
    kinds = {array.dtype.kind for array in arrays.values()}
    if arrays[TRAIN].ndim == 1:
        if "f" not in kinds:
            return "classification"
        if all(_whole(array) for array in arrays.values()):
            raise IceprobeError(
                "y is floats that are all whole numbers: classes or numbers? Say "
                "task=classification or task=regression"
            )
        return "regression"
    if "U" in kinds:
        raise IceprobeError(
            f"y is text of the shape {arrays[TRAIN].shape}: give one class an example, (n,), or tags "
            "as 0 and 1, (n, K) (sklearn.preprocessing.MultiLabelBinarizer makes them)"
        )
    if not all(_binary(array) for array in arrays.values()):
        if "f" in kinds:
            return "regression"
        raise IceprobeError(
            f"y is whole numbers of the shape {arrays[TRAIN].shape}, not all 0 or 1: say "
            "task=regression if they are numbers to predict, or give one class an example, (n,)"
        )
    if arrays[TRAIN].shape[1] == 1:
        raise IceprobeError(
            f"y is 0 and 1 of the shape {arrays[TRAIN].shape}: give y[:, 0] if they are two classes, "
            "or say task=multilabel (one tag) or task=regression"
        )
    if all(
        (array == 1).sum() == len(array) == (array == 1).any(1).sum() for array in arrays.values()
    ):
        raise IceprobeError(
            "each row of y has exactly one 1: give y.argmax(1) if they are classes, or say "
            "task=multilabel if they are tags"
        )
    return "multilabel"


def _whole(array: NDArray[Any]) -> bool:
    values = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    return bool(np.isfinite(values).all() and (values == np.floor(values)).all())


def _binary(array: NDArray[Any]) -> bool:
    unknown = np.isnan(array) if array.dtype.kind == "f" else array == UNKNOWN
    return bool(((array == 0) | (array == 1) | unknown).all())


def _check_few(classes: int, examples: int) -> None:
    if 2 * classes > examples and classes > 2:
        raise IceprobeError(
            f"y is whole numbers with {classes:,} values among {examples:,} training examples: classes "
            "or numbers? Say task=classification or task=regression"
        )


def _looked_up(array: NDArray[Any], classes: list[str], split: str) -> NDArray[np.int64]:
    place = {name: label for label, name in enumerate(classes)}
    for row, name in enumerate(array.tolist()):
        if name not in place:
            raise IceprobeError(f"y of {split!r}, row {row}: {unknown('class', name, classes)}")
    return np.array([place[name] for name in array.tolist()], np.int64)


def _columns(given: Mapping[str, Any]) -> list[str]:
    """Names of the columns of tables of pandas, which must agree."""
    named = {
        split: [str(one) for one in values.columns]
        for split, values in given.items()
        if hasattr(values, "columns")
    }
    listed = list(named.values())
    if any(one != listed[0] for one in listed):
        raise IceprobeError(f"the columns of y differ between {' and '.join(named)}: give the same")
    return listed[0] if listed else []


def _names(task: str, outputs: int) -> list[str]:
    if task == "regression":
        return ["y"] if outputs == 1 else [f"y{k}" for k in range(outputs)]
    return [f"tag {k}" for k in range(outputs)]
