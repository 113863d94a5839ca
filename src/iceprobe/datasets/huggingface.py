"""``huggingface:NAME_OR_DIR``: data sets of the Hugging Face hub, and local folders in its formats.

The ``datasets`` package (4 or later, which runs no code of a data set) reads parquet, image folders and
what ``save_to_disk`` wrote. Images stay encoded in its memory-mapped Arrow files and are decoded here,
so that errors name the image.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import BadImage, Dataset, Split
from iceprobe.datasets.columns import Asked, read_further, read_targets, several
from iceprobe.datasets.files import decode, one_line, state
from iceprobe.datasets.hub_columns import raw_rows, tag_names
from iceprobe.datasets.hub_labels import Source, check_labels, read_classes
from iceprobe.datasets.pixels import Reading
from iceprobe.datasets.table_files import are_files
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

    def __init__(
        self,
        name: str,
        table: "datasets.Dataset",
        column: str,
        labels: np.ndarray,
        outputs: Sequence[str] = (),
        **more: Any,
    ):
        self.table, self.column, self.outputs = table, column, list(outputs)
        names = [
            f"{name}/{row:07d}" + (f"/{os.path.basename(path)}" if path else "")
            for row, path in enumerate(self._field("path").to_pylist())
        ]
        super().__init__(name, labels, names, **more)

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
        """Sha256 over names, labels, and size and time of change of every file that holds rows; and
        over the names of tags or numbers."""
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
        what = [self.names, self.labels.tolist(), *([self.outputs] if self.outputs else [])]
        digest.update(json.dumps(what).encode())
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
    train: str = "train",
    test: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    **columns: str,
) -> Dataset:
    """Load ``huggingface:NAME_OR_DIR``.

    Args:
        name: of the hub, ``OWNER/NAME``, or a local folder.
        spec: the spec string given.
        image: name of the column of images.
        train, test: names of the splits; test is by default the first of ``test``, ``validation``
            and ``val`` that exists. With a ``fold`` there need be none.
        config: name of a configuration, if there are several.
        revision: branch, tag or commit of the hub.
        **columns: ``label``, the column of classes (``label``), or the fields of `columns.Asked`.

    Raises:
        IceprobeError: if the package, a column or a split is missing, the data set can't be loaded,
            or labels are missing or absent from train.
    """
    label = columns.pop("label", None)
    asked = Asked(**columns)
    if label is not None and asked.target is not None:
        raise IceprobeError(f"{spec!r}: label= and target= are the same, keep one")
    tables = _load(name, config, revision)
    if train not in tables:
        raise IceprobeError(unknown(f"split of {name}", train, tables))
    parts, assumed = _parts(name, tables, train, test, asked, spec)
    chosen = {role: tables[split] for role, split in parts.items()}
    first = chosen["train"]
    targets = (
        [label or "label"]
        if asked.target is None
        else several(asked.target, "target", first.column_names, name)
    )
    slices = several(asked.slice, "slice", first.column_names, name) if asked.slice else []
    further = [*asked.further, *slices]
    option = "label" if asked.target is None else "target"
    for table in chosen.values():
        _check_columns(name, table, {"image": [image], option: targets, "group": further})
        _check_images(name, table, image)
    if plain := _is_plain(first, targets, asked):
        for table in chosen.values():
            check_labels(name, table, targets[0], option)
        found, lines = read_classes(Source(name, config, revision), parts, chosen, targets[0], spec)
    else:
        named = {column: tag_names(first.features[column]) for column in targets}
        rows = {split: raw_rows(table, targets, split, named) for split, table in chosen.items()}
        found, lines = read_targets(rows, targets, asked, spec, named[targets[0]]), []
    held, more = read_further(
        {split: raw_rows(table, further, split, {}) for split, table in chosen.items()},
        asked,
        slices,
    )
    import datasets

    encoded = datasets.Image(decode=False)
    splits = {
        split: TableSplit(
            split,
            table.select_columns([image]).cast_column(image, encoded),
            image,
            found.labels[split],
            () if plain else found.names,
            task=found.task,
            columns=held[split],
        )
        for split, table in chosen.items()
    }
    return Dataset(
        spec,
        Path(name).name,
        found.names,
        splits,
        found.headline,
        [*assumed, *lines, *found.assumed, *more],
        found.units,
        asked.group,
        asked.fold,
        slices,
    )


def _parts(
    name: str, tables: Any, train: str, test: str | None, asked: Asked, spec: str
) -> tuple[dict[str, str], list[str]]:
    """``"train"`` and ``"test"`` → the names of these splits, and a line on the choice."""
    assumed: list[str] = []
    if test is None:
        if len(tables) == 1 and asked.fold is not None:
            return {"train": train}, []
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
    return {"train": train, "test": test}, assumed


def _is_plain(table: Any, targets: Sequence[str], asked: Asked) -> bool:
    """Whether there is one column of classes, whose names the library or `label_names` knows."""
    import datasets

    if asked.target is None:
        return asked.separator is None and asked.task is None and asked.unit is None
    feature = table.features[targets[0]]
    named = len(targets) == 1 and isinstance(feature, datasets.ClassLabel)
    of_others = {
        "task": asked.task not in (None, "classification"),
        "separator": asked.separator is not None,
        "unit": asked.unit is not None,
    }
    if named and any(of_others.values()):
        given = ", ".join(f"{option}=" for option, there in of_others.items() if there)
        raise IceprobeError(
            f"column {targets[0]!r} holds one of {feature.num_classes} named classes: drop {given} or "
            "name another column"
        )
    return named


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


def _check_columns(name: str, table: Any, wanted: dict[str, list[str]]) -> None:
    """Refuse columns that aren't there; ``wanted`` has them by their option."""
    for option, columns in wanted.items():
        for column in columns:
            if column not in table.column_names:
                raise IceprobeError(
                    f"{unknown(f'column of {name}', column, table.column_names)} "
                    f"Pass {option}=COLUMN."
                )


def _check_images(name: str, table: Any, image: str) -> None:
    import datasets

    feature = table.features[image]
    if not (
        isinstance(feature, datasets.Image)
        or are_files(table.features.arrow_schema.field(image).type)
    ):
        raise IceprobeError(f"column {image!r} of {name} holds no images: pass image=COLUMN")
