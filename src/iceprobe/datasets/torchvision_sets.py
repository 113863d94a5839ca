"""Benchmark sets as torchvision reads their official files; images stay undecoded.

torchvision's classes parse the lists and know the splits. Their checksums guard downloads and are
taken there; files that are at hand are found by name (``benchmark.py``), so the classes below
that would verify them again are made to skip that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets as tv

from iceprobe.datasets.base import ArraySplit, Split
from iceprobe.datasets.files import FileSplit, below

Read = tuple[Split, Sequence[str]]


class _Flowers102(tv.Flowers102):
    def _check_integrity(self) -> bool:
        return True


class _Places365(tv.Places365):
    def _check_integrity(self, file: str, md5: str, download: bool) -> bool:
        return True


class _STL10(tv.STL10):
    def _check_integrity(self) -> bool:
        return True


def read_aircraft(root: Path, name: str, parts: Sequence[str]) -> Read:
    """100 variants; labels by the order of ``variants.txt``."""
    return _listed(root, name, [tv.FGVCAircraft(root, split=part) for part in parts])


def read_dtd(root: Path, name: str, parts: Sequence[str]) -> Read:
    """Partition 1 of 10."""
    return _listed(root, name, [tv.DTD(root, split=part) for part in parts])


def read_food101(root: Path, name: str, parts: Sequence[str]) -> Read:
    return _listed(root, name, [tv.Food101(root, split=part) for part in parts])


def read_flowers102(root: Path, name: str, parts: Sequence[str]) -> Read:
    """Images by their numbers in ``setid.mat``; labels on disk count from 1."""
    made = [_Flowers102(root, split=part) for part in parts]
    files = [file for part in made for file in part._image_files]
    labels = [label for part in made for label in part._labels]
    # torchvision 0.21 doesn't know the names yet.
    numbers = [str(number) for number in range(1, 103)]
    return _split(root, name, files, labels), getattr(tv.Flowers102, "classes", numbers)


def read_cars(root: Path, name: str, parts: Sequence[str]) -> Read:
    """Labels on disk count from 1."""
    made = [tv.StanfordCars(root, split=part) for part in parts]
    files, labels = zip(*(sample for part in made for sample in part._samples), strict=True)
    return _split(root, name, files, labels), made[0].classes


def read_places365(root: Path, name: str, parts: Sequence[str]) -> Read:
    """The 256 x 256 images; labels by the file lists, names by ``categories_places365.txt``."""
    made = [_Places365(root, split=part, small=True) for part in parts]
    files, labels = zip(*(sample for part in made for sample in part.imgs), strict=True)
    place: dict[str, int] = made[0].class_to_idx
    return _split(root, name, files, labels), sorted(place, key=place.__getitem__)


def read_stl10(root: Path, name: str, parts: Sequence[str]) -> Read:
    """Labels on disk count from 1, pixels are stored by columns."""
    (part,) = parts
    made = _STL10(root, split=part)
    names = [f"{name}/{index:05d}" for index in range(len(made.labels))]
    split = ArraySplit(name, made.data.transpose(0, 2, 3, 1), made.labels, names)
    return split, made.classes


def _listed(root: Path, name: str, made: Sequence[Any]) -> Read:
    """The files and labels that most of torchvision's classes hold, of one part after another.

    Two parts may hold different classes, and each counts its own: labels go by name.
    """
    files = [file for part in made for file in part._image_files]
    named = [part.classes[label] for part in made for label in part._labels]
    classes = made[0].classes if len(made) == 1 else sorted({c for p in made for c in p.classes})
    place = {class_name: label for label, class_name in enumerate(classes)}
    return _split(root, name, files, [place[class_name] for class_name in named]), classes


def _split(root: Path, name: str, files: Sequence[Any], labels: Sequence[int]) -> FileSplit:
    return FileSplit(name, root, below(root, files), labels)
