"""Lists of the names in train, val and test, as CLAM writes them (``create_splits_seq.py``).

,train,val,test              ,train,val,test
0,slide_4,slide_9,slide_2    slide_4,True,False,False
1,slide_7,,                  slide_9,False,True,False
"""

from collections.abc import Mapping

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import counted, shown
from iceprobe.datasets.cells import plain
from iceprobe.datasets.feature_files.examples import Examples
from iceprobe.datasets.feature_files.joining import stem
from iceprobe.datasets.layout import role_of
from iceprobe.datasets.table_files import DelimitedTable, open_table

_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def split_lists(
    file: str, examples: Examples, rows: np.ndarray
) -> tuple[list[str], list[int], list[str]]:
    """The split of each example that the file lists, which of ``rows`` these are, and assumptions.

    Raises:
        IceprobeError: for a name without tokens or row, or one that is in two splits.
    """
    table = open_table(file)
    if not isinstance(table, DelimitedTable):
        raise IceprobeError(
            f"splits={file!r}: give a CSV file with the columns train, val and test"
        )
    listed = _listed(table)
    if examples.names is None:
        raise IceprobeError(
            f"splits={file!r} lists names, and the tokens have none: name the examples"
        )
    place = {examples.names[row]: number for number, row in enumerate(rows)}
    found: dict[int, str] = {}
    for name, split in listed.items():
        known = name if name in place else stem(name)
        if known not in place:
            raise IceprobeError(
                f"{shown(name)} in column {split!r} of {table.place.name!r} has no tokens, or no row in the "
                f"table ({len(rows):,} examples have both): extract it, or take it out of the lists"
            )
        if found.setdefault(place[known], split) != split:
            raise IceprobeError(
                f"{shown(known)} is in {found[place[known]]!r} and in {split!r} of {table.place.name!r}: keep it "
                "in one"
            )
    chosen = sorted(found)
    lines = []
    if left := len(rows) - len(chosen):
        lines = [
            f"{counted(left, 'example')} of {len(rows):,} are in no list of {table.place.name}"
        ]
    return [found[number] for number in chosen], chosen, lines


def _listed(table: DelimitedTable) -> Mapping[str, str]:
    """The split of each name."""
    columns = [name for name in table.columns if role_of(name)]
    if "train" not in map(role_of, columns):
        raise IceprobeError(
            f"splits={str(table.place)!r} has no column train (there are {', '.join(table.columns)}): give "
            "columns train, val and test, of names or of True and False"
        )
    cells = table.read(columns)
    flags = {
        str(plain(value)).casefold()
        for column in columns
        for value in cells.values[column]
        if value
    } <= set(_FLAGS)
    found: dict[str, str] = {}
    for row in range(len(table)):
        for column in columns:
            value = str(cells.values[column][row])
            if flags:
                value = table.rows[row][0].strip() if _FLAGS.get(value.casefold()) else ""
            if not value:
                continue
            if value in found:
                raise IceprobeError(
                    f"{cells.place(row)}: {shown(value)} is in {column!r} and in {found[value]!r}: keep it in one"
                )
            found[value] = column
    return found
