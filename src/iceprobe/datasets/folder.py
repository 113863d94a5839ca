"""``folder:DIR``: images on disk in the ordinary ImageFolder layout.

Either ``DIR/train/CLASS/…`` with ``DIR/test/CLASS/…`` or ``DIR/val/CLASS/…`` (``layout.py``), or one
flat ``DIR/CLASS/…`` that is split here, stratified and seeded. Classes are the sorted folder names
of train; images are found at any depth below them and ordered by path (``walking.py``). DIR may be a
URL of object storage (``s3://bucket/birds``). Hidden files are left alone, as torchvision's
``ImageFolder`` leaves them; files that aren't read as images, and images outside class folders, are
left out and reported. How files become pictures: docs/images.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.layout import (
    Layout,
    assumed_classes,
    find_layout,
    refuse_splits_below,
)
from iceprobe.datasets.walking import (
    EXTENSIONS,
    AnyPath,
    files_in,
    folders_in,
    images_below,
    is_image,
    left_out,
    some,
)
from iceprobe.machine.object_storage import RemotePath, located


def load_folder(
    name: str,
    *,
    spec: str,
    split: str | None = None,
    train: str | None = None,
    test: str | None = None,
    flat: bool = False,
    test_fraction: float | None = None,
    seed: int | None = None,
) -> Dataset:
    """Load ``folder:DIR``.

    Args:
        name: the folder.
        spec: the spec string it was asked for by.
        split: ``"test"`` or ``"val"``: which folder is read as the test split where there are
            both; test where nothing is said.
        train, test: the folders of the splits, where their names don't say it.
        flat: every folder is a class, whatever it is called.
        test_fraction: of each class's images, for a flat folder; 0.2 where nothing is said.
        seed: of the split of a flat folder; 0 where nothing is said.

    Raises:
        IceprobeError: if there is no such folder or no class folders in it, if folders look like
            splits and can't be read as such, if one can't be read, if a split or a class in train
            is empty, or if the test split has a class that train has not.
    """
    root = _located(name)
    if not root.is_dir():
        raise IceprobeError(f"no folder {name!r}: pass folder:DIR with an existing directory")
    if split not in (None, "test", "val"):
        raise IceprobeError(
            f"option split={split!r} of {spec!r}: write test or val, or name the folder as test="
        )
    if sum((bool(split), bool(test), flat)) > 1 or (flat and train):
        raise IceprobeError(f"{spec!r}: split=, test= and flat=true exclude each other, keep one")
    label = root.resolve().name
    layout = None if flat else find_layout(root, split=split, train=train, test=test)
    if layout is None:
        return _split_flat(root, test_fraction, seed, label, spec, flat)
    if test_fraction is not None or seed is not None:
        raise IceprobeError(
            f"folder {name!r} has its own splits: test_fraction and seed are for a flat folder"
        )
    return _with_splits(root, layout, label, spec)


def unlabelled(folder: str | Path) -> FileSplit:
    """Every image at any depth below a folder, ordered by path; all labels are −1.

    Files that aren't read are reported.

    Raises:
        IceprobeError: if there is no such folder, one below it can't be read, or no image is in it.
    """
    root = _located(folder)
    if not root.is_dir():
        raise IceprobeError(f"no folder {str(folder)!r}: name one that holds images")
    found, others = images_below(root)
    if not found:
        raise IceprobeError(
            f"folder {str(folder)!r} holds no image ({', '.join(EXTENSIONS)}): put some in it"
        )
    names = _relative(found, root)
    log_assumptions(_left_out(root, _relative(others, root), len(names)))
    return FileSplit("images", root, names, np.full(len(names), -1))


def listing(
    root: AnyPath, below: str, classes: Sequence[str], others: list[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """Names relative to ``root`` and labels ``(n,)`` of the images, by class, then by path.

    Args:
        others: takes in the names of files in class folders that aren't read.
    """
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        found, rest = images_below(root / below / class_name)
        names += _relative(found, root)
        labels += [label] * len(found)
        if others is not None:
            others += _relative(rest, root)
    return names, np.array(labels, np.int64)


def _located(folder: str | Path) -> AnyPath:
    place = located(folder)
    return place.expanduser() if isinstance(place, Path) else place


def _with_splits(root: AnyPath, layout: Layout, name: str, spec: str) -> Dataset:
    classes = _classes(root / layout.train)
    unseen = sorted(set(_classes(root / layout.test)) - set(classes))
    if unseen:
        raise IceprobeError(
            f"class {unseen[0]!r} is in {str(root / layout.test)!r} but missing from train: "
            f"add images of it to {layout.train}/ or remove it"
        )
    others: list[str] = []
    train_names, train_labels = listing(root, layout.train, classes, others)
    test_names, test_labels = listing(root, layout.test, classes, others)
    for label, class_name in enumerate(classes):
        if label not in train_labels:
            raise IceprobeError(
                f"class {class_name!r} is missing from train: "
                f"{str(root / layout.train / class_name)!r} "
                f"holds no image ({', '.join(EXTENSIONS)}); add some or remove the folder"
            )
    if not len(test_names):
        raise IceprobeError(
            f"split {layout.test!r} of {str(root)!r} is empty: put images in its folders"
        )
    splits = {
        "train": FileSplit("train", root, train_names, train_labels),
        "test": FileSplit("test", root, test_names, test_labels),
    }
    _refuse_classes_below(root, layout.train, classes, train_names)
    assumed = [
        *layout.assumed,
        *_one_class(root / layout.train, classes),
        *_left_out(root, others, len(train_names) + len(test_names)),
        *_loose(root, [layout.train, layout.test]),
    ]
    return Dataset(spec, name, classes, splits, assumed=assumed)


def _split_flat(
    root: AnyPath, test_fraction: float | None, seed: int | None, name: str, spec: str, asked: bool
) -> Dataset:
    fraction = 0.2 if test_fraction is None else test_fraction
    if not 0 < fraction < 1:
        raise IceprobeError(f"option test_fraction={fraction} of {spec!r}: take one inside (0, 1)")
    classes = _classes(root)
    others: list[str] = []
    names, labels = listing(root, ".", classes, others)
    if not asked:
        refuse_splits_below(root, names)
        _refuse_classes_below(root, ".", classes, names)
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        poor = classes[int(counts.argmin())]
        raise IceprobeError(
            f"class {poor!r} in {str(root)!r} has {counts.min()} image(s): a split needs 2 of "
            "each class; add some or remove the folder"
        )
    # Each class gives the rounded fraction of its images, at least one to either side.
    rng = np.random.default_rng(0 if seed is None else seed)
    in_test = np.zeros(len(labels), bool)
    for label, count in enumerate(counts):
        take = min(max(round(fraction * count), 1), count - 1)
        in_test[rng.permutation(np.flatnonzero(labels == label))[:take]] = True
    splits = {
        split: FileSplit(split, root, [names[i] for i in np.flatnonzero(rows)], labels[rows])
        for split, rows in (("train", ~in_test), ("test", in_test))
    }
    assumed = [
        *([] if asked else assumed_classes(root)),
        *_one_class(root, classes),
        *_left_out(root, others, len(names)),
        *_loose(root, ["."]),
    ]
    return Dataset(spec, name, classes, splits, assumed=assumed)


def _classes(folder: AnyPath) -> list[str]:
    classes = folders_in(folder)
    if not classes:
        loose = any(map(is_image, files_in(folder)))
        found = (
            "images but no class folders, so labels are missing" if loose else "no class folders"
        )
        raise IceprobeError(
            f"folder {str(folder)!r} has {found}: put the images of each class in a folder of its own"
        )
    return classes


def _refuse_classes_below(
    root: AnyPath, part: str, classes: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse ``images/robin/…`` and ``images/wren/…`` as one class, "images"."""
    if len(classes) > 1:
        return
    below = [name.removeprefix(f"{part}{os.sep}").split(os.sep) for name in names]
    inner = {parts[1] for parts in below if len(parts) > 2}
    if len(inner) < 2 or any(len(parts) == 2 for parts in below):
        return
    (only,) = classes
    remedy = (
        f"pass folder:{root / only} if these are the classes, or flat=true if {only} is one"
        if part == "."
        else f"if these are the classes, name the splits as train={part}/{only}&test=FOLDER/{only}"
    )
    raise IceprobeError(
        f"folder {str(root / part)!r} has one class folder, {only}/, with folders in it "
        f"({some(sorted(inner))}): {remedy}"
    )


def _one_class(folder: AnyPath, classes: Sequence[str]) -> list[str]:
    if len(classes) > 1:
        return []
    return [f"{classes[0]}/ is the one folder in {str(folder)!r}: every image is of this class"]


def _left_out(root: AnyPath, others: Sequence[str], images: int) -> list[str]:
    return [f"folder {str(root)!r}: {left_out(others, images)}"] if others else []


def _loose(root: AnyPath, parts: Sequence[str]) -> list[str]:
    """A line where images lie outside class folders."""
    loose = [
        name if part == "." else f"{part}/{name}"
        for part in parts
        for name in files_in(root / part)
        if is_image(name)
    ]
    if not loose:
        return []
    return [
        f"folder {str(root)!r}: {len(loose)} image(s) outside class folders are left out "
        f"({loose[0]!r} first)"
    ]


def _relative(paths: Sequence[str], root: AnyPath) -> list[str]:
    if isinstance(root, RemotePath):
        return [path.removeprefix(f"{root}/") for path in paths]
    return [os.path.relpath(path, root) for path in paths]
