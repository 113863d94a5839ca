"""``bags:TABLE?example=COLUMN&image=COLUMN``: rows of a table are images, and an example is a bag of them.

The columns are those of ``table:``; the target, the split, groups and slices are the example's, so that they
are alike in all of its rows.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.base import Split
from iceprobe.datasets.cells import Rows, class_name, kind_of, number, plain
from iceprobe.datasets.folder import unlabelled
from iceprobe.datasets.pixels import Reading, Seen, note, seen

if TYPE_CHECKING:
    from iceprobe.datasets.table_files import TableFile
    from iceprobe.datasets.table_rows import TableImages


class Bag:
    """The images of one example, each decoded when it is asked for.

    Attributes:
        coords: ``(L, 2)`` float32, y and x of each, in the table's unit; ``None`` if nothing says it.
        info: what was done to them (`iceprobe.datasets.pixels.seen`).
    """

    def __init__(self, tiles: Split, rows: range, coords: np.ndarray | None = None):
        self._tiles, self._rows, self.coords = tiles, rows, coords
        self.info: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, place: int) -> Image.Image:
        """One of them. Raises as `Split.image`."""
        image = self._tiles.image(self._rows[place])
        one, before = seen(image), seen(self)
        largest = [value for value in (one.largest, before.largest) if value is not None]
        note(
            self, Seen(tuple(dict.fromkeys([*before.done, *one.done])), max(largest, default=None))
        )
        return image


class BagSplit(Split):
    """Bags of images, which are the rows of another split, one bag after the other.

    Args:
        tiles: all images.
        counts: how many each bag has.
        outputs: names of the K outputs.
        coords: ``(Σ counts, 2)`` float32, y and x of each image; ``None`` if nothing says it.
    """

    kind = "bag"

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        tiles: Split,
        counts: Sequence[int],
        *,
        outputs: Sequence[str],
        coords: np.ndarray | None = None,
        **more: Any,
    ):
        super().__init__(name, names=names, **more)
        self.tiles, self.outputs, self._coords = tiles, list(outputs), coords
        self.coords = 0 if coords is None else 2
        self._starts = np.cumsum([0, *counts]).tolist()

    @property
    def reading(self) -> Reading | None:
        return self.tiles.reading

    @reading.setter
    def reading(self, reading: Reading | None) -> None:
        self.tiles.reading = reading

    @property
    def parts(self) -> np.ndarray:
        return np.diff(self._starts)

    def example(self, index: int) -> Bag:
        rows = range(self._starts[index], self._starts[index + 1])
        coords = None if self._coords is None else self._coords[rows.start : rows.stop]
        return Bag(self.tiles, rows, coords)

    def image(self, index: int) -> Image.Image:
        """The first image of a bag."""
        return self.tiles.image(self._starts[index])

    def fingerprint(self) -> str:
        what = [
            self.tiles.fingerprint(),
            self._starts,
            self.labels.tolist(),
            self.task,
            self.outputs,
        ]
        if self._coords is not None:
            what.append(self._coords.tolist())
        return hashlib.sha256(json.dumps([*what, self.names]).encode()).hexdigest()


def bags_below(folder: str | Path) -> BagSplit:
    """The folders in ``folder``, each a bag of the images that lie directly in it; all labels are −1.

    Raises:
        IceprobeError: as of `unlabelled`, and if an image lies elsewhere.
    """
    tiles = unlabelled(folder)
    for name in tiles.names:
        if name.count(os.sep) != 1:
            raise IceprobeError(
                f"image {name!r} isn't directly inside one of the folders in {str(folder)!r}, each of which is a "
                "bag: move it into its bag's"
            )
    counts = Counter(os.path.dirname(name) for name in tiles.names)  # paths are sorted
    labels = np.full(len(counts), -1)
    return BagSplit("bags", list(counts), tiles, list(counts.values()), outputs=[], labels=labels)


@dataclass(frozen=True)
class Bags:
    """Which rows of a table are whose.

    Attributes:
        images: of all rows.
        names: of the examples of each split, in the order of their first rows.
        members: the rows of each.
        coords: y and x of all rows of each split, ``(n, 2)``; empty if nothing says it.
    """

    images: "TableImages"
    names: Mapping[str, Sequence[str]]
    members: Mapping[str, Sequence[Sequence[int]]]
    coords: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls,
        rows: Mapping[str, Rows],
        images: "TableImages",
        column: str,
        decided: Sequence[str],
        places: tuple[str | None, str | None] = (None, None),
    ) -> "tuple[dict[str, Rows], Bags]":
        """The rows of the examples, the first of each, and their bags.

        Args:
            rows: of images, of each split.
            images: of all rows.
            column: that names the example.
            decided: the columns that are an example's.
            places: the columns of y and x.

        Raises:
            IceprobeError: for a row without example or place, an example in two splits, or with two values.
        """
        found: dict[str, tuple[str, list[int]]] = {}
        for split, one in rows.items():
            for row in range(len(one)):
                cell = plain(one.values[column][row])
                if kind_of(cell) in ("empty", "unknown", "list", "other"):
                    raise IceprobeError(
                        f"{one.place(row)} names no example in column {column!r}: fill it in, or remove "
                        "the row"
                    )
                home, members = found.setdefault(class_name(cell), (split, []))
                if members:
                    _check_alike(rows, (home, members[0]), (split, row), class_name(cell), decided)
                members.append(row)
        names = {split: [n for n, (home, _) in found.items() if home == split] for split in rows}
        whose = {split: [found[name][1] for name in names[split]] for split in rows}
        firsts = {s: one.take([each[0] for each in whose[s]]) for s, one in rows.items()}
        y, x = places
        coords = (
            {} if y is None or x is None else {s: _places(one, y, x) for s, one in rows.items()}
        )
        return firsts, cls(images, names, whose, coords)

    @property
    def tables(self) -> "Mapping[str, TableFile]":
        return self.images.tables

    @property
    def depths(self) -> "dict[str, list[str | None]]":
        return self.images.depths

    def split(self, name: str, source: str, chosen: np.ndarray, **more: Any) -> BagSplit:
        """The split called ``name`` of the ``chosen`` examples of ``source``."""
        members = [self.members[source][row] for row in chosen]
        rows = np.array([row for each in members for row in each], np.int64)
        tiles = self.images.split(
            name, source, rows, outputs=more["outputs"], labels=np.zeros(len(rows), np.int64)
        )
        names = [self.names[source][row] for row in chosen]
        coords = self.coords[source][rows] if self.coords else None
        counts = [len(each) for each in members]
        return BagSplit(name, names, tiles, counts, coords=coords, **more)


def _places(rows: Rows, y: str, x: str) -> np.ndarray:
    """y and x of every row, ``(n, 2)`` float32."""
    found = np.empty((len(rows), 2), np.float32)
    for place, column in enumerate((y, x)):
        for row, cell in enumerate(rows.values[column]):
            value = number(plain(cell))
            if value is None or not math.isfinite(value):
                raise IceprobeError(
                    f"{rows.place(row)}: {shown(plain(cell))} in column {column!r} isn't where an image lies: "
                    f"write a number, or leave x= and y= out"
                )
            found[row, place] = value
    return found


def _check_alike(
    rows: Mapping[str, Rows],
    first: tuple[str, int],
    again: tuple[str, int],
    name: str,
    decided: Sequence[str],
) -> None:
    places = [rows[split].place(row) for split, row in (again, first)]
    if first[0] != again[0]:
        raise IceprobeError(
            f"{places[0]} and {places[1]}: example {shown(name)} is in {again[0]} and in {first[0]}: keep "
            "all of its rows in one"
        )
    for column in decided:
        one, other = (plain(rows[split].values[column][row]) for split, row in (first, again))
        if one != other:
            raise IceprobeError(
                f"{places[0]} and {places[1]}: example {shown(name)} has {shown(other)} and {shown(one)} "
                f"in column {column!r}: an example has one value, write it in all of its rows"
            )
