"""Columns of a Hugging Face data set as plain values; classes and tags by their names."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.cells import Rows


def raw_rows(
    table: Any, columns: Sequence[str], split: str, named: Mapping[str, Sequence[str] | None]
) -> Rows:
    """Some columns of a split; ``named`` has the names of numbers in lists, by column."""
    values: dict[str, Sequence[Any]] = {}
    place = partial(_place, split)
    for column in columns:
        given = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        names = named.get(column) or _class_names(table.features[column])
        values[column] = (
            [_named(cell, names, place(row)) for row, cell in enumerate(given)] if names else given
        )
    return Rows(values, place)


def tag_names(feature: Any) -> list[str] | None:
    """The names of a column of lists of named classes, ``Sequence(ClassLabel)``; else ``None``."""
    inner = feature[0] if isinstance(feature, list) and feature else feature
    inner = getattr(inner, "feature", inner)
    return None if inner is feature else _class_names(inner)


def _class_names(feature: Any) -> list[str] | None:
    import datasets

    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _named(cell: Any, names: Sequence[str], place: str) -> Any:
    if cell is None or isinstance(cell, str):
        return cell
    numbers = cell if isinstance(cell, list) else [cell]
    if any(not isinstance(n, int) or not 0 <= n < len(names) for n in numbers):
        raise IceprobeError(
            f"{place}: {cell} has no name: {len(names)} are named, 0 to {len(names) - 1}; mend it or "
            "leave the row out"
        )
    return [names[n] for n in numbers] if isinstance(cell, list) else names[numbers[0]]


def _place(split: str, row: int) -> str:
    return f"row {row} (from 0) of split {split!r}"
