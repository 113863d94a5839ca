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
from iceprobe.datasets.motion import DIRECTIONS, EACH, MotionSplit, compose_motions
from iceprobe.datasets.scenes import compose_scenes

NAMES = ("fashion", "fashion-clutter", "fashion-scenes", "fashion-motion")
CLUTTER_SEEDS = {"train": 0, "test": 1}  # fixed: another seed would be another data set
SCENE_SEEDS = {"train": 2, "test": 3}
MOTION_SEEDS = {"train": 4, "test": 5}
OF_MOTION = ("item", "direction")  # targets of clips; by default both, a class of each pair
UNITS = {"count": "items", "area": "%"}  # of the numbers that a scene has


def parse_target(text: str) -> list[str]:
    """``tags``, one or several numbers of a scene, ``count,area``, or ``distance``, a number a pixel; of
    clips ``item`` or ``direction``.
    """
    names = text.split(",")
    numbers = set(names) <= {*UNITS} and len(set(names)) == len(names)
    if text not in ("tags", "distance", *OF_MOTION) and not numbers:
        raise ValueError(
            f"write tags, count, area or count,area, or distance, of clips {' or '.join(OF_MOTION)}"
        )
    return names


def load_bundled(name: str, *, spec: str, target: list[str] | None = None) -> Dataset:
    """Load a bundled data set.

    Args:
        name: one of `NAMES`.
        spec: that loads it again.
        target: of ``fashion-scenes``: ``["tags"]`` (the default), names of numbers, or ``["distance"]``;
            of ``fashion-motion``: ``["item"]`` or ``["direction"]``, by default both.

    Raises:
        IceprobeError: for a name that isn't bundled, a target of classes, or a file that was changed.
    """
    if name not in NAMES:
        raise IceprobeError(unknown("bundled data set", name, NAMES))
    if target is not None and name not in ("fashion-scenes", "fashion-motion"):
        raise IceprobeError(
            f"{spec!r}: target is an option of bundled:fashion-scenes, and {name} has classes: "
            "leave it out"
        )
    of_motion = target is not None and set(target) <= {*OF_MOTION}
    if target is not None and of_motion != (name == "fashion-motion"):
        theirs = (
            "item or direction" if name == "fashion-motion" else "tags, count, area or distance"
        )
        raise IceprobeError(f"{spec!r}: target={','.join(target)} of {name}: write {theirs}")
    folder = resources.files("iceprobe.datasets") / "bundled"
    classes = json.loads(listed(folder, "fashion.json"))["classes"]
    with io.BytesIO(listed(folder, "fashion.npz")) as file:
        arrays = dict(np.load(file, allow_pickle=False))
    if name == "fashion-scenes":
        return _scenes(arrays, classes, spec, target or ["tags"])
    if name == "fashion-motion":
        return _motion(arrays, classes, spec, target)
    splits = {}
    for split, seed in CLUTTER_SEEDS.items():
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        names = [f"{name}/{split}/{index:05d}" for index in range(len(labels))]
        boxes = masks = clutter = None
        if name == "fashion-clutter":
            images, boxes, masks, clutter = compose(images, labels, seed)
        splits[split] = ArraySplit(split, images, labels, names, boxes, masks, clutter)
    return Dataset(spec, name, classes, splits)


def _motion(
    arrays: dict[str, np.ndarray], items: list[str], spec: str, target: list[str] | None
) -> Dataset:
    """Clips of an item that moves; item and direction are slices where both are the class."""
    directions = list(DIRECTIONS)
    made = {
        s: compose_motions(arrays[f"{s}_images"], arrays[f"{s}_labels"], seed, EACH[s])
        for s, seed in MOTION_SEEDS.items()
    }
    both = len(directions)
    names, of_class = {
        "item": (items, lambda m: m.labels),
        "direction": (directions, lambda m: m.directions),
        "both": (
            [f"{item} {direction}" for item in items for direction in directions],
            lambda m: both * m.labels.astype(np.int64) + m.directions,
        ),
    }[target[0] if target else "both"]
    columns = {
        "item": Column.of({s: [items[k] for k in m.labels] for s, m in made.items()}),
        "direction": Column.of({s: [directions[k] for k in m.directions] for s, m in made.items()}),
    }
    splits: dict[str, Split] = {
        split: MotionSplit(
            split,
            motions,
            of_class(motions),
            [f"fashion-motion/{split}/{index:05d}" for index in range(len(motions.labels))],
            {name: column[split] for name, column in columns.items()},
        )
        for split, motions in made.items()
    }
    label = "-".join(["fashion-motion", *(target or [])])
    return Dataset(spec, label, names, splits, slices=["direction"])


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
