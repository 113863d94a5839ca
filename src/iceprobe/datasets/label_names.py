"""The lists of class names in the parquet and Arrow files of a Hugging Face data set.

``datasets`` takes the features of all splits from the first file that it opens. If the list of a test
split has another order, its labels would be wrong, so each file's own list is read here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.files import one_line

_WITH_SCHEMA = (".parquet", ".arrow")


def in_files(
    name: str,
    config: str | None,
    revision: str | None,
    splits: Mapping[str, str],
    column: str,
) -> tuple[dict[str, Any], list[str]]:
    """Each split's own feature of the label column, empty if the library's is right, and assumptions.

    All files of a local folder are read, and the first of each split on the hub.

    Args:
        name, config, revision: of the data set.
        splits: ``"train"`` and ``"test"`` → their names there.
        column: of the labels.

    Raises:
        IceprobeError: if files of one split name their classes differently.
    """
    import datasets

    folder = Path(name).expanduser()
    if (folder / "dataset_dict.json").is_file():
        return {}, []  # the library reads each split's own
    if folder.is_dir() and not any(any(folder.rglob(f"*{ending}")) for ending in _WITH_SCHEMA):
        return {}, []
    try:
        path = str(folder) if folder.is_dir() else name
        files = datasets.load_dataset_builder(path, config, revision=revision).config.data_files
        found = {
            role: [(file, _feature(file, column)) for file in _with_schema(files or {}, split)]
            for role, split in splits.items()
        }
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if folder.is_dir():
            raise IceprobeError(
                f"files of {name!r} can't be read ({one_line(error)}): get them again"
            ) from error
        return {}, [
            f"{name}: whether train and test list their classes in one order can't be seen "
            f"({one_line(error)}): train's list is taken for both"
        ]
    own: dict[str, Any] = {}
    for role, listed in found.items():
        own[role] = listed[0][1] if listed else None
        for file, feature in listed:
            if feature != own[role]:
                raise IceprobeError(
                    f"{listed[0][0]!r} and {file!r} name their classes differently, and both are of "
                    f"split {splits[role]!r}: write them with one list of names"
                )
    # Equal lists, none, or files of another kind: the library's (names of a card, say) are right.
    if own["train"] == own["test"] or None in own.values():
        return {}, []
    return own, []


def _with_schema(files: Mapping[str, Any], split: str) -> list[str]:
    """The files of a split that have a schema: all local ones, the first on the hub."""
    listed = [str(file) for file in files.get(split, ())]
    known = [file for file in listed if file.endswith(_WITH_SCHEMA)]
    return known if known and not known[0].startswith("hf://") else known[:1]


def _feature(file: str, column: str) -> Any:
    """The feature of a column in a file's own schema, or ``None``."""
    import datasets
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fsspec.open(file, "rb") as opened:
        if file.endswith(".parquet"):
            schema = pq.read_schema(opened)
        else:
            try:
                schema = pa.ipc.open_stream(opened).schema
            except pa.ArrowInvalid:
                opened.seek(0)
                schema = pa.ipc.open_file(opened).schema
    return datasets.Features.from_arrow_schema(schema).get(column)
