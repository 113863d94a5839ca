"""Items that move over clutter: the frames of a clip hold what no single one of them does.

    frame t = clutter, and the item at (y, x) = (y0, x0) + t · STEP · direction, modulo the canvas

An item that leaves on one side comes in on the other, and (y0, x0) is uniform. So at every t the place of the
item is uniform whatever the direction is: no single frame tells it. The frames in the opposite order are as
likely: what doesn't know their order tells across from down at most.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from iceprobe.datasets.base import Column, Split
from iceprobe.datasets.clips import ArrayClip
from iceprobe.datasets.clutter import CANVAS, compose

FRAMES = 8
STEP = 3  # pixels from frame to frame
DIRECTIONS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}
EACH = {"train": 300, "test": 100}  # clips of a class of items


class Motions(NamedTuple):
    """What clips are composed of.

    Attributes:
        clutter: ``(n, CANVAS, CANVAS)`` uint8, the same in all frames of a clip.
        items: ``(n, s, s)`` uint8, zero outside the item.
        labels: ``(n,)``, classes of the items.
        directions: ``(n,)``, places in `DIRECTIONS`.
        starts: ``(n, 2)``: y0, x0 of the upper left corner.
    """

    clutter: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    directions: np.ndarray
    starts: np.ndarray

    def frames(self, index: int) -> np.ndarray:
        """``(FRAMES, CANVAS, CANVAS)`` uint8."""
        item = self.items[index]
        step = STEP * np.array(list(DIRECTIONS.values()))[self.directions[index]]
        corners = self.starts[index] + np.arange(FRAMES)[:, None] * step
        across = (corners[..., None] + np.arange(len(item))) % CANVAS  # (FRAMES, 2, s)
        made = np.repeat(self.clutter[index][None], FRAMES, 0)
        for frame, (rows, columns) in zip(made, across, strict=True):
            place = np.ix_(rows, columns)
            frame[place] = np.where(item > 0, item, frame[place])
        return made


def compose_motions(images: np.ndarray, labels: np.ndarray, seed: int, each: int) -> Motions:
    """The first ``each`` images of each class, in all directions equally often.

    Everything is drawn from ``numpy.random.Generator(PCG64(seed))`` in a fixed order, so the bytes depend on
    the arguments alone.

    Args:
        images: ``(n, s, s)`` uint8, zero outside the item.
        labels: ``(n,)`` integer classes.
        seed: of the places and of the clutter.
        each: clips of a class, a multiple of the number of directions.
    """
    rows = np.concatenate([np.flatnonzero(labels == one)[:each] for one in np.unique(labels)])
    items, classes = images[rows], labels[rows]
    rng = np.random.Generator(np.random.PCG64(seed))
    starts = rng.integers(0, CANVAS, (len(rows), 2))
    directions = np.arange(len(rows)) % len(DIRECTIONS)
    return Motions(compose(items, classes, seed).clutter, items, classes, directions, starts)


class MotionSplit(Split):
    """Clips that are composed when they are asked for."""

    kind = "clip"

    def __init__(
        self,
        name: str,
        motions: Motions,
        labels: np.ndarray,
        names: list[str],
        columns: dict[str, Column],
    ):
        super().__init__(name, labels, names, columns=columns)
        self.motions = motions

    def example(self, index: int) -> ArrayClip:
        return ArrayClip(self.motions.frames(index), float(FRAMES))

    def image(self, index: int) -> Image.Image:
        return self.example(index).middle()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{FRAMES} {STEP} {DIRECTIONS}".encode())
        for array in (*self.motions, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
