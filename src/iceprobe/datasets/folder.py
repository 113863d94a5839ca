"""``folder:DIR``: images on disk in the ordinary ImageFolder layout.

Either ``DIR/train/CLASS/…`` with ``DIR/test/CLASS/…`` or ``DIR/val/CLASS/…`` (``layout.py``), or a
flat ``DIR/CLASS/…`` that is split here, stratified and seeded. Classes are the sorted folder names
of train; images are found at any depth below them and ordered by path (``walking.py``). DIR may be a
URL of object storage (``s3://bucket/birds``). Hidden files are ignored, as by torchvision's
``ImageFolder``; other files that aren't images, and images outside class folders, are reported.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.files import FileSplit, below
from iceprobe.datasets.layout import Layout, assumed_classes, find_layout, refuse_splits_below
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
from iceprobe.machine.object_storage import located
from iceprobe.tasks.stratified import heldout_split


@dataclass(frozen=True)
class Contents:
    """What the files of a folder are.

    Attributes:
        source: of the spec, for a remedy.
        what: one of them.
        endings: of their names.
        split: that reads them.
    """

    source: str
    what: str
    endings: tuple[str, ...]
    split: type[FileSplit]


IMAGES = Contents("folder", "image", EXTENSIONS, FileSplit)


@dataclass(frozen=True)
class FolderOptions:
    """Options of one folder a class.

    Attributes:
        split: ``"test"`` or ``"val"``: the folder of the test split if there are both, by default
            test.
        train, test: the folders of the splits, if they have unusual names.
        flat: every folder is a class, whatever its name.
        test_fraction: of each class's images, for a flat folder; 0.2 by default. 1 makes all of them the
            test split, on which a run on another data set is read.
        seed: of the split of a flat folder; 0 by default.
    """

    split: str | None = None
    train: str | None = None
    test: str | None = None
    flat: bool = False
    test_fraction: float | None = None
    seed: int | None = None


def load_folder(name: str, *, spec: str, **options: Any) -> Dataset:
    """Load ``folder:DIR``; the options are those of `FolderOptions`.

    Raises:
        IceprobeError: as of :func:`load_files`.
    """
    return load_files(name, spec, FolderOptions(**options), IMAGES)


def load_files(name: str, spec: str, asked: FolderOptions, contents: Contents) -> Dataset:
    """Files in one folder a class.

    Args:
        name: the folder.
        spec: the spec string given.
        asked: how its folders are read.
        contents: what the files are; its ``source`` stands for ``folder``.

    Raises:
        IceprobeError: if the folder or its class folders are missing or can't be read, folders look
            like splits and can't be read as such, a split is empty, or train lacks a class.
    """
    root = _located(name)
    if not root.is_dir():
        raise IceprobeError(
            f"no folder {name!r}: pass {contents.source}:DIR with an existing directory"
        )
    split, train, test, flat = asked.split, asked.train, asked.test, asked.flat
    if split not in (None, "test", "val"):
        raise IceprobeError(
            f"option split={split!r} of {spec!r}: write test or val, or name the folder as test="
        )
    if sum((bool(split), bool(test), flat)) > 1 or (flat and train):
        raise IceprobeError(f"{spec!r}: split=, test= and flat=true exclude each other, keep one")
    label = root.resolve().name
    words = {"source": contents.source, "what": f"{contents.what}s"}
    layout = None if flat else find_layout(root, split=split, train=train, test=test, **words)
    if layout is None:
        return _split_flat(root, asked, label, spec, contents)
    if asked.test_fraction is not None or asked.seed is not None:
        raise IceprobeError(
            f"folder {name!r} has its own splits: test_fraction and seed are for a flat folder"
        )
    return _with_splits(root, layout, label, spec, contents)


def unlabelled(folder: str | Path, contents: Contents = IMAGES) -> FileSplit:
    """Every file of ``contents`` at any depth below a folder, ordered by path; all labels are −1.

    Raises:
        IceprobeError: if the folder is missing, can't be read, or holds none.
    """
    root, what = _located(folder), f"{contents.what}s"
    if not root.is_dir():
        raise IceprobeError(f"no folder {str(folder)!r}: name one that holds {what}")
    found, others = images_below(root, contents.endings)
    if not found:
        raise IceprobeError(
            f"folder {str(folder)!r} holds no {contents.what} ({', '.join(contents.endings)}): put some in it"
        )
    if others:
        said = left_out(below(root, others), len(found), contents.source, what)
        log_assumptions([f"folder {str(root)!r}: {said}"])
    return contents.split(what, root, below(root, found), np.full(len(found), -1))


def listing(
    root: AnyPath, part: str, classes: Sequence[str], endings: tuple[str, ...] = EXTENSIONS
) -> tuple[list[str], np.ndarray, list[str]]:
    """Names relative to ``root`` and labels ``(n,)`` of the images, by class, then by path.

    The third value names the other files in the class folders.
    """
    listed = [images_below(root / part / class_name, endings) for class_name in classes]
    names = [name for images, _ in listed for name in below(root, images)]
    others = [name for _, rest in listed for name in below(root, rest)]
    return names, np.repeat(np.arange(len(classes)), [len(images) for images, _ in listed]), others


def _located(folder: str | Path) -> AnyPath:
    place = located(folder)
    return place.expanduser() if isinstance(place, Path) else place


def _with_splits(
    root: AnyPath, layout: Layout, name: str, spec: str, contents: Contents
) -> Dataset:
    classes = _classes(root / layout.train, contents)
    unseen = sorted(set(_classes(root / layout.test, contents)) - set(classes))
    if unseen:
        raise IceprobeError(
            f"class {unseen[0]!r} is in {str(root / layout.test)!r} but missing from train: "
            f"add {contents.what}s of it to {layout.train}/ or remove it"
        )
    train_names, train_labels, others = listing(root, layout.train, classes, contents.endings)
    test_names, test_labels, others_in_test = listing(root, layout.test, classes, contents.endings)
    counts = np.bincount(train_labels, minlength=len(classes))
    if not counts.all():
        empty = classes[int(counts.argmin())]
        raise IceprobeError(
            f"class {empty!r} is missing from train: {str(root / layout.train / empty)!r} "
            f"holds no {contents.what} ({', '.join(contents.endings)}); add some or remove the folder"
        )
    if not len(test_names):
        raise IceprobeError(
            f"split {layout.test!r} of {str(root)!r} is empty: put {contents.what}s in its folders"
        )
    splits = {
        "train": contents.split("train", root, train_names, train_labels),
        "test": contents.split("test", root, test_names, test_labels),
    }
    _refuse_classes_below(root, layout.train, classes, train_names, contents)
    parts = [layout.train, layout.test]
    count = len(train_names) + len(test_names)
    others += others_in_test
    assumed = [*layout.assumed, *_assumed(root, parts, classes, others, count, contents)]
    return Dataset(spec, name, classes, splits, assumed=assumed)


def _split_flat(
    root: AnyPath, asked: FolderOptions, name: str, spec: str, contents: Contents
) -> Dataset:
    fraction = 0.2 if asked.test_fraction is None else asked.test_fraction
    if not 0 < fraction <= 1:
        raise IceprobeError(f"option test_fraction={fraction} of {spec!r}: take one inside (0, 1]")
    classes = _classes(root, contents)
    names, labels, others = listing(root, ".", classes, contents.endings)
    if not asked.flat:
        refuse_splits_below(root, names, contents.source)
        _refuse_classes_below(root, ".", classes, names, contents)
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < (2 if fraction < 1 else 1):
        poor = classes[int(counts.argmin())]
        raise IceprobeError(
            f"class {poor!r} in {str(root)!r} has {counts.min()} {contents.what}(s): a split needs "
            f"{2 if fraction < 1 else 1} of each class; add some or remove the folder"
        )
    nothing, everything = np.empty(0, np.int64), np.arange(len(labels))
    train, test = (
        (nothing, everything) if fraction == 1 else heldout_split(labels, asked.seed or 0, fraction)
    )
    splits = {
        split: contents.split(split, root, [names[row] for row in rows], labels[rows])
        for split, rows in (("train", train), ("test", test))
        if len(rows)
    }
    assumed = [] if asked.flat else assumed_classes(root)
    assumed += _assumed(root, ["."], classes, others, len(names), contents)
    return Dataset(spec, name, classes, splits, assumed=assumed)


def _classes(folder: AnyPath, contents: Contents) -> list[str]:
    classes = folders_in(folder)
    if not classes:
        found = "no class folders"
        if any(is_image(name, contents.endings) for name in files_in(folder)):
            found = f"{contents.what}s but no class folders, so labels are missing"
        raise IceprobeError(
            f"folder {str(folder)!r} has {found}: put the {contents.what}s of each class in a folder of "
            "its own"
        )
    return classes


def _refuse_classes_below(
    root: AnyPath, part: str, classes: Sequence[str], names: Sequence[str], contents: Contents
) -> None:
    """Refuse ``images/robin/…`` and ``images/wren/…`` as one class, "images"."""
    if len(classes) > 1:
        return
    inside = [name.removeprefix(f"{part}{os.sep}").split(os.sep) for name in names]
    inner = {parts[1] for parts in inside if len(parts) > 2}
    if len(inner) < 2 or any(len(parts) == 2 for parts in inside):
        return
    (only,) = classes
    remedy = (
        f"pass {contents.source}:{root / only} if these are the classes, or flat=true if {only} is one"
        if part == "."
        else f"if these are the classes, name the splits as train={part}/{only}&test=FOLDER/{only}"
    )
    raise IceprobeError(
        f"folder {str(root / part)!r} has one class folder, {only}/, with folders in it "
        f"({some(sorted(inner))}): {remedy}"
    )


def _assumed(
    root: AnyPath,
    parts: Sequence[str],
    classes: Sequence[str],
    others: Sequence[str],
    count: int,
    contents: Contents,
) -> list[str]:
    """A line each for a single class, files that aren't images, and images outside class folders."""
    lines, what = [], contents.what
    if len(classes) == 1:
        folder = str(root / parts[0])
        lines = [f"{classes[0]}/ is the one folder in {folder!r}: every {what} is of this class"]
    if others:
        lines.append(
            f"folder {str(root)!r}: {left_out(others, count, contents.source, f'{what}s')}"
        )
    loose = [
        name if part == "." else f"{part}/{name}"
        for part in parts
        for name in files_in(root / part)
        if is_image(name, contents.endings)
    ]
    if loose:
        lines.append(
            f"folder {str(root)!r}: {len(loose)} {what}(s) outside class folders are left out "
            f"({loose[0]!r} first)"
        )
    return lines
