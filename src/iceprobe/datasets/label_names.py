"""The lists of class names that parquet and Arrow files of a Hugging Face data set carry themselves.

``datasets`` takes the columns of all splits from the first file that it opens. A test split whose own
list has another order would be read in train's order, so each file's own list is read first.
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
    taken: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Each split's own feature of the labels' column, and what was taken for granted.

    Of a local folder all files are asked, of the hub each split's first.

    Args:
        name, config, revision: of the data set.
        splits: ``"train"`` and ``"test"`` → their names there.
        column: of the labels.
        taken: the feature that the library took, where files say nothing of their own.

    Raises:
        IceprobeError: if files of one split name their classes differently.
    """
    import datasets

    folder = Path(name).expanduser()
    if (folder / "dataset_dict.json").is_file():
        return dict(taken), []  # each split keeps its own
    if folder.is_dir() and not any(
        next(folder.rglob(f"*{ending}"), None) for ending in _WITH_SCHEMA
    ):
        return dict(taken), []
    try:
        path = str(folder) if folder.is_dir() else name
        files = datasets.load_dataset_builder(path, config, revision=revision).config.data_files
        if not files:
            return dict(taken), []
        found = {
            role: [(file, _feature(file, column)) for file in _asked(files, split)]
            for role, split in splits.items()
        }
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if folder.is_dir():
            raise IceprobeError(
                f"files of {name!r} can't be read ({one_line(error)}): get them again"
            ) from error
        return dict(taken), [
            f"{name}: whether train and test list their classes in one order can't be seen "
            f"({one_line(error)}): train's list is taken for both"
        ]
    own: dict[str, Any] = {}
    for role, asked in found.items():
        own[role] = next((feature for _, feature in asked), None)
        for file, feature in asked:
            if feature != own[role]:
                raise IceprobeError(
                    f"{asked[0][0]!r} and {file!r} name their classes differently, and both are of "
                    f"split {splits[role]!r}: write them with one list of names"
                )
    # Equal lists, none, or another kind of file: what the library took (a card's names, say) is kept.
    if own["train"] == own["test"] or None in own.values():
        return dict(taken), []
    return own, []


def _asked(files: Mapping[str, Any], split: str) -> list[str]:
    """The files of a split that carry a schema."""
    listed = [str(file) for file in files.get(split, ())]
    known = [file for file in listed if file.endswith(_WITH_SCHEMA)]
    return known if known and not known[0].startswith("hf://") else known[:1]


def _feature(file: str, column: str) -> Any:
    """What a file itself says of a column; ``None`` where it has none."""
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
