"""Examples in the rows of a Parquet file: list columns of numbers, read a group of rows at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.feature_files.arrays import Form, as_tensor, reading
from iceprobe.datasets.feature_files.examples import (
    Examples,
    Read,
    Reading,
    part_form,
    state_of,
    turned,
    widest,
)
from iceprobe.datasets.feature_files.keys import roles_of
from iceprobe.datasets.table_files import open_parquet


class OfParquet(Examples):
    """A row an example: its vector as a list, its tokens as a list of lists."""

    def __init__(self, place: Path, read_as: Reading):
        super().__init__(read_as)
        self.place, self.states = place, {place: state_of(place)}
        file = open_parquet(place)
        metadata = file.metadata
        sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        depths = {field.name: _depth(field.type) for field in file.schema_arrow}
        forms = {
            name: Form((int(metadata.num_rows), *[0] * depth), dtype)
            for name, (depth, dtype) in depths.items()
            if depth
        }
        keys = roles_of(place, forms, read_as.key)
        self.keys: dict[str, str] = {
            part: keys[part] for part in ("features", "prefix", "coords") if part in keys
        }
        self.dtype = widest(forms[key].dtype for part, key in self.keys.items() if part != "coords")
        self._held: dict[str, tuple[int, list[Tensor]]] = {}
        self._measure(len(forms[self.keys["features"]].shape) > 2)
        self.columns = [name for name in depths if name not in self.keys.values()]

    def _measure(self, several: bool) -> None:
        """Lengths and widths of all rows."""
        lengths: list[int] = []
        for group in range(len(self._starts) - 1):
            for row, one in enumerate(self._group("features", group), int(self._starts[group])):
                if not one.numel() or (row and one.shape[-1] != self.dim):
                    raise IceprobeError(
                        f"{self.where(row)} has tokens {tuple(one.shape)}, and the first has the width "
                        f"{self.dim}: give each the same, and no empty ones"
                    )
                self.dim = one.shape[-1]
                lengths.append(len(one) if several else 1)
        if not several:
            return
        self.lengths = np.array(lengths, np.int64)
        for part in [part for part in ("prefix", "coords") if part in self.keys]:
            shape = tuple(self._group(part, 0)[0].shape)
            what = f"{self.place.name!r}, {self.keys[part]!r}"
            self.forms[part] = part_form(
                part, shape[1:] if part == "coords" else shape, self.dim, what
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, part: str, rows: Sequence[int]) -> Read:
        self.check_unchanged([self.place])
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        found = [
            self._group(part, int(group))[int(row - self._starts[group])]
            for row, group in zip(rows, groups, strict=True)
        ]
        if part == "prefix":
            found = [one if one.ndim == 2 else one[None] for one in found]
        for row, one in zip(rows, found, strict=True):
            wanted = self.forms.get(part, (self.dim,))
            if part != "prefix" and self.lengths is not None:
                wanted = (int(self.lengths[row]), *wanted)
            if tuple(one.shape) != wanted:
                raise IceprobeError(
                    f"{self.where(row)}: {self.keys[part]!r} has the shape {tuple(one.shape)}, and its tokens "
                    f"need {wanted}: write both again, together"
                )
        return [turned(one, part, self.reading) for one in found]

    def _group(self, part: str, group: int) -> list[Tensor]:
        """A part of the rows of a group; that of the last group is held."""
        if self._held.get(part, (-1, []))[0] != group:
            with reading(self.place):
                table = open_parquet(self.place).read_row_group(group, columns=[self.keys[part]])
                self._held[part] = group, _tensors(table.column(0).combine_chunks(), part)
        return self._held[part][1]

    def column(self, name: str) -> list[Any]:
        with reading(self.place):
            found: list[Any] = open_parquet(self.place).read(columns=[name]).column(0).to_pylist()
            return found

    def where(self, row: int) -> str:
        return f"row {row} (from 0) of {self.place.name!r}"


def _depth(kind: Any) -> tuple[int, str]:
    """How deep an Arrow type nests lists of numbers, and their dtype; 0 if it holds none."""
    import pyarrow as pa

    depth = 0
    while (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        kind, depth = kind.value_type, depth + 1
    numbers = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    return (depth, np.dtype(kind.to_pandas_dtype()).name) if numbers else (0, "text")


def _tensors(array: Any, part: str) -> list[Tensor]:
    """Rows of a list column, each ``(D,)`` or ``(N_i, D)``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = _lengths(array)
    inner = array.flatten()
    if not pa.types.is_nested(inner.type):
        if inner.null_count:
            raise ValueError(f"column of {part} has nulls")
        return list(as_tensor(inner.to_numpy(zero_copy_only=False)).split(lengths))
    widths = _lengths(inner)
    if len(set(widths)) > 1:
        raise ValueError(
            f"{part} of rows have tokens of {len(set(widths))} widths, {shown(widths[:4])}"
        )
    values = pc.list_flatten(inner)
    if values.null_count or pa.types.is_nested(values.type):
        raise ValueError(f"column of {part} holds nulls, or lists of lists of lists")
    flat = as_tensor(values.to_numpy(zero_copy_only=False)).reshape(-1, widths[0] if widths else 0)
    return list(flat.split(lengths))


def _lengths(array: Any) -> list[int]:
    import pyarrow.compute as pc

    if array.null_count:
        row = array.is_null().to_pylist().index(True)
        raise ValueError(f"list {row} of a group of rows is null, {array.null_count} in all")
    found: list[int] = pc.list_value_length(array).to_pylist()
    return found
