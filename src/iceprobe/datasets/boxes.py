"""Boxes in a table: four numbers in a cell, or four columns; pixels of the image as stored."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.cells import Rows, kind_of, number, plain

FORMATS = ("xyxy", "xywh")
_SAID = {"xyxy": "x0,y0,x1,y1", "xywh": "x0,y0,width,height"}


def read_boxes(
    rows: Mapping[str, Rows], columns: Sequence[str], layout: str | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """``x0, y0, x1, y1`` of each row ``(n, 4)``, NaN for an empty cell, and a line on the layout.

    Args:
        columns: one whose cells hold four numbers, or four.
        layout: ``"xyxy"`` or ``"xywh"``; by default the first, which is said.

    Raises:
        IceprobeError: naming the row of what is no box.
    """
    asked = layout or "xyxy"
    found = {split: np.full((len(one), 4), np.nan) for split, one in rows.items()}
    for split, one in rows.items():
        for row in range(len(one)):
            cells = [plain(one.values[column][row]) for column in columns]
            four = _numbers(cells, one.place(row))
            if four is not None:
                found[split][row] = _corners(four, asked, layout is None, one.place(row))
    every = np.concatenate(list(found.values()))
    if np.isfinite(every).any() and np.nanmax(every) <= 1:
        raise IceprobeError(
            f"all boxes in {', '.join(columns)} lie within 0 and 1: write them in pixels of the image"
        )
    said = f"boxes of {', '.join(columns)} are {_SAID[asked]} in pixels"
    return found, [] if layout else [f"{said} (box_format=xywh: {_SAID['xywh']})"]


def _numbers(cells: Sequence[Any], place: str) -> list[float] | None:
    """Four numbers; ``None`` if the cells are empty."""
    if all(kind_of(cell) in ("empty", "unknown") for cell in cells):
        return None
    given = cells[0] if len(cells) == 1 else list(cells)
    if isinstance(given, str):
        given = [part for part in re.split(r"[\s,;()\[\]]+", given) if part]
    four = [number(plain(item)) for item in given] if isinstance(given, list) else []
    finite = [value for value in four if value is not None and value == value]
    if len(four) != 4 or len(finite) != 4:
        raise IceprobeError(
            f"{place}: box {shown(given)} is not four numbers: mend it, or leave it empty"
        )
    return finite


def _corners(
    four: Sequence[float], layout: str, assumed: bool, place: str
) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = four
    if layout == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if x1 <= x0 or y1 <= y0 or x0 < 0 or y0 < 0:
        other = f", or pass box_format=xywh if it is {_SAID['xywh']}" if assumed else ""
        raise IceprobeError(
            f"{place}: box {', '.join(f'{value:g}' for value in four)} has no area, or begins outside "
            f"the image, as {_SAID[layout]}: mend it{other}"
        )
    return x0, y0, x1, y1
