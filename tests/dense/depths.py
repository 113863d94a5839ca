"""Images of 16 x 16 pixels whose brightness says a number a pixel, in groups, some pixels unknown."""

import numpy as np

from iceprobe.datasets.base import Column, Dataset, DepthSplit
from tests.store.conftest import SIDE

GROUPS = 6


def deep_split(name: str, count: int, seed: int, garbage: float = np.nan) -> DepthSplit:
    """A split; unknown pixels, about a tenth and all of image 3, have the number ``garbage``."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 220, (count, 4, 4))
    bright = coarse.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    maps = (2 + bright / 20).astype(np.float32)
    maps[rng.random(maps.shape) < 0.1] = garbage
    maps[3] = garbage
    images = (bright + rng.normal(0, 4, bright.shape)).clip(0, 255).astype(np.uint8)
    group = Column.of({name: [f"g{row % GROUPS}" for row in range(count)]})[name]
    names = [f"{name}/{row}" for row in range(count)]
    return DepthSplit(name, images, maps, names, columns={"scene": group})


def deep(garbage: float = np.nan, group: str | None = None) -> Dataset:
    splits = {
        "train": deep_split("train", 90, 0, garbage),
        "test": deep_split("test", 30, 1, garbage),
    }
    return Dataset(
        "test:deep", "deep", ["<b>depth</b>"], splits, headline="rmse", units=["m"], group=group
    )
