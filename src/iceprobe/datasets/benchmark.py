"""``NAME?root=DIR``: one loader for every entry of the catalogue.

It searches for the files, fetches them where it may, lets the entry's reader read the official parts,
and checks that train and test have the same classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import Dataset, Split
from iceprobe.datasets.catalogue import Benchmark
from iceprobe.datasets.files import one_line

# What readers (ours, torchvision's, SciPy's) raise on files that aren't what they should be.
_BROKEN = (OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, SyntaxError)


def load_benchmark(
    name: str,
    entry: Benchmark,
    *,
    spec: str,
    root: str | None = None,
    split: str | None = None,
    download: bool = False,
    **options: Any,
) -> Dataset:
    """Load a benchmark set of the catalogue.

    Args:
        name, entry: its line of the catalogue.
        spec: the spec string it was asked for by.
        root: the folder that holds it, in the layout of its own archives (torchvision's).
        split: what is read as the test split, a key of ``entry.splits``.
        download: fetch it into ``root`` first, where torchvision can.
        **options: of its reader.

    Raises:
        IceprobeError: if it isn't at ``root``, can't be downloaded or read, or if the test split
            has a class that train has not.
    """
    if root is None:
        raise IceprobeError(
            f"data set {name!r} needs root=DIR, the folder that holds {_first_folder(entry)}: "
            f"get it from {entry.where}"
        )
    if split is not None and split not in entry.splits:
        raise IceprobeError(unknown(f"split of {name}", split, entry.splits))
    parts = entry.splits[split or next(iter(entry.splits))]
    folder = Path(root).expanduser()
    if download:
        _download(name, entry, folder)
    _check_files(name, entry, folder, (*parts[0], *parts[1]))
    read = entry.load()
    try:
        train, classes = read(folder, "train", parts[0], **options)
        test, test_classes = read(folder, "test", parts[1], **options)
    except _BROKEN as error:
        raise IceprobeError(
            f"{name} at {root!r} can't be read ({type(error).__name__}: {one_line(error)}): "
            f"get it again from {entry.where}"
        ) from error
    _check_classes(name, train, classes, test, test_classes)
    splits = {"train": train, "test": test}
    assumed = _counted(name, entry, splits) if parts == next(iter(entry.splits.values())) else []
    return Dataset(spec, name, classes, splits, entry.headline, assumed)


def _counted(name: str, entry: Benchmark, splits: Mapping[str, Split]) -> list[str]:
    """A line for each split that has another number of images than was published."""
    return [
        f"{name}: {len(split):,} images of {split.name} are read, {published:,} are published"
        for split, published in zip(splits.values(), entry.images, strict=True)
        if len(split) != published
    ]


def _first_folder(entry: Benchmark) -> str:
    parts, _ = next(iter(entry.splits.values()))
    return entry.files[0].format(part=parts[0]).split("/")[0]


def _check_files(name: str, entry: Benchmark, root: Path, parts: Sequence[str]) -> None:
    wanted = list(dict.fromkeys(file.format(part=part) for file in entry.files for part in parts))
    missing = [file for file in wanted if not _is_there(root / file)]
    if missing:
        remedy = ", or pass download=true" if entry.torchvision else ""
        raise IceprobeError(
            f"no {name} at {str(root)!r}, looked for {', '.join(wanted)} and missed "
            f"{', '.join(missing) if len(missing) < len(wanted) else 'all of them'}: "
            f"get it from {entry.where}{remedy}"
        )


def _is_there(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def _download(name: str, entry: Benchmark, root: Path) -> None:
    if not entry.torchvision:
        raise IceprobeError(
            f"torchvision can't download {name}: drop download=true and get it from {entry.where}"
        )
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        for arguments in entry.fetches:
            getattr(datasets, entry.torchvision)(str(root), download=True, **arguments)
    except _BROKEN as error:
        raise IceprobeError(
            f"downloading {name} to {str(root)!r} failed ({one_line(error)}): "
            f"get it by hand from {entry.where}"
        ) from error


def _check_classes(
    name: str,
    train: Split,
    classes: Sequence[str],
    test: Split,
    test_classes: Sequence[str],
) -> None:
    """See that every class is in train; bring labels of test into train's order of classes.

    Some sets' parts name only the classes that they hold.
    """
    for split, names in ((train, classes), (test, test_classes)):
        if not len(split):
            raise IceprobeError(f"split {split.name!r} of {name} is empty: get it again, whole")
        if split.labels.min() < 0 or split.labels.max() >= len(names):
            raise IceprobeError(
                f"{name}: labels of {split.name} run from {split.labels.min()} to "
                f"{split.labels.max()}, but {len(names)} classes are named: get it again"
            )
    if list(test_classes) != list(classes):
        places = {class_name: label for label, class_name in enumerate(classes)}
        for class_name in test_classes:
            if class_name not in places:
                raise IceprobeError(_missing(name, class_name))
        test.labels = np.array([places[c] for c in test_classes], np.int64)[test.labels]
    counts = np.bincount(train.labels, minlength=len(classes))
    if not counts.all():
        raise IceprobeError(_missing(name, classes[int(counts.argmin())]))


def _missing(name: str, class_name: str) -> str:
    return f"class {class_name!r} of {name} is missing from train: get the training images again"
