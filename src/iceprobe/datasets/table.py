"""``table:FILE``: images and targets listed in a CSV, TSV, JSON lines or Parquet file.

Columns are named by options (docs/data.md). The file may be on object storage, and so may the images.
Whatever is wrong with a row is told with the row's number.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.bags import Bags
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.boxes import read_boxes
from iceprobe.datasets.cells import Rows
from iceprobe.datasets.columns import read_further, read_targets
from iceprobe.datasets.pixel_targets import of_pixels
from iceprobe.datasets.table_columns import TableColumns, TableOptions
from iceprobe.datasets.table_files import open_table
from iceprobe.datasets.table_rows import TableImages
from iceprobe.datasets.table_splits import divided, rows_of_splits, test_table, with_split
from iceprobe.datasets.walking import AnyPath

_PLAIN = (
    "labels",
    "label",
    "table",
    "index",
    "metadata",
    "annotations",
    "data",
    "train",
    "targets",
)


def load_table(name: str, *, spec: str, **options: Any) -> Dataset:
    """Load ``table:FILE?target=COLUMN``.

    Args:
        name: the table.
        spec: the spec string given.
        **options: the fields of `TableOptions`.

    Raises:
        IceprobeError: for what can't be read, naming the row; for options that don't fit it, and for
            what may mean several things.
    """
    asked = TableOptions(**{k: v for k, v in options.items() if v != "" or k == "separator"})
    asked.check_depth(spec)
    asked.check_example(spec)
    first = open_table(name, asked.delimiter)
    use, assumed = TableColumns.of(asked, first)
    asked, lines = with_split(asked, first, use.decided, spec)
    assumed += lines
    tables = {"train": first}
    if asked.split is not None:
        use = replace(use, split=asked.split)
    elif asked.test is not None:
        tables["test"] = test_table(asked.test, first, asked.delimiter)
    whole = {split: one.read(use.read_now(one)) for split, one in tables.items()}
    index = {split: list(range(len(one))) for split, one in tables.items()}
    if asked.split is not None:
        index, lines = rows_of_splits(whole["train"], asked.split, asked.train, asked.test, spec)
        assumed += lines
        whole, tables = dict.fromkeys(index, whole["train"]), dict.fromkeys(index, first)
    rows = {split: whole[split].take(index[split]) for split in index}
    images = TableImages.of(rows, index, tables, use, asked)
    rows, lines = images.without_repeated(rows, use)
    if asked.example is not None:
        of_images = (asked.example, asked.y, asked.x)
        decided = [column for column in use.decided if column not in of_images]
        rows, bags = Bags.of(rows, images, asked.example, decided, (asked.y, asked.x))
        return _dataset(rows, bags, use, asked, spec, [*assumed, *lines])
    return _dataset(rows, images, use, asked, spec, [*assumed, *lines])


def load_bags(name: str, *, spec: str, **options: Any) -> Dataset:
    """Load ``bags:TABLE?example=COLUMN``; the options are those of ``table:``.

    Raises:
        IceprobeError: as of ``table:``, and if ``example=`` is missing.
    """
    if not options.get("example"):
        raise IceprobeError(
            f"{spec}: name the column that says which images belong together, example=COLUMN"
        )
    if bool(options.get("x")) != bool(options.get("y")):
        given = "x" if options.get("x") else "y"
        raise IceprobeError(
            f"{spec}: {given}= alone doesn't say where an image lies: name both columns, x= and y="
        )
    return load_table(name, spec=spec, **options)


def _dataset(
    rows: Mapping[str, Rows],
    images: TableImages | Bags,
    use: TableColumns,
    asked: TableOptions,
    spec: str,
    assumed: list[str],
) -> Dataset:
    targets = (
        read_targets(rows, use.target, asked, spec)
        if asked.depth is None
        else of_pixels(rows, images.depths, asked, spec)
    )
    columns, lines = read_further(rows, asked, use.slices)
    assumed = [*assumed, *targets.assumed, *lines]
    boxes: Mapping[str, np.ndarray] = {}
    if use.box:
        boxes, lines = read_boxes(rows, use.box, asked.box_format)
        assumed += lines
    if asked.mask:
        assumed.append(f"masks in column {asked.mask!r}: a pixel that isn't 0 is of the object")
    parts, lines = divided(rows, targets, columns, asked, spec)
    assumed += lines
    splits = {
        split: images.split(
            split,
            source,
            chosen,
            outputs=targets.names,
            labels=targets.labels[source][chosen],
            boxes=boxes[source][chosen] if use.box else None,
            task=targets.task,
            columns={key: column.take(chosen) for key, column in columns[source].items()},
        )
        for split, (source, chosen) in parts.items()
    }
    return Dataset(
        spec,
        _short_name(images.tables["train"].place),
        targets.names,
        splits,
        targets.headline,
        assumed,
        targets.units,
        asked.group,
        asked.fold,
        use.slices,
    )


def _short_name(place: AnyPath) -> str:
    """``birds`` of ``birds.csv``, and of ``birds/labels.csv``."""
    stem = place.name.rsplit(".", 1)[0]
    return (place.resolve().parent.name or stem) if stem.casefold() in _PLAIN else stem
