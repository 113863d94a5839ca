"""Items at random positions among distractor pieces, with exact boxes and masks.

Fashion-MNIST items fill their frame, so every pooling of tokens reads them equally well. On a
larger canvas, among pieces of *other* classes, a probe has to find the item before it can
classify it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CANVAS = 56  # pixels per side
PIECES = 6  # distractors per image; docs/bundled.md says how this was chosen
PIECE = 12  # pixels per side of a distractor


class Cluttered(NamedTuple):
    """Composed images and the place of the item in each.

    Attributes:
        images: ``(n, CANVAS, CANVAS)`` uint8.
        boxes: ``(n, 4)`` int16, the tight box of the item's non-zero pixels as
            ``x0, y0, x1, y1`` in pixels, upper ends exclusive.
        masks: ``(n, CANVAS, CANVAS)`` bool, the item's pixels.
        clutter: the images without their items.
    """

    images: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    clutter: np.ndarray


def compose(items: np.ndarray, labels: np.ndarray, seed: int, *, pieces: int = PIECES) -> Cluttered:
    """Place each item on a black canvas over ``pieces`` square cut-outs of other classes' items.

    The item occludes the pieces (its zero pixels are transparent). Everything is drawn from
    ``numpy.random.Generator(PCG64(seed))`` in a fixed order, so the bytes depend on the arguments
    alone.

    Args:
        items: ``(n, s, s)`` uint8, zero outside the item; pieces are cut from them too.
        labels: ``(n,)`` integer classes, at least two of them.
        seed: of the positions and of the pieces.
        pieces: distractors per image.

    Raises:
        ValueError: if there is only one class to draw distractors from.
    """
    n, side = len(items), items.shape[1]
    rng = np.random.Generator(np.random.PCG64(seed))
    canvas = np.zeros((n, CANVAS, CANVAS), np.uint8)
    rows = np.arange(n)[:, None, None]
    for source in _other_class(labels, pieces, rng):
        # Cut from the middle of the frame, where items are: an empty piece is no distractor.
        cut_y, cut_x = window(rng.integers(4, side - 4 - PIECE + 1, (2, n)), PIECE)
        y, x = window(rng.integers(0, CANVAS - PIECE + 1, (2, n)), PIECE)
        piece = items[source[:, None, None], cut_y, cut_x]
        canvas[rows, y, x] = np.maximum(canvas[rows, y, x], piece)

    clutter = canvas.copy()
    corner = rng.integers(0, CANVAS - side + 1, (2, n))
    y, x = window(corner, side)
    canvas[rows, y, x] = np.where(items > 0, items, canvas[rows, y, x])
    masks = np.zeros(canvas.shape, bool)
    masks[rows, y, x] = items > 0
    boxes = tight_boxes(items) + np.tile(corner[::-1].T, 2).astype(np.int16)
    return Cluttered(canvas, boxes, masks, clutter)


def _other_class(labels: np.ndarray, pieces: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield ``pieces`` arrays ``(n,)``: for each item the index of an item of another class."""
    _, ranks, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError("distractors come from other classes, but there is only one class")
    by_class = np.argsort(ranks, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for _ in range(pieces):
        other = (ranks + rng.integers(1, len(counts), len(labels))) % len(counts)
        yield by_class[first[other] + rng.integers(0, counts[other])]


def window(corner: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices ``(n, side, 1)`` and ``(n, 1, side)`` of windows at ``corner (2, n)``."""
    steps = np.arange(side)
    return corner[0][:, None, None] + steps[:, None], corner[1][:, None, None] + steps[None, :]


def tight_boxes(items: np.ndarray) -> np.ndarray:
    """Box of the non-zero pixels of each item, ``(n, 4)`` int16 as x0, y0, x1, y1."""
    side = items.shape[1]
    filled = [np.any(items > 0, axis) for axis in (1, 2)]  # columns, rows
    lower = [found.argmax(1) for found in filled]
    upper = [side - found[:, ::-1].argmax(1) for found in filled]
    return np.stack(lower + upper, axis=1).astype(np.int16)
