"""Columns of raw values → targets, their task with the reason, and further columns: of every source.

The task follows from the values (`inference.py`), and is said with the reason; ``task=`` overrules it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets import readings
from iceprobe.datasets.base import Column
from iceprobe.datasets.cells import Rows, Target, kind_of, names_of
from iceprobe.datasets.inference import is_multi_hot, task_of
from iceprobe.datasets.readings import Read
from iceprobe.tasks.registry import get_task

OTHERWISE = "(task= says otherwise)"


@dataclass(frozen=True)
class Asked:
    """Which columns are what, by the options of a spec.

    Attributes:
        target, separator, task, unit: of the targets.
        group, fold, slice: of further columns; several names of ``slice`` with commas.
    """

    target: str | None = None
    separator: str | None = None
    task: str | None = None
    unit: str | None = None
    group: str | None = None
    fold: str | None = None
    slice: str | None = None

    @property
    def further(self) -> list[str]:
        """The columns of groups and folds."""
        return [name for name in (self.group, self.fold) if name]


@dataclass(frozen=True)
class AskedSplits(Asked):
    """And which examples are train and test.

    Attributes:
        split, train, test: the column of splits and its values; ``test`` alone is a place of its own.
        test_fraction, seed: of what has no split.
    """

    split: str | None = None
    train: str | None = None
    test: str | None = None
    test_fraction: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Targets:
    """What columns of targets hold: arguments of splits and of their data set."""

    task: str
    names: list[str]
    labels: dict[str, np.ndarray]
    units: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """The metric that leads."""
        return get_task(self.task).primary


def several(text: str, option: str, known: Sequence[str] | None, where: str) -> list[str]:
    """Names of columns with commas between them, each one of those ``known``.

    Raises:
        IceprobeError: for a name that isn't, with the nearest, or one that is given twice.
    """
    whole = known is not None and text in known  # a name may have a comma in it
    names = [text] if whole else [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise IceprobeError(f"option {option}={text!r} names no column of {where}: name one")
    for name in names:
        if known is not None and name not in known:
            raise IceprobeError(
                f"{unknown(f'column of {where}', name, known)} Pass {option}=COLUMN."
            )
        if "&" in name:
            raise IceprobeError(
                f"column {name!r} has & in its name, which no spec holds: rename it"
            )
        if names.count(name) > 1:
            raise IceprobeError(f"option {option}={text!r} names {name!r} twice: keep one")
    return names


def read_targets(
    rows: Mapping[str, Rows],
    names: Sequence[str],
    asked: Asked,
    spec: str,
    order: Sequence[str] | None = None,
) -> Targets:
    """The targets of all splits.

    Args:
        rows: of each split; ``"train"`` is one.
        names: the columns of targets.
        asked: their options.
        spec: of the data set, for errors.
        order: names of the tags, if the source lists them.

    Raises:
        IceprobeError: for an option that doesn't fit, values of the wrong kind with their row, and
            values that may be several things.
    """
    columns = [Target(name, rows) for name in names]
    if asked.separator == "":
        raise IceprobeError(
            f"option separator= of {spec!r} is empty: give the text between two tags"
        )
    shown = ", ".join(repr(name) for name in names[:3]) + (" …" if len(names) > 3 else "")
    if len(columns) > 1 and asked.separator is not None:
        raise IceprobeError(
            f"option separator={asked.separator!r} of {spec!r} is for one column of lists, and "
            f"target= names {len(columns)}: drop it, or name one"
        )
    task, reason = task_of(columns, asked.separator, asked.task)
    columns = _taken_apart(columns, asked, task)
    made, labels, assumed = _read(columns, asked, task, order, spec)
    said = [] if asked.task else [f"target {shown} holds {reason}: {task} {OTHERWISE}"]
    return Targets(task, made, labels, units_of(asked, task, made, spec), said + assumed)


def read_further(
    rows: Mapping[str, Rows], asked: Asked, slices: Sequence[str] = ()
) -> tuple[dict[str, dict[str, Column]], list[str]]:
    """Groups, folds and slices of each split, and assumptions.

    Raises:
        IceprobeError: naming the row of an example without a fold, or of a list.
    """
    found: dict[str, dict[str, Column]] = {split: {} for split in rows}
    assumed = []
    for name in dict.fromkeys([*asked.further, *slices]):
        values = names_of({split: one.values[name] for split, one in rows.items()})
        if all(value is None for given in values.values() for value in given):
            raise IceprobeError(f"column {name!r} is empty in every row: name another")
        missing = [(s, i) for s, given in values.items() for i, v in enumerate(given) if v is None]
        if missing and name == asked.fold:
            place = rows[missing[0][0]].place(missing[0][1])
            raise IceprobeError(
                f"{place} has no fold in column {name!r} ({len(missing):,} such rows): fill it in"
            )
        if name == asked.group:
            assumed += without_group(name, values)
        for split, column in Column.of(values).items():
            found[split][name] = column
        different = {value for given in values.values() for value in given}
        if name == asked.fold and len(different) < 2:
            raise IceprobeError(
                f"column {name!r} has one fold, {min(different, key=str)!r}, in every row: folds= "
                "needs two or more"
            )
    return found, assumed


def without_group(name: str, values: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Lines on examples without a group, and on groups whose names may say that there is none."""
    every = [value for given in values.values() for value in given]
    lines = [
        f"{every.count(word):,} of {len(every):,} examples are of {name} {word!r}, read as one group"
        for word in sorted({v for v in every if v is not None and kind_of(v) == "word"})
    ]
    if missing := every.count(None):
        lines.append(
            f"{missing:,} of {len(every):,} examples have no {name!r}: each is a group of its own"
        )
    return lines


def _taken_apart(columns: list[Target], asked: Asked, task: str) -> list[Target]:
    """Lists of numbers as a column for each place in them."""
    (column, *more) = columns
    if more:
        return columns
    if task == "regression" and asked.separator is not None:
        column = column.separated(asked.separator)
    lists = column.kinds["list"] > 0
    return (
        readings.vectors(column)
        if lists and (task == "regression" or is_multi_hot(column))
        else [column]
    )


def _read(
    columns: Sequence[Target],
    asked: Asked,
    task: str,
    order: Sequence[str] | None,
    spec: str,
) -> Read:
    first, *more = columns
    if task == "regression":
        return readings.numbers(columns)
    if task == "classification":
        return readings.one_hot(columns) if more else readings.classes(first, spec)
    if more or not (first.kinds["list"] or asked.separator is not None):
        return readings.flags(columns)
    return readings.tags(first, asked.separator, order)


def units_of(asked: Asked, task: str, names: Sequence[str], spec: str) -> list[str]:
    """The units of the numbers called ``names``; empty where none were given.

    Raises:
        IceprobeError: for units of what are no numbers, or as many as don't fit.
    """
    if asked.unit is None:
        return []
    if task != "regression":
        raise IceprobeError(
            f"option unit={asked.unit!r} of {spec!r} is for numbers, not {task}: drop it"
        )
    units = [unit.strip() for unit in asked.unit.split(",")]
    if len(units) not in (1, len(names)):
        raise IceprobeError(
            f"option unit={asked.unit!r} of {spec!r} has {len(units)} units for {len(names)} numbers: "
            "give one, or one for each"
        )
    return units * len(names) if len(units) == 1 else units
