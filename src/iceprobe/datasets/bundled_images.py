"""``bundled:fashion`` and ``bundled:fashion-clutter``: real images that ship with the package.

6,000 training and 2,000 test images of Fashion-MNIST (MIT licence; source: ``bundled/fashion.json``),
balanced over 10 classes. The cluttered set is composed when it is loaded, always to the same bytes;
its boxes and masks are exact.
"""

import io
import json
from importlib import resources

import numpy as np

from iceprobe.core.checksums import listed
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.datasets.clutter import compose

NAMES = ("fashion", "fashion-clutter")
CLUTTER_SEEDS = {"train": 0, "test": 1}  # fixed: another seed would be another data set


def load_bundled(name: str, *, spec: str) -> Dataset:
    """Load a bundled data set.

    Raises:
        IceprobeError: for a name that isn't bundled, or a file that was changed.
    """
    if name not in NAMES:
        raise IceprobeError(unknown("bundled data set", name, NAMES))
    folder = resources.files("iceprobe.datasets") / "bundled"
    classes = json.loads(listed(folder, "fashion.json"))["classes"]
    splits = {}
    with io.BytesIO(listed(folder, "fashion.npz")) as file:
        arrays = np.load(file, allow_pickle=False)
        for split, seed in CLUTTER_SEEDS.items():
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            names = [f"{name}/{split}/{index:05d}" for index in range(len(labels))]
            boxes = masks = clutter = None
            if name == "fashion-clutter":
                images, boxes, masks, clutter = compose(images, labels, seed)
            splits[split] = ArraySplit(split, images, labels, names, boxes, masks, clutter)
    return Dataset(spec, name, classes, splits)
