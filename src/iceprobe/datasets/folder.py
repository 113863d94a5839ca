"""``folder:DIR``: images on disk in the ordinary ImageFolder layout.

Either ``DIR/train/CLASS/…`` with ``DIR/test/CLASS/…`` or ``DIR/val/CLASS/…``, or one flat
``DIR/CLASS/…`` that is split here, stratified and seeded. Classes are the sorted folder names of
train; images are found at any depth below them and ordered by path. DIR may be a URL of object storage
(``s3://bucket/birds``). Hidden files, files that are
no images by their extension, and images outside class folders are left alone, as torchvision's
``ImageFolder`` leaves them. How files become pictures: docs/images.md.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from iceprobe.datasets.base import Dataset
from iceprobe.datasets.files import FileSplit
from iceprobe.errors import IceprobeError
from iceprobe.remote import RemotePath, located

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


Place = Path | RemotePath


def load_folder(
    name: str,
    *,
    spec: str,
    split: str | None = None,
    test_fraction: float | None = None,
    seed: int | None = None,
) -> Dataset:
    """Load ``folder:DIR``.

    Args:
        name: the folder.
        spec: the spec string it was asked for by.
        split: ``"test"`` or ``"val"``: which folder is read as the test split where there are
            both; test where nothing is said.
        test_fraction: of each class's images, for a flat folder; 0.2 where nothing is said.
        seed: of the split of a flat folder; 0 where nothing is said.

    Raises:
        IceprobeError: if there is no such folder or no class folders in it, if a split or a
            class in train is empty, or if the test split has a class that train has not.
    """
    root = _place(name)
    if not root.is_dir():
        raise IceprobeError(f"no folder {name!r}: pass folder:DIR with an existing directory")
    if split not in (None, "test", "val"):
        raise IceprobeError(f"option split={split!r} of {spec!r}: write test or val")
    label = root.resolve().name
    if (root / "train").is_dir() and (split or _has_split(root)):
        if test_fraction is not None or seed is not None:
            raise IceprobeError(
                f"folder {name!r} has its own splits: test_fraction and seed are for a flat folder"
            )
        return _with_splits(root, _test_folder(root, split), label, spec)
    if split is not None:
        raise IceprobeError(
            f"folder {name!r} has no train/ beside {split}/: make one, or drop split={split}"
        )
    if _is_lone_train(root):
        raise IceprobeError(
            f"folder {name!r} has train/ but neither test/ nor val/: add one, or pass "
            f"folder:{name}/train to split it"
        )
    return _split_flat(root, test_fraction, seed, label, spec)


def unlabelled(folder: str | Path) -> FileSplit:
    """Every image at any depth below a folder, ordered by path; all labels are −1.

    Raises:
        IceprobeError: if there is no such folder, or no image in it.
    """
    root = _place(folder)
    if not root.is_dir():
        raise IceprobeError(f"no folder {str(folder)!r}: name one that holds images")
    found = sorted(_images(root))
    if not found:
        raise IceprobeError(
            f"folder {str(folder)!r} holds no image ({', '.join(EXTENSIONS)}): put some in it"
        )
    names = _relative(found, root)
    return FileSplit("images", root, names, np.full(len(names), -1))


def _place(folder: str | Path) -> Place:
    place = located(folder)
    return place.expanduser() if isinstance(place, Path) else place


def _has_split(root: Place) -> bool:
    return (root / "test").is_dir() or (root / "val").is_dir()


def _is_lone_train(root: Place) -> bool:
    """Whether ``train`` is the only folder and holds folders, so that it is no class."""
    return _folders(root) == ["train"] and bool(_folders(root / "train"))


def _test_folder(root: Place, split: str | None) -> str:
    chosen = split or ("test" if (root / "test").is_dir() else "val")
    if not (root / chosen).is_dir():
        raise IceprobeError(f"folder {str(root)!r} has no {chosen}/: drop split={chosen}")
    return chosen


def _with_splits(root: Place, test: str, name: str, spec: str) -> Dataset:
    classes = _classes(root / "train")
    unseen = sorted(set(_classes(root / test)) - set(classes))
    if unseen:
        raise IceprobeError(
            f"class {unseen[0]!r} is in {str(root / test)!r} but missing from train: "
            "add images of it to train/ or remove it"
        )
    train_names, train_labels = listing(root, "train", classes)
    test_names, test_labels = listing(root, test, classes)
    for label, class_name in enumerate(classes):
        if label not in train_labels:
            raise IceprobeError(
                f"class {class_name!r} is missing from train: {str(root / 'train' / class_name)!r} "
                f"holds no image ({', '.join(EXTENSIONS)}); add some or remove the folder"
            )
    if not len(test_names):
        raise IceprobeError(f"split {test!r} of {str(root)!r} is empty: put images in its folders")
    splits = {
        "train": FileSplit("train", root, train_names, train_labels),
        "test": FileSplit("test", root, test_names, test_labels),
    }
    return Dataset(spec, name, classes, splits)


def _split_flat(
    root: Place, test_fraction: float | None, seed: int | None, name: str, spec: str
) -> Dataset:
    fraction = 0.2 if test_fraction is None else test_fraction
    if not 0 < fraction < 1:
        raise IceprobeError(f"option test_fraction={fraction} of {spec!r}: take one inside (0, 1)")
    classes = _classes(root)
    names, labels = listing(root, ".", classes)
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
    return Dataset(spec, name, classes, splits)


def _classes(folder: Place) -> list[str]:
    classes = _folders(folder)
    if not classes:
        loose = any(map(_is_image, _files(folder)))
        found = (
            "images but no class folders, so labels are missing" if loose else "no class folders"
        )
        raise IceprobeError(
            f"folder {str(folder)!r} has {found}: put the images of each class in a folder of its own"
        )
    return classes


def _folders(folder: Place) -> list[str]:
    if isinstance(folder, RemotePath):
        return [name for name in folder.folders() if not name.startswith(".")]
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(folder: Place) -> list[str]:
    """Names of what lies in a folder itself."""
    return folder.files() if isinstance(folder, RemotePath) else os.listdir(folder)


def listing(root: Place, below: str, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names relative to ``root`` and labels ``(n,)`` of the images, by class, then by path."""
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        found = sorted(_images(root / below / class_name))
        names += _relative(found, root)
        labels += [label] * len(found)
    return names, np.array(labels, np.int64)


def _relative(paths: Sequence[str], root: Place) -> list[str]:
    if isinstance(root, RemotePath):
        return [path.removeprefix(f"{root}/") for path in paths]
    return [os.path.relpath(path, root) for path in paths]


def _images(folder: Place) -> Iterator[str]:
    """Paths of the images at any depth; links are followed, but not into a folder they are in."""
    if isinstance(folder, RemotePath):
        for name in folder.find():
            *inner, file = name.split("/")
            if _is_image(file) and not any(part.startswith(".") for part in inner):
                yield f"{folder}/{name}"
        return
    for here, folders, files in os.walk(folder, followlinks=True):
        inside = os.path.realpath(here)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not _contains(os.path.realpath(os.path.join(here, name)), inside)
        ]
        yield from (os.path.join(here, name) for name in files if _is_image(name))


def _contains(folder: str, inside: str) -> bool:
    return os.path.commonpath([folder, inside]) == folder


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
