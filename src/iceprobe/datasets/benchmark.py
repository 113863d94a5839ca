"""``NAME?root=DIR``: one loader for every entry of the catalogue.

It looks for the files, downloads them if asked to, calls the entry's reader for the official parts,
and checks that train has every class. Some sets are test sets alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import Dataset, Split
from iceprobe.datasets.catalogue import CATALOGUE, Benchmark
from iceprobe.datasets.files import one_line

# What readers (ours, torchvision's, SciPy's) raise on damaged files.
_BROKEN = (OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, SyntaxError)


def load_benchmark(
    name: str,
    *,
    spec: str,
    root: str | None = None,
    split: str | None = None,
    download: bool = False,
    **options: Any,
) -> Dataset:
    """Load a benchmark set of the catalogue.

    Args:
        name: of the catalogue.
        spec: the spec string given.
        root: the folder that holds it, in the layout of its archives (torchvision's layout).
        split: what is read as the test split, a key of ``entry.splits``.
        download: download it into ``root`` first, where torchvision can.
        **options: of its reader.

    Raises:
        IceprobeError: if it isn't at ``root``, can't be downloaded or read, or if train lacks a
            class of the test split.
    """
    entry = CATALOGUE[name]
    default = next(iter(entry.splits.values()))
    if root is None:
        part = (*default[0], *default[1])[0]
        first = entry.files[0].format(part=part).split("/")[0]
        raise IceprobeError(
            f"data set {name!r} needs root=DIR, the folder that holds {first}: "
            f"get it from {entry.where}"
        )
    if split is not None and split not in entry.splits:
        raise IceprobeError(unknown(f"split of {name}", split, entry.splits))
    parts = entry.splits[split] if split else default
    folder = Path(root).expanduser()
    if download:
        _download(name, entry, folder)
    _check_files(name, entry, folder, (*parts[0], *parts[1]))
    read = entry.load()
    try:
        made = {
            split: read(folder, split, of_split, **options)
            for split, of_split in zip(("train", "test"), parts, strict=True)
            if of_split
        }
    except _BROKEN as error:
        raise IceprobeError(
            f"{name} at {root!r} can't be read ({type(error).__name__}: {one_line(error)}): "
            f"get it again from {entry.where}"
        ) from error
    splits = {split: found[0] for split, found in made.items()}
    _check_classes(name, {split: (found[0], found[1]) for split, found in made.items()})
    published = dict(zip(("train", "test"), entry.images, strict=True))
    assumed = [
        f"{name}: {len(one):,} images of {split} are read, {published[split]:,} are published"
        for split, one in splits.items()
        if parts == default and len(one) != published[split]
    ]
    _, classes, *maps = next(iter(made.values()))
    return Dataset(
        spec, name, classes, splits, entry.headline, assumed, maps=maps[0] if maps else {}
    )


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


def _check_classes(name: str, made: Mapping[str, tuple[Split, Sequence[str]]]) -> None:
    """Check that train has every class; map labels of test to train's order of classes.

    Args:
        name: of the set.
        made: its splits, each with the names of its classes.
    """
    for split, names in made.values():
        if not len(split):
            raise IceprobeError(f"split {split.name!r} of {name} is empty: get it again, whole")
        if split.labels.min() < 0 or split.labels.max() >= len(names):
            raise IceprobeError(
                f"{name}: labels of {split.name} run from {split.labels.min()} to "
                f"{split.labels.max()}, but {len(names)} classes are named: get it again"
            )
    if "train" not in made:
        return
    (train, classes), (test, test_classes) = made["train"], made["test"]
    counts = np.bincount(train.labels, minlength=len(classes))
    missing = [class_name for class_name in test_classes if class_name not in classes]
    missing += [classes[label] for label in np.flatnonzero(counts == 0).tolist()]
    if missing:
        raise IceprobeError(
            f"class {missing[0]!r} of {name} is missing from train: get the training images again"
        )
    if list(test_classes) != list(classes):  # some sets' parts name only the classes they hold
        numbers = {class_name: label for label, class_name in enumerate(classes)}
        test.labels = np.array([numbers[c] for c in test_classes], np.int64)[test.labels]
