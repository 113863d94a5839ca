"""One forward pass: its rows of a split, and their decoded examples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from iceprobe.backbones.kinds import Ragged
from iceprobe.datasets.base import Split
from iceprobe.datasets.pixels import Seen
from iceprobe.store.format import ExtractionSettings

MOST = 256  # images of one pass, where examples are several


@dataclass(frozen=True)
class Work:
    """One forward pass to make: ``rows (b,)`` of a split, in shard ``number``."""

    split: str
    number: int
    rows: np.ndarray
    last: bool  # of its shard
    views: int = 1  # to make of each image, the evaluation view first


@dataclass(frozen=True)
class Decoded:
    """Examples as the backbone sees them, and their rows."""

    # A batch a view, the evaluation view first: (V, b, …) float32, (V, b, C, S, S) of images.
    images: Tensor | list[Ragged]
    rows: np.ndarray  # (b,)
    boxes: np.ndarray | None  # (b, 4) float32, in pixels of the crop
    masks: np.ndarray | None  # (b, S, S) uint8, 1 on the object
    covers: np.ndarray | None  # (b, N) float32, in place of masks of images of their own shape
    depths: np.ndarray | None  # (b, S, S) float32, NaN where it isn't known
    bad: list[tuple[int, str]]  # row and message of each image that couldn't be read
    seen: list[Seen] = field(default_factory=list)  # what was done to each of the others

    def pin_memory(self) -> "Decoded":
        if isinstance(self.images, Tensor):
            return replace(self, images=self.images.pin_memory())
        return replace(self, images=[view.pin_memory() for view in self.images])


def in_pieces(work: Iterable[Work], splits: Mapping[str, Split]) -> Iterator[Work]:
    """``work``, cut further where its examples have more than `MOST` images together; one may have more alone."""
    for item in work:
        parts = splits[item.split].parts
        if parts is None or not len(item.rows):
            yield item
            continue
        places = np.cumsum(parts[item.rows])
        firsts, taken = [0], 0
        for place, total in enumerate(places):
            if total - taken > MOST and place > firsts[-1]:
                firsts.append(place)
                taken = int(places[place - 1])
        for first, end in pairwise([*firsts, len(item.rows)]):
            last = item.last and end == len(item.rows)
            yield replace(item, rows=item.rows[first:end], last=last)


def plan_work(
    split: str, rows: np.ndarray, number: int, settings: ExtractionSettings
) -> list[Work]:
    """Cut shard ``number`` of ``rows`` into batches, the same in every process and every run."""
    start = number * settings.shard_images
    rows = rows[start : start + settings.shard_images]
    size, views = settings.batch_size, settings.views_of(split)
    firsts = range(0, len(rows), size)
    return [
        Work(split, number, rows[first : first + size], last=first == firsts[-1], views=views)
        for first in firsts
    ]
