"""Examples of files and rows of a table: which belong together, by their names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import counted, shown
from iceprobe.datasets.cells import Rows, class_name, kind_of, plain
from iceprobe.datasets.feature_files.examples import Examples
from iceprobe.datasets.table_files import TableFile


@dataclass(frozen=True)
class Joined:
    """Examples with their rows of a table.

    Attributes:
        rows: ``(n,)`` of the examples.
        listed: ``(n,)`` of the table.
    """

    examples: Examples
    table: TableFile
    rows: np.ndarray
    listed: np.ndarray

    def read(self, columns: Sequence[str]) -> Rows:
        return self.table.read(columns).take(self.listed.tolist())

    def take(self, chosen: Sequence[int]) -> "Joined":
        picked = np.asarray(chosen, np.int64)
        return replace(self, rows=self.rows[picked], listed=self.listed[picked])


def joined(
    sources: Mapping[str, Examples], tables: Mapping[str, TableFile], name: str | None, skip: bool
) -> tuple[dict[str, Joined], list[str]]:
    """The examples of each source with their rows.

    Args:
        sources: examples by split.
        tables: of each, perhaps the same.
        name: the tables' column of names; without one rows and examples are in one order.
        skip: whether rows without tokens are left out.

    Raises:
        IceprobeError: for a name that is there twice, with and without its ending too, or on one side
            alone.
    """
    check_names(sources)
    if name is None or not all(one.names is not None for one in sources.values()):
        return _in_order(sources, tables, name)
    found, assumed = {}, []
    for table in {id(one): one for one in tables.values()}.values():
        mine = {split: sources[split] for split, one in tables.items() if one is table}
        cells = table.read([name])
        listed, where = names_in(cells, name), cells.place
        place = {
            n: (split, row) for split, one in mine.items() for row, n in enumerate(one.names or ())
        }
        ending = Counter[str]()
        matched: dict[str, list[tuple[int, int]]] = {split: [] for split in mine}
        row_of: dict[str, int] = {}
        missing = []
        for row, given in enumerate(listed):
            known = given if given in place else stem(given)
            if known not in place:
                missing.append(row)
                continue
            if known in row_of:
                raise IceprobeError(
                    f"{where(row)} and {where(row_of[known])}: {shown(given)} and "
                    f"{shown(listed[row_of[known]])} both name the tokens {shown(known)}: keep one row an "
                    "example"
                )
            row_of[known] = row
            split, example = place[known]
            matched[split].append((example, row))
            if known != given:
                ending[given.removeprefix(known) or given] += 1
        if missing and not skip:
            raise IceprobeError(
                f"{where(missing[0])}: no tokens of {shown(listed[missing[0]])} in "
                f"{', '.join(repr(one.where(0)) for one in mine.values())} and the others "
                f"({counted(len(missing), 'such row')} of {len(listed):,}): extract them, take the rows out, or "
                "pass missing=skip"
            )
        if missing:
            assumed.append(
                f"{counted(len(missing), 'row')} of {len(listed):,} have no tokens and are left out "
                f"({where(missing[0])}, {shown(listed[missing[0]])}, first)"
            )
        if ending:
            first = next(iter(ending))
            assumed.append(
                f"names of {table.place.name} are read without their ending ({shown(first)})"
            )
        for split, pairs in matched.items():
            found[split], lines = _with_rows(sources[split], table, sorted(pairs), split)
            assumed += lines
    return {split: found[split] for split in sources}, assumed


def check_names(sources: Mapping[str, Examples]) -> None:
    """Refuse two examples of one name."""
    seen: dict[str, tuple[Examples, int]] = {}
    for examples in sources.values():
        for row, name in enumerate(examples.names or ()):
            if name in seen:
                other, before = seen[name]
                raise IceprobeError(
                    f"{examples.where(row)} and {other.where(before)} are both of {shown(name)}: keep one "
                    "example of each name"
                )
            seen[name] = examples, row


def names_in(rows: Rows, column: str) -> list[str]:
    """The names in a column, each there once.

    Raises:
        IceprobeError: naming the row of one that is empty, or there twice.
    """
    found: dict[str, int] = {}
    for row, value in enumerate(rows.values[column]):
        given = plain(value)
        if kind_of(given) in ("empty", "unknown", "list", "other"):
            raise IceprobeError(f"{rows.place(row)} has no name in column {column!r}: fill it in")
        text = class_name(given)
        if text in found:
            raise IceprobeError(
                f"{rows.place(row)} and {rows.place(found[text])} are both of {shown(text)}: keep one row an "
                "example"
            )
        found[text] = row
    return list(found)


def stem(name: str) -> str:
    """``slide_1`` of ``slides/slide_1.svs``."""
    return PurePath(name).stem


def _in_order(
    sources: Mapping[str, Examples], tables: Mapping[str, TableFile], name: str | None
) -> tuple[dict[str, Joined], list[str]]:
    """Row by row: arrays of the same file, or a table of as many rows."""
    found, assumed = {}, []
    for split, examples in sources.items():
        table = tables[split]
        own = table.place in examples.states
        if not own and name is None and examples.names is not None:
            raise IceprobeError(
                f"{table.place.name!r} has no column of names, and examples are named "
                f"({shown(examples.names[0])} first): pass name=COLUMN (there are {', '.join(table.columns)})"
            )
        if len(table) != len(examples):
            raise IceprobeError(
                f"{table.place.name!r} has {len(table):,} rows, and there are {len(examples):,} examples in "
                f"{split} ({examples.where(0)} first): give a row an example"
            )
        if not own:
            order = (
                "" if name is None else f"; column {name!r} names no arrays, which have no names"
            )
            assumed.append(
                f"row for row, {table.place.name} is of the examples of {split} in their order{order}"
            )
        rows = np.arange(len(examples))
        found[split] = Joined(examples, table, rows, rows)
    return found, assumed


def _with_rows(
    examples: Examples, table: TableFile, pairs: Sequence[tuple[int, int]], split: str
) -> tuple[Joined, list[str]]:
    """Examples and their rows, in the order of the files."""
    if not pairs:
        raise IceprobeError(
            f"no row of {table.place.name!r} names an example of {split} ({examples.where(0)} first): pass "
            "name=COLUMN, the column with their names"
        )
    rows, listed = (np.array(one, np.int64) for one in zip(*pairs, strict=True))
    lines = []
    if left := len(examples) - len(rows):
        row = int(np.setdiff1d(np.arange(len(examples)), rows)[0])
        lines = [
            f"{left:,} of {len(examples):,} examples have no row in {table.place.name} and are left out "
            f"({examples.where(row)} first)"
        ]
    return Joined(examples, table, rows, listed), lines
