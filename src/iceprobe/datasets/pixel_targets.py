"""Rows of a table whose pixels have the targets, in depth maps, → arguments of splits and of their data set."""

from collections.abc import Mapping, Sequence

import numpy as np

from iceprobe.datasets.cells import Rows
from iceprobe.datasets.columns import Targets, units_of
from iceprobe.datasets.table_columns import TableOptions


def of_pixels(
    rows: Mapping[str, Rows],
    maps: Mapping[str, Sequence[str | None]],
    asked: TableOptions,
    spec: str,
) -> Targets:
    """Labels that say nothing, and what is assumed of the maps.

    Args:
        rows: of each split.
        maps: a file a row; ``None`` for a row without.
        asked: options of the table.
        spec: of the data set, for errors.

    Raises:
        IceprobeError: for several units.
    """
    assumed = [
        f"depth maps in column {asked.depth!r}: pixels of 0, below 0, NaN or infinite aren't known"
    ]
    if asked.depth_scale is None:
        assumed.append("numbers of depth maps are read as they are (depth_scale= multiplies them)")
    total = sum(map(len, maps.values()))
    if missing := sum(name is None for names in maps.values() for name in names):
        assumed.append(
            f"{missing:,} of {total:,} rows have no depth map: none of their pixels is known"
        )
    labels = {split: np.zeros(len(one), np.int64) for split, one in rows.items()}
    units = units_of(asked, "regression", ["depth"], spec)
    return Targets("depth", ["depth"], labels, units, assumed)
