"""SUN397 (Xiao et al. 2010), partition 01: 50 images a class to train on and 50 to test on.

``ClassName.txt`` lists the classes as ``/a/abbey`` or ``/a/apse/indoor``; the partition's lists
name images below them. torchvision doesn't read partitions.
"""

from collections.abc import Sequence
from pathlib import Path

from iceprobe.datasets.base import Split
from iceprobe.datasets.files import FileSplit

_LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}


def read_sun397(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read the lists of the parts ``"train"`` or ``"test"``, in their order."""
    folder = root / "SUN397"
    classes = _lines(folder / "ClassName.txt")
    place = {class_name: label for label, class_name in enumerate(classes)}
    images = [line for part in parts for line in _lines(folder / _LISTS[part])]
    labels = [place[image.rpartition("/")[0]] for image in images]
    split = FileSplit(name, root, [f"SUN397{image}" for image in images], labels)
    return split, [class_name.split("/", 2)[2] for class_name in classes]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()
