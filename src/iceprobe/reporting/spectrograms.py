"""Recordings on the page: the spectrogram of what the backbone read, and maps over it.

Tokens of a recording lie on a grid of bands and time, the lowest band first, or one after the other in time: each
then stands for its part of the picture, from top to bottom.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from iceprobe.backbones.sound_preprocessing import SECONDS
from iceprobe.reporting.pictures import AS_IS

if TYPE_CHECKING:
    from iceprobe.store import Store

SIZE = (396, 88)  # pixels of a picture
COLUMNS = 198  # cells across it, of tokens without a grid


@dataclass(frozen=True)
class Spectrograms:
    """The spectrograms that are shown.

    Attributes:
        strips: a picture a recording.
        grid: bands and columns of the tokens; ``None`` if they are one after the other.
        lengths: ``(B,)`` tokens of each recording; ``None`` if all have as many.
    """

    strips: list[Image.Image]
    grid: tuple[int, int] | None
    lengths: NDArray[np.int64] | None
    aside: ClassVar[int] = 1  # pictures of each of `strips`
    said: ClassVar[str] = (
        "spectrograms of all that it read, padding too: time runs to the right, pitch upwards"
    )

    @property
    def middle(self) -> list[Image.Image]:
        """The same pictures."""
        return self.strips

    def cells(self, maps: Tensor, *, one: bool = False) -> NDArray[np.float32]:
        """Maps ``(B, …, N)`` → ``(B, …, bands, columns)``, the highest band first."""
        if self.grid is not None:
            return maps.unflatten(-1, self.grid).flip(-2).float().numpy()
        return np.stack([one.numpy() for one in self._stretched(maps.float())])[..., None, :]

    def shares(self, maps: Tensor, *, one: bool = False) -> NDArray[np.float32]:
        """The same of attention, which sums to 1 over a recording's own tokens, and does so over the cells."""
        cells = self.cells(maps)
        total = np.maximum(cells.sum((-2, -1), keepdims=True), 1e-12)
        shares: NDArray[np.float32] = cells / total
        return shares

    def _stretched(self, maps: Tensor) -> list[Tensor]:
        """Each recording's tokens over `COLUMNS`: the mean of those that a column meets."""
        lengths = [maps.shape[-1]] * len(maps) if self.lengths is None else self.lengths.tolist()
        return [
            F.adaptive_avg_pool1d(own.flatten(0, -2)[None, :, :n], COLUMNS)[0].unflatten(
                0, own.shape[:-1]
            )
            for own, n in zip(maps, lengths, strict=True)
        ]


def with_length(found: Image.Image) -> Image.Image:
    """A spectrogram at `SIZE`, with its seconds in a corner."""
    picture = found.resize(SIZE, Image.Resampling.BILINEAR)
    picture.info[AS_IS] = True
    text = f"{picture.info[SECONDS]:.3g} s"
    draw = ImageDraw.Draw(picture)
    place = (SIZE[0] - 5, SIZE[1] - 4)
    draw.text(place, text, fill=255, anchor="rb", font_size=13, stroke_width=2, stroke_fill=0)
    return picture


def spectrograms(store: "Store", split: str, rows: NDArray[np.int64]) -> Spectrograms:
    """Of the recordings of a store.

    Raises:
        IceprobeError: if the recordings can't be found or read.
    """
    grid = store.grid
    lengths = store[split].lengths
    return Spectrograms(
        [with_length(found) for found in store.images(split, rows)],
        None if grid is None else (grid[0], grid[1]),
        None if lengths is None else lengths[rows],
    )
