"""``huggingface:NAME_OR_DIR``: data sets of the Hugging Face hub, and local folders in its formats.

The ``datasets`` package (4 or later, which runs no code of a data set) reads parquet, image folders and
what ``save_to_disk`` wrote. Images stay encoded in its memory-mapped Arrow files and are decoded here,
so that errors name the image.
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
from iceprobe.datasets.files import decode, one_line, state
from iceprobe.datasets.label_names import in_files
from iceprobe.datasets.labels import by_names, negative_numbers, numbered
from iceprobe.datasets.pixels import Reading
from iceprobe.datasets.walking import images_below

if TYPE_CHECKING:
    import datasets

TEST_SPLITS = ("test", "validation", "val")  # the first that exists is the default


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
            for row, path in enumerate(self._field("path").to_pylist())
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
        """Sha256 over names, labels, and size and time of change of every file that holds rows."""
        tables = [entry["filename"] for entry in self.table.cache_files]
        in_files = self._field("path").filter(self._field("bytes").is_null()).to_pylist()
        digest = hashlib.sha256()
        for file in (*tables, *in_files):
            try:
                digest.update(json.dumps(state(file)).encode())
            except OSError as error:
                raise IceprobeError(
                    f"{str(file)!r} is gone ({one_line(error)}): load the data set again"
                ) from error
        digest.update(json.dumps([self.names, self.labels.tolist()]).encode())
        return self.reading.mark(digest.hexdigest())

    def _field(self, name: str) -> Any:
        """A field of every image's cell, as an Arrow array; the images aren't read."""
        import pyarrow.compute as pc

        return pc.struct_field(self.table.with_format("arrow")[:][self.column], name)


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
        spec: the spec string given.
        image, label: names of the columns.
        train, test: names of the splits; test is by default the first of ``test``, ``validation``
            and ``val`` that exists.
        config: name of a configuration, if there are several.
        revision: branch, tag or commit of the hub.

    Raises:
        IceprobeError: if the package, a column or a split is missing, the data set can't be loaded,
            or labels are missing or absent from train.
    """
    tables = _load(name, config, revision)
    if train not in tables:
        raise IceprobeError(unknown(f"split of {name}", train, tables))
    assumed: list[str] = []
    if test is None:
        if len(tables) == 1:
            raise IceprobeError(
                f"{name} has one split, {train!r}, and nothing to test on: save it in two, with "
                "train_test_split and save_to_disk of datasets"
            )
        test = next((split for split in TEST_SPLITS if split in tables), TEST_SPLITS[0])
        unread = [split for split in tables if split not in (train, test)]
        if test != "test" or unread:
            line = f"{name}: {train} is read as train and {test} as test"
            assumed = [f"{line}; {', '.join(unread)} left unread" if unread else line]
    if test not in tables:
        raise IceprobeError(f"{unknown(f'split of {name}', test, tables)} Pass test=SPLIT.")
    if test == train:
        raise IceprobeError(f"train and test of {spec!r} are both {test!r}: name two splits")
    chosen = {"train": tables[train], "test": tables[test]}
    for table in chosen.values():
        _check_columns(name, table, image, label)
    own = {split: table.features[label] for split, table in chosen.items()}
    if own["train"] == own["test"]:  # perhaps because the library takes one for all splits
        found, more = in_files(name, config, revision, {"train": train, "test": test}, label)
        own, assumed = own | found, assumed + more
    classes, labels, lines = _labels(chosen, label, own, spec)
    import datasets

    encoded = datasets.Image(decode=False)
    splits = {
        split: TableSplit(
            split, table.select_columns([image]).cast_column(image, encoded), image, labels[split]
        )
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
        images_below(folder)  # raises for a folder that can't be read: the library leaves it out
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        path = str(folder) if folder.is_dir() else name
        return datasets.load_dataset(path, config, revision=revision)
    # The library's errors derive from these; a missing network is an OSError.
    except (OSError, ValueError, LookupError, RuntimeError, datasets.exceptions.DatasetsError) as e:
        raise IceprobeError(
            f"data set {name!r} can't be loaded ({_causes(e)}): pass huggingface:OWNER/NAME of "
            "the hub, with config=NAME where it has several, or a local folder"
        ) from e


def _causes(error: BaseException) -> str:
    """The message of an error, and of the error that the library wrapped in it."""
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
    """Whether a column not declared as images holds bytes, or bytes and path: parquet of other tools."""
    import pyarrow as pa

    kind = table.features.arrow_schema.field(column).type
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        if set(fields) != {"bytes", "path"}:
            return False
        kind = fields["bytes"]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(
    tables: dict[str, Any], column: str, own: dict[str, Any], spec: str
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Classes, labels and assumptions, from each split's ``own`` feature of the label column."""
    import datasets

    values = {
        split: table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        for split, table in tables.items()
    }
    for split, table in tables.items():
        # The library has converted text to indices into its own list of names.
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
    assumed = []
    if not named["train"]:
        if named["test"]:
            assumed = [
                f"{spec}: train names no classes, so labels are numbers and test's names unread"
            ]
        numbers = {split: _whole(given, split, spec) for split, given in values.items()}
        classes, labels = numbered(numbers, spec)
        return classes, labels, [*assumed, *negative_numbers(classes, spec)]
    names = {split: kind.names for split, kind in own.items() if named[split]}
    if not named["test"]:
        given = values["test"]
        if all(isinstance(value, str) for value in given):
            unseen = sorted(set(given) - set(names["train"]))
            names["test"] = [*names["train"], *unseen]
            values["test"] = [names["test"].index(value) for value in given]
        else:
            assumed = [
                f"{spec}: labels of test are numbers, read as indices into train's list of names"
            ]
            names["test"] = names["train"]
            values["test"] = _whole(given, "test", spec)
    given_labels = {split: np.array(given, np.int64) for split, given in values.items()}
    classes, labels, lines = by_names(given_labels, names, spec)
    return classes, labels, [*assumed, *lines]


def _whole(given: list[Any], split: str, spec: str) -> list[Any]:
    """Labels with whole floats as integers, ``2.0`` as 2."""
    for value in given:
        if isinstance(value, float) and not value.is_integer():
            raise IceprobeError(
                f"label {value} of split {split!r} of {spec!r} is no class: name a column of "
                "whole numbers or text as label=COLUMN"
            )
    return [int(value) if isinstance(value, float) else value for value in given]
