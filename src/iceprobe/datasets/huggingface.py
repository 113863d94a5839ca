"""``huggingface:NAME_OR_DIR``: data sets of the Hugging Face hub, and local folders in its formats.

Read by the ``datasets`` package (4 or later, which runs no code of a data set): parquet, image
folders, what ``save_to_disk`` wrote. Images stay encoded in its Arrow files, which are mapped into
memory, and are decoded here, so that a broken one is named.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import BadImage, Dataset, Split
from iceprobe.datasets.files import decode, one_line
from iceprobe.datasets.label_names import in_files
from iceprobe.datasets.named import by_names, negative_numbers, numbered
from iceprobe.datasets.pixels import Reading
from iceprobe.datasets.walking import see_all

if TYPE_CHECKING:
    import datasets

TEST_SPLITS = ("test", "validation", "val")  # the first there is, where none is named


class TableSplit(Split):
    """Rows of a table with a column of encoded images.

    Attributes:
        table: the rows, with the column of images and no other.
        column: its name.
    """

    reading = Reading()

    def __init__(self, name: str, table: "datasets.Dataset", column: str, labels: np.ndarray):
        self.table, self.column = table, column
        names = [
            f"{name}/{row:07d}" + (f"/{os.path.basename(path)}" if path else "")
            for row, path in enumerate(self._field("path"))
        ]
        super().__init__(name, labels, names)

    def image(self, index: int) -> Image.Image:
        source = self.source(index)
        shown = str(source) if isinstance(source, Path) else self.names[index]
        return decode(source, shown, self.reading)

    def source(self, index: int) -> Path | IO[bytes]:
        cell, shown = self.table[index][self.column], self.names[index]
        if cell is None:
            raise BadImage(f"image {shown!r} is empty: remove it, or pass --on-bad-image skip")
        return Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])

    def fingerprint(self) -> str:
        """Sha256 over size and time of change of all files that rows are in, names and labels."""
        tables = [entry["filename"] for entry in self.table.cache_files]
        inside = self._field("bytes_are_missing")
        paths = [path for path, alone in zip(self._field("path"), inside, strict=True) if alone]
        digest = hashlib.sha256()
        for file in (*tables, *paths):
            try:
                stat = os.stat(file)
            except OSError as error:
                raise IceprobeError(
                    f"{str(file)!r} is gone ({one_line(error)}): load the data set again"
                ) from error
            digest.update(json.dumps([stat.st_size, stat.st_mtime_ns]).encode())
        digest.update(json.dumps([self.names, self.labels.tolist()]).encode())
        return self.reading.mark(digest.hexdigest())

    def _field(self, name: str) -> list[Any]:
        """A field of every image's cell, without touching the bytes of images."""
        import pyarrow.compute as pc

        column = self.table.with_format("arrow")[:][self.column]
        if name == "bytes_are_missing":
            return pc.is_null(pc.struct_field(column, "bytes")).to_pylist()
        return pc.struct_field(column, name).to_pylist()


def load_huggingface(
    name: str,
    *,
    spec: str,
    image: str = "image",
    label: str = "label",
    train: str = "train",
    test: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """Load ``huggingface:NAME_OR_DIR``.

    Args:
        name: of the hub, ``OWNER/NAME``, or a local folder.
        spec: the spec string it was asked for by.
        image, label: names of the columns.
        train, test: names of the splits; test is the first of ``test``, ``validation`` and
            ``val`` that there is.
        config: where it has several configurations.
        revision: branch, tag or commit of the hub.

    Raises:
        IceprobeError: if the package is missing, the data set can't be loaded, a column or split
            isn't there, or labels are missing or unknown to train.
    """
    tables = _load(name, config, revision)
    if train not in tables:
        raise IceprobeError(unknown(f"split of {name}", train, tables))
    assumed: list[str] = []
    asked = test is not None
    if test is None:
        if len(tables) == 1:
            raise IceprobeError(
                f"{name} has one split, {train!r}, and nothing to test on: save it in two, with "
                "train_test_split and save_to_disk of datasets"
            )
        test = next((split for split in TEST_SPLITS if split in tables), TEST_SPLITS[0])
    if test not in tables:
        raise IceprobeError(f"{unknown(f'split of {name}', test, tables)} Pass test=SPLIT.")
    if not asked:
        assumed = _assumed(name, train, test, tables)
    if test == train:
        raise IceprobeError(f"train and test of {spec!r} are both {test!r}: name two splits")
    chosen = {"train": tables[train], "test": tables[test]}
    for table in chosen.values():
        _check_columns(name, table, image, label)
    own = {split: table.features[label] for split, table in chosen.items()}
    if own["train"] == own["test"]:  # perhaps only since the library takes one for all
        own, more = in_files(name, config, revision, {"train": train, "test": test}, label, own)
        assumed += more
    classes, labels, lines = _labels(chosen, label, own, spec)
    splits = {
        split: TableSplit(split, _encoded(table, image), image, labels[split])
        for split, table in chosen.items()
    }
    return Dataset(spec, Path(name).name, classes, splits, assumed=[*assumed, *lines])


def _load(name: str, config: str | None, revision: str | None) -> Any:
    """The splits by name."""
    try:
        import datasets
    except ImportError as error:
        raise IceprobeError(
            "huggingface: needs the package datasets: pip install 'iceprobe[huggingface]'"
        ) from error
    folder = Path(name).expanduser()
    if name.startswith(("/", ".", "~")) and not folder.is_dir():
        raise IceprobeError(f"no folder {name!r}: pass huggingface:DIR or OWNER/NAME of the hub")
    if folder.is_dir():
        see_all(folder)  # the library leaves folders out that it can't read
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        path = str(folder) if folder.is_dir() else name
        return datasets.load_dataset(path, config, revision=revision)
    # Its own errors derive from these; no network is an OSError.
    except (OSError, ValueError, LookupError, RuntimeError, datasets.exceptions.DatasetsError) as e:
        raise IceprobeError(
            f"data set {name!r} can't be loaded ({_causes(e)}): pass huggingface:OWNER/NAME of "
            "the hub, with config=NAME where it has several, or a local folder"
        ) from e


def _assumed(name: str, train: str, test: str, tables: Any) -> list[str]:
    """A line where the test split has another name, or more splits are there."""
    unread = [split for split in tables if split not in (train, test)]
    if test == "test" and not unread:
        return []
    line = f"{name}: {train} is read as train and {test} as test"
    return [f"{line}; {', '.join(unread)} left unread" if unread else line]


def _causes(error: BaseException) -> str:
    """What an error says and, where the library wraps another, what that says."""
    cause = error.__cause__
    return one_line(error) if cause is None else f"{one_line(error)}: {one_line(cause)}"


def _check_columns(name: str, table: Any, image: str, label: str) -> None:
    import datasets

    for option, column in (("image", image), ("label", label)):
        if column not in table.column_names:
            raise IceprobeError(
                f"{unknown(f'column of {name}', column, table.column_names)} Pass {option}=COLUMN."
            )
    if not (isinstance(table.features[image], datasets.Image) or _holds_bytes(table, image)):
        raise IceprobeError(f"column {image!r} of {name} holds no images: pass image=COLUMN")
    if not isinstance(table.features[label], datasets.ClassLabel | datasets.Value):
        raise IceprobeError(f"column {label!r} of {name} holds no single labels: pass label=COLUMN")


def _holds_bytes(table: Any, column: str) -> bool:
    """Whether a column that nobody declared as images has what an image column has.

    That is bytes, or bytes and a path, as parquet files that other tools write.
    """
    import pyarrow as pa

    kind = table.features.arrow_schema.field(column).type
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return set(fields) == {"bytes", "path"} and _is_binary(fields["bytes"])
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(table: Any, column: str) -> Any:
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _labels(
    tables: dict[str, Any], column: str, own: dict[str, Any], spec: str
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Classes, labels and what was taken for granted: by names where there are, else numbered.

    Args:
        own: each split's own feature of the column.
    """
    import datasets

    values = {
        split: table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        for split, table in tables.items()
    }
    for split, table in tables.items():
        # The library has turned text into places in the names that it took.
        text = getattr(own[split], "dtype", None) in ("string", "large_string")
        if text and isinstance(table.features[column], datasets.ClassLabel):
            own[split] = table.features[column]
    named = {split: isinstance(kind, datasets.ClassLabel) for split, kind in own.items()}
    for split, given in values.items():
        if not given:
            raise IceprobeError(f"split {split!r} of {spec!r} is empty: name another")
        if any(value is None or (named[split] and value < 0) for value in given):
            raise IceprobeError(
                f"labels of split {split!r} of {spec!r} are missing (the hub hides those of some "
                "test splits): name another, as test=validation"
            )
    if not named["train"]:
        assumed = []
        if named["test"]:
            assumed = [
                f"{spec}: train names no classes, so labels are numbers and test's names unread"
            ]
        numbers = {split: _whole(given, split, spec) for split, given in values.items()}
        classes, labels = numbered(numbers, spec)
        return classes, labels, [*assumed, *negative_numbers(classes, spec)]
    assumed = []
    names = {split: kind.names for split, kind in own.items() if named[split]}
    if not named["test"]:
        given = values["test"]
        if all(isinstance(value, str) for value in given):
            unseen = sorted(set(given) - set(names["train"]))
            names["test"] = [*names["train"], *unseen]
            values["test"] = [names["test"].index(value) for value in given]
        else:
            assumed = [
                f"{spec}: labels of test are numbers, read as places in train's list of names"
            ]
            names["test"] = names["train"]
            values["test"] = _whole(given, "test", spec)
    places = {split: np.array(given, np.int64) for split, given in values.items()}
    classes, labels, lines = by_names(places, names, spec)
    return classes, labels, [*assumed, *lines]


def _whole(given: list[Any], split: str, spec: str) -> list[Any]:
    """Labels with numbers as integers, ``2.0`` as 2."""
    for value in given:
        if isinstance(value, float) and not value.is_integer():
            raise IceprobeError(
                f"label {value} of split {split!r} of {spec!r} is no class: name a column of "
                "whole numbers or text as label=COLUMN"
            )
    return [int(value) if isinstance(value, float) else value for value in given]
