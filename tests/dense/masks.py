"""Images of 16 x 16 pixels, an object of 8 x 8 in each that says its class by brightness."""

import numpy as np

from iceprobe.datasets.base import ArraySplit, Dataset
from tests.store.conftest import SIDE

GREYS = (0, 255, 130)  # background is 60


def planted_split(name: str, count: int, seed: int) -> ArraySplit:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(GREYS)
    pixels = rng.normal(60, 8, (count, SIDE, SIDE))
    objects = np.zeros((count, SIDE, SIDE), bool)
    for i, (y, x) in enumerate(4 * rng.integers(0, 3, (count, 2))):
        pixels[i, y : y + 8, x : x + 8] = rng.normal(GREYS[labels[i]], 8, (8, 8))
        objects[i, y : y + 8, x : x + 8] = True
    images = pixels.clip(0, 255).astype(np.uint8)
    return ArraySplit(name, images, labels, [f"{name}/{i}" for i in range(count)], objects=objects)


def planted() -> Dataset:
    splits = {"train": planted_split("train", 90, 0), "test": planted_split("test", 30, 1)}
    return Dataset("test:planted", "planted", ["dark", "bright", "<b>grey</b>"], splits)
