"""Test sets with the classes of ImageNet-1k, in folders as their authors distribute them.

    imagenetv2-matched-frequency-format-val/0/… to 999/…     numbers of the sorted WordNet ids
    imagenet-a/n01498041/…, imagenet-r/n01443537/…           200 WordNet ids each
    sketch/n01440764/…                                       all 1,000

Classes have the names of ``imagenet1k``, so that a run on it is read on them by name.
"""

from collections.abc import Sequence
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Split
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.folder import listing
from iceprobe.datasets.imagenet import check_folders, names_of_synsets
from iceprobe.datasets.walking import folders_in

V2 = "imagenetv2-matched-frequency-format-val"


def read_v2(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read ImageNet-V2, whose folders are numbers of classes.

    Raises:
        IceprobeError: for a folder that is no number from 0 to 999.
    """
    classes = list(names_of_synsets().values())
    numbers = {str(number): number for number in range(len(classes))}
    if stray := sorted(set(folders_in(root / V2)) - set(numbers)):
        raise IceprobeError(
            f"folder {stray[0]!r} in {str(root / V2)!r} is no number of a class, 0 to "
            f"{len(classes) - 1}: remove it"
        )
    # In the order of labels; as text 10 comes before 2.
    names, labels, _ = listing(root, V2, list(numbers))
    return FileSplit(name, root, names, labels), classes


def read_a(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read ImageNet-A."""
    return _read(root, name, "imagenet-a", _subset("imagenet_a"))


def read_r(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read ImageNet-R."""
    return _read(root, name, "imagenet-r", _subset("imagenet_r"))


def read_sketch(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read ImageNet-Sketch."""
    return _read(root, name, "sketch", list(names_of_synsets()))


def _read(root: Path, name: str, folder: str, synsets: Sequence[str]) -> tuple[Split, list[str]]:
    """Images in folders of ``synsets``, which are all classes of the set."""
    check_folders(root / folder, synsets)
    names, labels, _ = listing(root, folder, synsets)
    return FileSplit(name, root, names, labels), [names_of_synsets()[one] for one in synsets]


def _subset(name: str) -> list[str]:
    """The WordNet ids of a subset, sorted, from the lists that timm has."""
    from importlib.resources import files

    text = (files("timm.data") / "_info" / f"{name}_synsets.txt").read_text(encoding="utf-8")
    return sorted(text.split())
