"""``bundled:fashion`` and what is composed of it: real images that ship with the package.

6,000 training and 2,000 test images of Fashion-MNIST (MIT licence; source: ``bundled/fashion.json``),
balanced over 10 classes. ``fashion-clutter`` (an item among pieces of others) and ``fashion-scenes``
(several, with tags, numbers or a number a pixel as targets) are composed when they are loaded, always to the same bytes;
their targets, boxes and masks are exact.
"""

import io
import json
from importlib import resources
from typing import Any

import numpy as np

from iceprobe.core.checksums import listed
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.base import ArraySplit, Column, Dataset, DepthSplit, Split
from iceprobe.datasets.clutter import compose
from iceprobe.datasets.scenes import compose_scenes

NAMES = ("fashion", "fashion-clutter", "fashion-scenes")
CLUTTER_SEEDS = {"train": 0, "test": 1}  # fixed: another seed would be another data set
SCENE_SEEDS = {"train": 2, "test": 3}
UNITS = {"count": "items", "area": "%"}  # of the numbers that a scene has


def parse_target(text: str) -> list[str]:
    """``tags``, one or several numbers of a scene, ``count,area``, or ``distance``, a number a pixel."""
    names = text.split(",")
    numbers = set(names) <= {*UNITS} and len(set(names)) == len(names)
    if text not in ("tags", "distance") and not numbers:
        raise ValueError("write tags, count, area or count,area, or distance")
    return names


def load_bundled(name: str, *, spec: str, target: list[str] | None = None) -> Dataset:
    """Load a bundled data set.

    Args:
        name: one of `NAMES`.
        spec: that loads it again.
        target: of ``fashion-scenes``: ``["tags"]`` (the default), names of numbers, or ``["distance"]``.

    Raises:
        IceprobeError: for a name that isn't bundled, a target of classes, or a file that was changed.
    """
    if name not in NAMES:
        raise IceprobeError(unknown("bundled data set", name, NAMES))
    if target is not None and name != "fashion-scenes":
        raise IceprobeError(
            f"{spec!r}: target is an option of bundled:fashion-scenes, and {name} has classes: "
            "leave it out"
        )
    folder = resources.files("iceprobe.datasets") / "bundled"
    classes = json.loads(listed(folder, "fashion.json"))["classes"]
    with io.BytesIO(listed(folder, "fashion.npz")) as file:
        arrays = dict(np.load(file, allow_pickle=False))
    if name == "fashion-scenes":
        return _scenes(arrays, classes, spec, target or ["tags"])
    splits = {}
    for split, seed in CLUTTER_SEEDS.items():
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        names = [f"{name}/{split}/{index:05d}" for index in range(len(labels))]
        boxes = masks = clutter = None
        if name == "fashion-clutter":
            images, boxes, masks, clutter = compose(images, labels, seed)
        splits[split] = ArraySplit(split, images, labels, names, boxes, masks, clutter)
    return Dataset(spec, name, classes, splits)


def _scenes(
    arrays: dict[str, np.ndarray], classes: list[str], spec: str, target: list[str]
) -> Dataset:
    """Targets of scenes; the pool of originals is the group, the number of pieces a slice."""
    made = {s: compose_scenes(arrays[f"{s}_images"], seed) for s, seed in SCENE_SEEDS.items()}
    pools = Column.of({s: [f"{s}/{pool:03d}" for pool in m.pools] for s, m in made.items()})
    pieces = Column.of({s: [str(number) for number in m.pieces] for s, m in made.items()})
    names, units, headline = target, [UNITS.get(one, "px") for one in target], "r2"
    if target == ["tags"]:
        names, units, headline = classes, [], "map"
    elif target == ["distance"]:
        headline = "rmse"
    splits: dict[str, Split] = {}
    for split, scenes in made.items():
        common: dict[str, Any] = {
            "names": [f"fashion-scenes/{split}/{index:05d}" for index in range(len(scenes.images))],
            "boxes": scenes.boxes,
            "backgrounds": scenes.backgrounds,
            "columns": {"pool": pools[split], "pieces": pieces[split]},
        }
        if target == ["distance"]:
            splits[split] = DepthSplit(split, scenes.images, scenes.distances, **common)
            continue
        numbers = {"count": scenes.counts, "area": scenes.areas}
        splits[split] = ArraySplit(
            split,
            scenes.images,
            scenes.tags(arrays[f"{split}_labels"], len(classes))
            if target == ["tags"]
            else np.stack([numbers[one] for one in target], 1),
            objects=scenes.masks,
            task="multilabel" if target == ["tags"] else "regression",
            **common,
        )
    return Dataset(
        spec,
        "-".join(["fashion-scenes", *([] if target == ["tags"] else target)]),
        names,
        splits,
        headline=headline,
        units=units,
        group="pool",
        slices=["pieces"],
    )
