"""Columns of targets → the arrays that a task works with; what doesn't fit is named by its row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.cells import (
    UNKNOWN,
    Target,
    class_name,
    kind_of,
    looks_like_a_list,
    number,
)
from iceprobe.datasets.labels import by_number, negative_numbers, numbered
from iceprobe.tasks.targets import UNKNOWN as NOT_KNOWN
from iceprobe.tasks.targets import some

Arrays = dict[str, np.ndarray]  # of each split
Read = tuple[list[str], Arrays, list[str]]  # names of outputs, targets, assumptions

NO_NUMBER = "is no number: mend it, or leave the cell empty where it isn't known"


def classes(target: Target, spec: str) -> Read:
    """One class a row: ``(n,)`` int64."""
    missing = ["empty", "unknown"] + ["word"] * (target.numbers > 0 and not target.texts)
    target.refuse_kind("says no class: fill it in, or remove the row", *missing)
    target.refuse_kind("is no class: name a column of text or whole numbers", "list", "other")
    if not target.texts:
        target.refuse(
            lambda value: kind_of(value) == "decimal" and (number(value) or 0.0) % 1 != 0,
            "is no class: name a column of text or whole numbers, or pass task=regression",
        )
    names, labels = numbered(
        {
            split: [_class(value, target) for value in given]
            for split, given in target.values.items()
        },
        spec,
    )
    words = sorted({value for value in target if kind_of(value) == "word"})
    assumed = [f"target {target.name!r}: {word!r} is read as a class of its own" for word in words]
    return names, labels, assumed + negative_numbers(names, spec)


def one_hot(columns: Sequence[Target]) -> Read:
    """One class a row from a column of 0 and 1 a class: ``(n,)`` int64."""
    names, cells, _ = flags(columns)
    for split, given in cells.items():
        for row in np.flatnonzero(((given == 1).sum(1) != 1) | (given == NOT_KNOWN).any(1)):
            having = [names[k] for k in np.flatnonzero(given[row] == 1).tolist()]
            raise IceprobeError(
                f"{columns[0].place(split, int(row))}: a class is 1 in one column and 0 in the others, here it "
                f"is {some(having) or 'in none'}: mend the row, or pass task=multilabel"
            )
    return names, {split: given.argmax(1) for split, given in cells.items()}, []


def tags(target: Target, separator: str | None, order: Sequence[str] | None = None) -> Read:
    """A set of tags a row, from lists or from text with a ``separator``: ``(n, K)`` uint8.

    An empty cell is the empty set; ``?``, ``nan`` and null leave every tag of the row unknown.

    Args:
        order: names of the tags, if they are listed elsewhere; by default they are sorted.
    """
    target.refuse_kind("is no set of tags", "other")
    target.refuse(
        lambda value: isinstance(value, str) and looks_like_a_list(value),
        f"is a list written out: write its tags with {separator or ';'!r} between them and no "
        "brackets, or as a list of JSON lines or Parquet",
    )
    if separator is None:
        target.refuse(
            lambda value: not isinstance(value, list | None) and value != "",
            "is no list of tags: pass separator=, the text between two tags of a cell",
        )
    sets = {
        split: [_set(value, separator) for value in given] for split, given in target.values.items()
    }
    target.refuse(
        lambda value: any(
            tag is None or tag.casefold() in UNKNOWN for tag in _set(value, separator) or ()
        ),
        "has ? among other tags: write ? alone, for a row whose tags aren't known",
    )
    found = {tag for given in sets.values() for one in given if one for tag in one}
    names = by_number(found) if order is None else [tag for tag in order if tag in found]
    if not names:
        raise IceprobeError(f"target {target.name!r} holds no tag in any row: name another column")
    place = {tag: k for k, tag in enumerate(names)}
    arrays: Arrays = {}
    for split, given in sets.items():
        arrays[split] = np.zeros((len(given), len(names)), np.uint8)
        for row, one in enumerate(given):
            arrays[split][row, [place[tag] for tag in one or ()]] = 1
            if one is None:
                arrays[split][row] = NOT_KNOWN
    assumed = []
    every = [one for given in sets.values() for one in given]
    if empty := sum(one is not None and not one for one in every):
        assumed.append(
            f"target {target.name!r}: {empty:,} of {len(every):,} rows are empty, read as no tag "
            "(? says that tags aren't known)"
        )
    if unknown := sum(one is None for one in every):
        assumed.append(
            f"target {target.name!r}: the tags of {unknown:,} of {len(every):,} rows aren't known"
        )
    if order is not None and (unused := [tag for tag in order if tag not in place]):
        assumed.append(
            f"target {target.name!r}: no row has tag {some(unused)}: {len(names)} of {len(order)} "
            "named tags are read"
        )
    return names, arrays, assumed


def flags(columns: Sequence[Target]) -> Read:
    """A column of 0 and 1 a tag: ``(n, K)`` uint8; an empty cell isn't known."""
    for column in columns:
        column.refuse(lambda value: number(value) == -1, (
            "is neither 0 nor 1: write 0, or ? where it isn't known; or pass task=regression"
        ))  # fmt: skip
        column.refuse(
            lambda value: (
                (found := number(value)) is None or (found == found and found not in (0, 1))
            ),
            "is neither 0 nor 1: mend it, or leave the cell empty where it isn't known",
        )
    found = _stacked(columns)
    read = {
        split: np.where(np.isnan(one), NOT_KNOWN, one).astype(np.uint8)
        for split, one in found.items()
    }
    return [column.name for column in columns], read, _unknown(columns, found, "tag")


def numbers(columns: Sequence[Target]) -> Read:
    """A column a number: ``(n, K)`` float64, NaN where it isn't known."""
    for column in columns:
        column.refuse_kind("has a decimal comma: write 3.5 for 3,5", "comma")
        column.refuse(lambda value: number(value) is None, NO_NUMBER)
    found = _stacked(columns)
    return [column.name for column in columns], found, _unknown(columns, found, "number")


def vectors(target: Target) -> list[Target]:
    """A column of lists of one length as a column for each place in them, ``name[0]`` and so on.

    Raises:
        IceprobeError: naming the row of a list of another length.
    """
    length = next(len(value) for value in target if isinstance(value, list))
    target.refuse(
        lambda value: isinstance(value, list) and len(value) != length,
        f"has another length than the first row's list, {length}: give all the same",
    )
    target.refuse(lambda value: not isinstance(value, list | None), "is no list, as others are")
    return [target.at(k) for k in range(length)]


def _class(value: Any, target: Target) -> str:
    """The name of a class; in a column of numbers ``"2.0"`` is 2."""
    if kind_of(value) == "decimal" and not target.texts:
        value = number(value)
    return class_name(value)


def _set(value: Any, separator: str | None) -> list[Any] | None:
    """The tags of a plain value; ``None`` where they aren't known."""
    if value is None or (isinstance(value, str) and value.casefold() in UNKNOWN):
        return None
    if isinstance(value, list):
        return None if value == ["?"] else [_tag(tag) for tag in value if tag != ""]
    parts = str(value).split(separator) if isinstance(value, str) else [class_name(value)]
    return [part.strip() for part in parts if part.strip()]


def _tag(value: Any) -> str | None:
    return None if value is None else class_name(value)


def _stacked(columns: Sequence[Target]) -> Arrays:
    return {
        split: np.array(
            [[number(value) for value in column.values[split]] for column in columns], np.float64
        ).T.reshape(-1, len(columns))
        for split in columns[0].values
    }


def _unknown(columns: Sequence[Target], found: Mapping[str, np.ndarray], what: str) -> list[str]:
    missing = sum(int(np.isnan(one).sum()) for one in found.values())
    if not missing:
        return []
    total = sum(one.size for one in found.values())
    of = some([column.name for column in columns])
    return [f"target {of}: {missing:,} of {total:,} cells hold no {what}: not known, and left out"]
