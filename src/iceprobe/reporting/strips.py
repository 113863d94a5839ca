"""Clips on the page: a few of their moments side by side, and maps over each of them.

Tokens of a clip lie in a grid ``(T, H, W)``, or ``(T,)`` where a frame is one token. A token of several frames is
shown on the first of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from iceprobe.backbones.clip_preprocessing import ClipPreprocessing
from iceprobe.backbones.kinds import ExamplePreprocessing
from iceprobe.datasets.base import Split
from iceprobe.reporting.pictures import side_by_side
from iceprobe.store.format import listed_as

if TYPE_CHECKING:
    from iceprobe.store import Store

MOST = 6  # moments side by side


@dataclass(frozen=True)
class Moments:
    """The moments that are shown.

    Attributes:
        grid: ``(T, H, W)`` of the tokens.
        shown: which of the T, ascending.
        frames: of each clip, one picture a moment, as the backbone saw it.
    """

    grid: tuple[int, int, int]
    shown: list[int]
    frames: list[list[Image.Image]]
    said: ClassVar[str] = "of each clip up to six moments side by side"

    @property
    def aside(self) -> int:
        """Frames of each of :attr:`strips`."""
        return len(self.shown)

    @property
    def middle(self) -> list[Image.Image]:
        """The frame of each clip that stands for it where there is room for one."""
        return [each[len(self.shown) // 2] for each in self.frames]

    @property
    def strips(self) -> list[Image.Image]:
        """The frames of each clip side by side."""
        return [side_by_side(each) for each in self.frames]

    def cells(self, maps: Tensor, *, one: bool = False) -> NDArray[np.float32]:
        """Maps ``(…, N)`` → ``(…, H, K · W)``: the K moments side by side, or the middle ``one``."""
        chosen = self.shown[len(self.shown) // 2 :][:1] if one else self.shown
        planes = maps.unflatten(-1, self.grid)[..., chosen, :, :]
        cells: NDArray[np.float32] = planes.transpose(-3, -2).flatten(-2).float().numpy()
        return cells

    def shares(self, maps: Tensor, *, one: bool = False) -> NDArray[np.float32]:
        """The same of attention, which sums to 1 over all moments: on the scale of those that are shown."""
        cells = self.cells(maps, one=one)
        return cells * (maps.shape[-1] / (cells.shape[-1] * cells.shape[-2]))


def moments(store: "Store", split: str, rows: NDArray[np.int64]) -> Moments:
    """Of the clips of a store.

    Raises:
        IceprobeError: if the clips can't be found or read.
    """
    preprocessing = ExamplePreprocessing.from_dict(store.manifest.backbone.preprocessing)
    source = store.dataset().splits[listed_as(split)]
    return moments_of(preprocessing, source, store[split].index[rows].tolist(), store.grid)


def moments_of(
    preprocessing: ExamplePreprocessing,
    split: Split,
    rows: Iterable[int],
    grid: tuple[int, ...] | None,
) -> Moments:
    """Of the clips of a data set, whose tokens lie on a ``grid``.

    Raises:
        IceprobeError: if one can't be read.
    """
    assert isinstance(preprocessing, ClipPreprocessing)
    time, height, width = (*(grid or ()), 1, 1)[:3]
    count = min(MOST, time)
    shown = [int((step + 0.5) * time / count) for step in range(count)]
    found = []
    for row in rows:
        clip = split.example(row)
        read = preprocessing.indices(clip)
        frames = clip.frames([read[step * len(read) // time] for step in shown])
        found.append([preprocessing.crop(Image.fromarray(frame)) for frame in frames])
    return Moments((time, height, width), shown, found)
