"""Where the images, videos or recordings of a table's rows are; rows that repeat one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.base import Split
from iceprobe.datasets.cells import Rows, plain
from iceprobe.datasets.listed_files import file_names
from iceprobe.datasets.table_columns import TableColumns, TableOptions, holds_bytes
from iceprobe.datasets.table_files import TableFile
from iceprobe.datasets.table_images import (
    CellSplit,
    DepthFiles,
    DepthListedSplit,
    ListedSplit,
    SoundListedSplit,
    VideoListedSplit,
)
from iceprobe.datasets.walking import AnyPath
from iceprobe.machine.object_storage import located

#: The splits of files by the option that names their column.
_LISTED = {"image": ListedSplit, "video": VideoListedSplit, "sound": SoundListedSplit}


@dataclass(frozen=True)
class TableImages:
    """Where the images of the rows are.

    Attributes:
        names: of files, of each split; empty for bytes.
        masks, depths: of files, likewise.
        index: the rows in their file.
    """

    asked: TableOptions
    tables: Mapping[str, TableFile]
    column: str
    root: AnyPath
    mask_root: AnyPath
    depth_root: AnyPath
    names: dict[str, list[str | None]]
    masks: dict[str, list[str | None]]
    depths: dict[str, list[str | None]]
    index: dict[str, list[int]]

    @classmethod
    def of(
        cls,
        rows: Mapping[str, Rows],
        index: dict[str, list[int]],
        tables: Mapping[str, TableFile],
        use: TableColumns,
        asked: TableOptions,
    ) -> "TableImages":
        here = tables["train"].place.parent
        root = _folder(asked.images, "images", here)
        mask_root = root if asked.masks is None else _folder(asked.masks, "masks", here)
        depth_root = root if asked.depths is None else _folder(asked.depths, "depths", here)
        in_cells = [holds_bytes(one, use.image) for one in tables.values()]
        if any(in_cells) and not all(in_cells):
            raise IceprobeError(
                f"column {use.image!r} holds bytes in one table only: write both alike"
            )
        if any(in_cells) and asked.shown != "image":
            raise IceprobeError(
                f"column {use.image!r} holds bytes: each {asked.shown} is read from a file, write its path"
            )
        if any(in_cells) and (asked.images or asked.suffix or asked.mask or asked.depth):
            raise IceprobeError(
                f"column {use.image!r} holds the images themselves: drop images=, suffix=, mask= and "
                "depth="
            )
        names = {}
        if not any(in_cells):
            names = file_names(rows, use.image, root, suffix=asked.suffix, what=asked.shown)
        masks = file_names(rows, asked.mask, mask_root, what="mask") if asked.mask else {}
        depths = file_names(rows, asked.depth, depth_root, what="depth") if asked.depth else {}
        return cls(
            asked, tables, use.image, root, mask_root, depth_root, names, masks, depths, index
        )

    def without_repeated(
        self, rows: Mapping[str, Rows], use: TableColumns
    ) -> tuple[dict[str, Rows], list[str]]:
        """The rows, and a line if some repeat another; they are left out.

        Raises:
            IceprobeError: if an image is there twice with other values, or in train and in test.
        """
        seen: dict[str, tuple[str, int]] = {}
        repeated: list[tuple[str, int, int]] = []
        for split, names in self.names.items():
            for row, name in enumerate(names):
                before, first = seen.setdefault(str(name), (split, row))
                if (before, first) == (split, row):
                    continue
                where = f"{rows[split].place(row)} and {rows[before].place(first)}"
                if before != split:
                    raise IceprobeError(
                        f"{where}: {self.asked.shown} {shown(name)} is in {split} and in {before}: keep it in one"
                    )
                for column in use.decided:
                    one, other = (plain(rows[split].values[column][i]) for i in (first, row))
                    if one != other:
                        raise IceprobeError(
                            f"{where}: {self.asked.shown} {shown(name)} is there twice, with {shown(one)} and "
                            f"{shown(other)} in column {column!r}: keep one row of each (several tags "
                            "in one cell, a;b, with separator=;)"
                        )
                repeated.append((split, row, first))
        if not repeated:
            return dict(rows), []
        out = {(split, row) for split, row, _ in repeated}
        kept = {s: [i for i in range(len(one)) if (s, i) not in out] for s, one in rows.items()}
        for split, chosen in kept.items():
            for held in (self.names, self.masks, self.depths):
                if held:
                    held[split] = [held[split][i] for i in chosen]
            self.index[split] = [self.index[split][i] for i in chosen]
        split, row, first = repeated[0]
        what = "an image" if self.asked.shown == "image" else f"a {self.asked.shown}"
        line = (
            f"{len(repeated):,} rows repeat {what} and all of its values, and are left out "
            f"({rows[split].place(row)} first, as {rows[split].place(first)})"
        )
        return {split: rows[split].take(chosen) for split, chosen in kept.items()}, [line]

    def split(self, name: str, source: str, chosen: np.ndarray, **more: Any) -> Split:
        """The split called ``name`` of the ``chosen`` rows of ``source``."""
        if not self.names:
            index = [self.index[source][row] for row in chosen]
            return CellSplit(name, self.tables[source].place, self.column, index, **more)
        masks = [self.masks[source][row] for row in chosen] if self.masks else None
        names = [str(self.names[source][row]) for row in chosen]
        if self.depths:
            found = [self.depths[source][row] for row in chosen]
            maps = DepthFiles(self.depth_root, found, self.asked.depth_scale or 1.0)
            return DepthListedSplit(name, self.root, names, maps=maps, **more)
        listed = _LISTED[self.asked.shown]
        return listed(name, self.root, names, mask_root=self.mask_root, mask_names=masks, **more)


def _folder(given: str | None, option: str, default: AnyPath) -> AnyPath:
    if given is None:
        return default
    place = located(given)
    place = place.expanduser() if isinstance(place, Path) else place
    if not place.is_dir():
        raise IceprobeError(f"option {option}={given!r}: no such folder")
    return place
