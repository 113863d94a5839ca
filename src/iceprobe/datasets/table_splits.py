"""Which rows of a table are train and which are test: by a column, or by a table of its own."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import shown
from iceprobe.datasets.base import Column
from iceprobe.datasets.cells import Rows, class_name, kind_of, plain
from iceprobe.datasets.columns import AskedSplits, Targets
from iceprobe.datasets.layout import role_of
from iceprobe.datasets.table_files import TableFile, open_table
from iceprobe.machine.object_storage import located
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.stratified import alone, heldout_split
from iceprobe.tasks.targets import some

A = TypeVar("A", bound=AskedSplits)

USUAL = ("split", "set", "subset", "partition", "phase")  # names of columns of splits


def with_split(asked: A, table: TableFile, used: Collection[str], spec: str) -> tuple[A, list[str]]:
    """The options with the column of splits, if it is found by its name, and a line on that.

    Args:
        used: columns that are something else.

    Raises:
        IceprobeError: for options that exclude each other, and for a table without a test split.
    """
    drawn = asked.test_fraction is not None
    if drawn and (asked.split is not None or asked.test is not None):
        raise IceprobeError(
            f"{spec!r}: test_fraction= is for a table without a split: drop it, or split= and test="
        )
    if asked.seed is not None and not drawn:
        raise IceprobeError(f"option seed={asked.seed} of {spec!r} is of test_fraction=: add it")
    found = _find(table, used) if asked.split is None else None
    if asked.train is not None and asked.split is None:
        raise IceprobeError(
            f"option train={asked.train!r} of {spec!r} is a value of a column: name that as "
            f"split={found or 'COLUMN'}"
        )
    if asked.split is not None or asked.test is not None or drawn:
        return asked, []
    if asked.fold is not None:
        more = f"; column {found!r} isn't read (split={found} keeps its test rows apart)"
        line = f"every row is in train, in the folds of {asked.fold!r}"
        return asked, [line + (more if found else "")]
    if found is None:
        raise IceprobeError(
            f"{spec!r} has no test split: name a column of splits as split=COLUMN, another table as "
            "test=FILE, a column of folds as fold=COLUMN, or draw one, test_fraction=0.2; all rows are a test "
            "set for a run on another, with test_fraction=1"
        )
    line = f"{table.place.name}: column {found!r} says which rows are test (split= names another)"
    return replace(asked, split=found), [line]


def test_table(test: str, first: TableFile, delimiter: str | None) -> TableFile:
    """The table of the test split.

    Raises:
        IceprobeError: if it isn't there; says what else ``test`` may be.
    """
    place, beside = located(test), first.place.parent / test
    if not place.is_file() and beside.is_file():
        raise IceprobeError(f"no table {test!r} here: pass test={beside}")
    if not place.is_file() and (column := _find(first, ())):
        raise IceprobeError(
            f"no table {test!r}: pass split={column} as well, if it is a value of that column"
        )
    return open_table(test, delimiter)


def _find(table: TableFile, used: Collection[str]) -> str | None:
    """A column that is called as one of splits is, and holds words for them."""
    for name in table.columns:
        if name.casefold() in USUAL and name not in used:
            values = {plain(value) for value in table.read([name]).values[name]}
            if all(isinstance(value, str) and role_of(value) for value in values):
                return name
    return None


def rows_of_splits(
    rows: Rows, column: str, train: str | None, test: str | None, spec: str
) -> tuple[dict[str, list[int]], list[str]]:
    """Indices of the rows of train and of test, and a line on the choice unless it was asked for.

    Args:
        column: of the splits.
        train, test: its values for them, several with commas; by default words for them
            (`layout.WORDS`), test before val.

    Raises:
        IceprobeError: naming a row whose split isn't known, or a split without rows.
    """
    values = []
    for row, cell in enumerate(rows.values[column]):
        given = plain(cell)
        if kind_of(given) in ("empty", "unknown", "list", "other"):
            raise IceprobeError(
                f"{rows.place(row)}: {shown(given)} in column {column!r} is no split: write train or "
                "test"
            )
        values.append(class_name(given))
    there = Counter(values)
    roles = {value: role_of(value) for value in there}
    chosen = {
        "train": _values(train, "train", there, spec)
        or [value for value, role in roles.items() if role == "train"],
        "test": _values(test, "test", there, spec)
        or [value for value, role in roles.items() if role == "test"]
        or [value for value, role in roles.items() if role == "val"],
    }
    if both := set(chosen["train"]) & set(chosen["test"]):
        raise IceprobeError(f"train and test of {spec!r} are both {min(both)!r}: name two values")
    asked = train is not None and test is not None
    strange = [value for value, role in roles.items() if role is None]
    strange = [v for v in strange if v not in chosen["train"] + chosen["test"]]
    if strange and not asked:
        row = values.index(strange[0])
        raise IceprobeError(
            f"{rows.place(row)}: {shown(strange[0])} in column {column!r} is no word for a split (there "
            f"are {some(sorted(there), 6)}): pass train= and test=, the values of each"
        )
    for split, named in chosen.items():
        if not named:
            raise IceprobeError(
                f"column {column!r} of {spec!r} has no row of {split} (there are "
                f"{some(sorted(there), 6)}): pass {split}=VALUE, or test_fraction=0.2 without split="
            )
    unread = {v: n for v, n in there.items() if v not in chosen["train"] + chosen["test"]}
    found = {
        split: [row for row, value in enumerate(values) if value in set(named)]
        for split, named in chosen.items()
    }
    usual = (chosen["train"], chosen["test"]) == (["train"], ["test"])
    if usual and not unread:
        return found, []
    line = f"column {column!r}: {_said(chosen['train'])} is read as train and {_said(chosen['test'])} as test"
    left = ", ".join(f"{value!r} ({n:,} rows)" for value, n in sorted(unread.items())[:5])
    return found, [f"{line}; {left} left unread" if unread else line]


def divided(
    rows: Mapping[str, Rows],
    targets: Targets,
    columns: Mapping[str, Mapping[str, Column]],
    asked: AskedSplits,
    spec: str,
) -> tuple[dict[str, tuple[str, np.ndarray]], list[str]]:
    """Of each split whose rows it has and which, and a line if they are drawn at random."""
    if (fraction := asked.test_fraction) is None:
        return {split: (split, np.arange(len(one))) for split, one in rows.items()}, []
    if not 0 < fraction <= 1:
        raise IceprobeError(f"option test_fraction={fraction} of {spec!r}: take one inside (0, 1]")
    labels, seed = targets.labels["train"], asked.seed or 0
    if fraction == 1:  # a set to read a run on
        line = f"all {len(labels):,} rows are the test split (test_fraction=1)"
        return {"test": ("train", np.arange(len(labels)))}, [line]
    group = columns["train"][asked.group] if asked.group else None
    codes = None if group is None else alone(group.codes)
    train, test = heldout_split(get_task(targets.task).strata(labels), seed, fraction, codes)
    if not len(test):
        raise IceprobeError(
            f"test_fraction={fraction:g} leaves no test split: of {len(labels)} rows no "
            f"{'row' if group is None else 'group'} can be taken that train doesn't need; add rows, or "
            "name a split="
        )
    whole = "" if group is None else f", with whole groups of {asked.group!r}"
    line = (
        f"{len(test):,} of {len(labels):,} rows are the test split, drawn at random and stratified"
        f"{whole} (test_fraction={fraction:g}, seed={seed})"
    )
    return {"train": ("train", train), "test": ("train", test)}, [line]


def _values(text: str | None, option: str, there: Counter[str], spec: str) -> list[str]:
    if text is None:
        return []
    named = [text] if text in there else [value.strip() for value in text.split(",")]
    for value in named:
        if value not in there:
            raise IceprobeError(
                f"{unknown(f'value of {option}= of the split column', value, there)}"
            )
    return named


def _said(values: Sequence[str]) -> str:
    return " and ".join(map(repr, values))
