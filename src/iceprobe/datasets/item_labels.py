"""Labels of the items of two map-style data sets → targets: classes, tags or numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.cells import Rows, plain
from iceprobe.datasets.columns import Asked, Targets, read_targets
from iceprobe.datasets.labels import by_names, negative_numbers, numbered
from iceprobe.tasks.targets import class_indices

Names = Mapping[str, Sequence[str] | None]


def targets_of_items(
    raw: Mapping[str, Sequence[Any]], names: Names, asked: Asked, spec: str
) -> Targets:
    """The targets of both splits.

    Labels that are lists, vectors or fractions in every item are tags or numbers, as in a table; others
    are classes.

    Args:
        raw: the labels.
        names: of the classes, as each data set lists them.
        asked: the task and units, if they are given.
        spec: of the data set, for errors.

    Raises:
        IceprobeError: naming the first label that doesn't fit, or what may be meant.
    """
    every = [plain(label) for labels in raw.values() for label in labels]
    lists = all(isinstance(label, list) for label in every)
    fractions = all(isinstance(label, float) for label in every) and not all(
        label.is_integer() for label in every
    )
    if asked.task in (None, "classification") and not lists and not fractions:
        classes, labels, lines = _numbered(raw, names, spec)
        if asked.unit is not None:
            raise IceprobeError(f"unit={asked.unit!r} is for numbers, not classes: drop it")
        return Targets("classification", classes, labels, assumed=lines)
    rows = {
        split: Rows({"label": given}, partial("item {1} of split {0!r}".format, split))
        for split, given in raw.items()
    }
    found = read_targets(rows, ["label"], asked, spec)
    listed = next(filter(None, names.values()), None)
    return found if listed is None else replace(found, names=_named(found.names, listed))


def _named(found: list[str], listed: Sequence[str]) -> list[str]:
    """Names of outputs by the data set's list: of all in order, or of those whose number is a tag."""
    if all(name.isdecimal() and int(name) < len(listed) for name in found):
        return [listed[int(name)] for name in found]
    return list(listed) if len(listed) == len(found) else found


def _numbered(
    raw: Mapping[str, Sequence[Any]], names: Names, spec: str
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    known = next((listed for listed in names.values() if listed), None)
    if known is None:
        texts = all(isinstance(value, str) for values in raw.values() for value in values)
        values = raw if texts else {s: class_indices(v, s).tolist() for s, v in raw.items()}
        classes, labels = numbered(values, spec)
        return classes, labels, negative_numbers(classes, spec)
    assumed = [
        f"{spec}: {split} names no classes, its labels are read as indices into the other's list"
        for split, listed in names.items()
        if listed is None
    ]
    listed = {split: own or known for split, own in names.items()}
    numbers = {split: class_indices(values, split) for split, values in raw.items()}
    classes, labels, more = by_names(numbers, listed, spec)
    return classes, labels, [*assumed, *more]
