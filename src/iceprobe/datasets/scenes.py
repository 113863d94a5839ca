"""Several items an image among pieces of others: exact tags and numbers, in independent groups.

Originals are dealt into pools of `POOL`, and each pool makes `SCENES` scenes: of each, some of the pool's
originals are whole items and others give pieces. So scenes of different pools share no original, and
the pool is the group. Items lie in the four cells of the canvas, none over another, so every item is
whole: what is counted is seen.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iceprobe.datasets.clutter import CANVAS, PIECE, tight_boxes, window

POOL = 10  # originals of a pool
SCENES = 7  # of a pool
ITEMS = (0, *[1] * 4, *[2] * 5, *[3] * 4, *[4] * 2)  # in a scene, each as likely as any
PIECES = (0, 3, 6)  # likewise; docs/bundled.md says how both were chosen
MOST = max(ITEMS)  # items, a cell each


class Scenes(NamedTuple):
    """Composed images and what is in each.

    Attributes:
        images: ``(n, CANVAS, CANVAS)`` uint8.
        masks: ``(n, CANVAS, CANVAS)`` bool, the pixels of all items.
        backgrounds: the images without their items.
        boxes: ``(n, 4)`` float32, the tight box of the item as ``x0, y0, x1, y1``, where there is one
            item; NaN where there are none or several.
        originals: ``(n, MOST)`` int64, the rows of the items, −1 beyond their number.
        pieces: ``(n,)`` int64, how many there are.
        pools: ``(n,)`` int64, the pool of each.
    """

    images: np.ndarray
    masks: np.ndarray
    backgrounds: np.ndarray
    boxes: np.ndarray
    originals: np.ndarray
    pieces: np.ndarray
    pools: np.ndarray

    def tags(self, labels: NDArray[np.integer], classes: int) -> NDArray[np.uint8]:
        """Which classes are in each scene, ``(n, classes)``, by the originals' ``labels``."""
        found = np.zeros((len(self.images), classes), np.uint8)
        scene, place = np.nonzero(self.originals >= 0)
        found[scene, labels[self.originals[scene, place]]] = 1
        return found

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of items, ``(n,)``."""
        found: NDArray[np.int64] = (self.originals >= 0).sum(1)
        return found

    @property
    def areas(self) -> NDArray[np.float64]:
        """Share of the canvas that items cover, in %, ``(n,)``."""
        found: NDArray[np.float64] = self.masks.sum((1, 2)) * 100 / CANVAS**2
        return found

    @property
    def distances(self) -> NDArray[np.float32]:
        """1 + the distance of each pixel to the nearest pixel of an item, in pixels, ``(n, CANVAS, CANVAS)``.

        Exact between centres of pixels (Euclidean distance transform), so 1 on an item. NaN in a scene
        without one: there the distance isn't known.
        """
        from scipy.ndimage import distance_transform_edt

        found = np.full(self.masks.shape, np.nan, np.float32)
        for scene in np.flatnonzero(self.masks.any((1, 2))):
            found[scene] = 1 + distance_transform_edt(~self.masks[scene])
        return found


def compose_scenes(items: np.ndarray, seed: int) -> Scenes:
    """Deal the items into pools and make the scenes of each.

    Everything is drawn as whole numbers from ``numpy.random.Generator(PCG64(seed))`` in a fixed
    order, so the bytes depend on the arguments alone.

    Args:
        items: ``(m, s, s)`` uint8, zero outside the item, s = CANVAS/2; those beyond a multiple of
            `POOL` are left out.
        seed: of the pools, of the choice in each scene and of all positions.
    """
    side, rng = items.shape[1], np.random.Generator(np.random.PCG64(seed))
    pools = _shuffled(rng, 1, len(items))[0][: len(items) // POOL * POOL].reshape(-1, POOL)
    n = len(pools) * SCENES
    pool = np.repeat(np.arange(len(pools)), SCENES)
    # The first of these are the scene's items, the last give its pieces.
    chosen = pools[pool[:, None], _shuffled(rng, n, POOL)]
    counts = np.array(ITEMS)[rng.integers(0, len(ITEMS), n)]
    pieces = np.array(PIECES)[rng.integers(0, len(PIECES), n)]
    cells = _shuffled(rng, n, MOST)

    canvas = np.zeros((n, CANVAS, CANVAS), np.uint8)
    rows = np.arange(n)[:, None, None]
    for number in range(max(PIECES)):
        # Cut from the middle of the frame, where items are: an empty piece is no distractor.
        cut_y, cut_x = window(rng.integers(4, side - 4 - PIECE + 1, (2, n)), PIECE)
        y, x = window(rng.integers(0, CANVAS - PIECE + 1, (2, n)), PIECE)
        piece = items[chosen[:, POOL - 1 - number, None, None], cut_y, cut_x]
        piece[pieces <= number] = 0
        canvas[rows, y, x] = np.maximum(canvas[rows, y, x], piece)
    backgrounds, masks = canvas.copy(), np.zeros(canvas.shape, bool)

    tight, boxes = tight_boxes(items).astype(np.int64), np.full((n, 4), np.nan, np.float32)
    for number in range(MOST):
        box, cell = tight[chosen[:, number]], side * np.stack(np.divmod(cells[:, number], 2)[::-1])
        # The item anywhere in its cell: its frame is rolled, which moves only zeros over the edge.
        moved = rng.integers(0, side + 1 - (box[:, 2:] - box[:, :2])) - box[:, :2]  # x, y
        back_x, back_y = ((np.arange(side) - one[:, None]) % side for one in moved.T)
        frame = (chosen[:, number, None, None], back_y[:, :, None], back_x[:, None, :])
        there = counts > number
        item, (y, x) = items[frame][there], window(cell[::-1, there], side)
        scene = rows[there]
        canvas[scene, y, x] = np.where(item > 0, item, canvas[scene, y, x])
        masks[scene, y, x] = item > 0
        alone = there & (counts == 1)
        boxes[alone] = (box + np.tile(cell.T + moved, 2))[alone]
    return Scenes(
        canvas,
        masks,
        backgrounds,
        boxes,
        np.where(np.arange(MOST) < counts[:, None], chosen[:, :MOST], -1),
        pieces,
        pool,
    )


def _shuffled(rng: np.random.Generator, n: int, size: int) -> NDArray[np.int64]:
    """n permutations of ``range(size)``, ``(n, size)``."""
    return rng.integers(0, 2**62, (n, size)).argsort(1, kind="stable")
