"""Benchmark sets as torchvision reads their official files; images stay undecoded.

torchvision's classes parse the lists and know the splits. They compare checksums after a download;
some do so whenever they are opened, which `_unchecked` switches off.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchvision import datasets as tv

from iceprobe.datasets.base import ArraySplit, Split
from iceprobe.datasets.files import FileSplit, below

Read = tuple[Split, Sequence[str]]


def _unchecked(kind: type[Any]) -> Any:
    """The class without its comparison of checksums."""
    return type(kind.__name__, (kind,), {"_check_integrity": lambda *_, **__: True})


_Flowers102, _Places365, _STL10 = map(_unchecked, (tv.Flowers102, tv.Places365, tv.STL10))


def _read_lists(kind: type[Any], root: Path, name: str, parts: Sequence[str]) -> Read:
    """The files and labels that most of torchvision's classes hold, one part after another.

    Two parts may hold different classes and number them differently, so names decide.
    """
    made = [kind(root, split=part) for part in parts]
    files = [file for part in made for file in part._image_files]
    named = [part.classes[label] for part in made for label in part._labels]
    classes = made[0].classes if len(made) == 1 else sorted({c for p in made for c in p.classes})
    place = {class_name: label for label, class_name in enumerate(classes)}
    return _split(root, name, files, [place[class_name] for class_name in named]), classes


read_aircraft = partial(_read_lists, tv.FGVCAircraft)  # 100 variants, as in variants.txt
read_dtd = partial(_read_lists, tv.DTD)  # partition 1 of 10
read_food101 = partial(_read_lists, tv.Food101)


def read_flowers102(root: Path, name: str, parts: Sequence[str]) -> Read:
    """Images by their numbers in ``setid.mat``; labels on disk count from 1."""
    made = [_Flowers102(root, split=part) for part in parts]
    files = [file for part in made for file in part._image_files]
    labels = [label for part in made for label in part._labels]
    # torchvision 0.21 lacks the names.
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


def _split(root: Path, name: str, files: Sequence[Any], labels: Sequence[int]) -> FileSplit:
    return FileSplit(name, root, below(root, files), labels)
