"""CUB-200-2011 (Wah et al. 2011): birds with a box each, from the lists of its archive.

``images.txt`` numbers the images from 1; the other lists give for each number the class (from 1),
train (1) or test (0), and the box as x, y, width, height in pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iceprobe.datasets.base import Split
from iceprobe.datasets.files import FileSplit

_IN_TRAIN = {"train": "1", "test": "0"}


def read_cub200(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read the images of the parts ``"train"`` or ``"test"``, in the order of ``images.txt``."""
    folder = root / "CUB_200_2011"
    label = _column(folder / "image_class_labels.txt")
    in_train = _column(folder / "train_test_split.txt")
    box = _column(folder / "bounding_boxes.txt")
    wanted = {_IN_TRAIN[part] for part in parts}
    files = _column(folder / "images.txt")
    chosen = {number: file for number, file in files.items() if in_train[number] in wanted}
    corners = np.array([box[number].split() for number in chosen], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    split = FileSplit(
        name,
        root,
        [f"CUB_200_2011/images/{file}" for file in chosen.values()],
        [int(label[number]) - 1 for number in chosen],
        corners,
    )
    classes = _column(folder / "classes.txt").values()
    return split, [text.partition(".")[2].replace("_", " ") for text in classes]


def _column(path: Path) -> dict[str, str]:
    """Number → the rest of its line, in the order of the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number: rest for number, _, rest in (line.partition(" ") for line in lines)}
