"""What is decoded together: the rows of one forward pass, and the images that they became."""

from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from iceprobe.datasets.pixels import Seen


@dataclass(frozen=True)
class Work:
    """One forward pass to make: ``rows (b,)`` of a split, which belong to shard ``number``."""

    split: str
    number: int
    rows: np.ndarray
    last: bool  # of its shard
    views: int = 1  # to make of each image, the evaluation view first


@dataclass(frozen=True)
class Decoded:
    """Images as the backbone sees them, and which of the rows asked for they are."""

    images: Tensor  # (V, b, C, S, S) float32, the evaluation view first
    rows: np.ndarray  # (b,)
    boxes: np.ndarray | None  # (b, 4) float32, in pixels of the crop
    masks: np.ndarray | None  # (b, S, S) uint8, 1 on the object
    bad: list[tuple[int, str]]  # row and message of each image that couldn't be read
    seen: list[Seen] = field(default_factory=list)  # what was done to each that could

    def pin_memory(self) -> "Decoded":
        return replace(self, images=self.images.pin_memory())
