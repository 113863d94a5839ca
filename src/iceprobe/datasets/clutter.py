"""Put a small item at a random place among distractor pieces, and know exactly where it is.

Fashion-MNIST items fill their frame, so every pooling of tokens reads them equally well. On a
larger canvas with pieces of *other* classes around, a probe has to find the item before it can
name it; the item's box and its mask are known by construction.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CANVAS = 56  # pixels a side
PIECES = 6  # distractors an image; docs/bundled.md says how the level was set
PIECE = 12  # pixels a side of a distractor


@dataclass(frozen=True)
class Cluttered:
    """Composed images and the place of the item in each.

    Attributes:
        images: ``(n, CANVAS, CANVAS)`` uint8.
        boxes: ``(n, 4)`` int16, the tight box of the item's non-zero pixels as
            ``x0, y0, x1, y1`` in pixels, upper ends exclusive.
        masks: ``(n, CANVAS, CANVAS)`` bool, the pixels that the item painted.
        clutter: the images without their items.
    """

    images: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    clutter: np.ndarray


def compose(items: np.ndarray, labels: np.ndarray, seed: int, *, pieces: int = PIECES) -> Cluttered:
    """Place each item on a black canvas over ``pieces`` square cut-outs of other classes' items.

    The item occludes the pieces (its zero pixels are transparent); pieces come from the same
    array of items. Everything is drawn from ``numpy.random.Generator(PCG64(seed))`` in a fixed
    order, so the bytes depend on the arguments alone.

    Args:
        items: ``(n, s, s)`` uint8, zero where there is no item.
        labels: ``(n,)`` integer classes, at least two of them.
        seed: of the places and of the pieces.
        pieces: distractors an image.

    Raises:
        ValueError: if there is only one class to draw distractors from.
    """
    n, side = len(items), items.shape[1]
    rng = np.random.Generator(np.random.PCG64(seed))
    canvas = np.zeros((n, CANVAS, CANVAS), np.uint8)
    for source in _other_class(labels, pieces, rng):
        # Cut from the middle of the frame, where items are: an empty piece distracts nobody.
        cut = rng.integers(4, side - 4 - PIECE + 1, (2, n))
        place = rng.integers(0, CANVAS - PIECE + 1, (2, n))
        cut_y, cut_x = _window(cut, PIECE)
        y, x = _window(place, PIECE)
        rows = np.arange(n)[:, None, None]
        canvas[rows, y, x] = np.maximum(
            canvas[rows, y, x], items[source[:, None, None], cut_y, cut_x]
        )

    clutter = canvas.copy()
    corner = rng.integers(0, CANVAS - side + 1, (2, n))
    y, x = _window(corner, side)
    rows = np.arange(n)[:, None, None]
    canvas[rows, y, x] = np.where(items > 0, items, canvas[rows, y, x])
    masks = np.zeros(canvas.shape, bool)
    masks[rows, y, x] = items > 0
    boxes = _tight_boxes(items) + np.tile(corner[::-1].T, 2).astype(np.int16)
    return Cluttered(canvas, boxes, masks, clutter)


def _other_class(labels: np.ndarray, pieces: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield ``pieces`` arrays ``(n,)`` of indices, each entry of another class than its own."""
    _, ranks, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError("distractors come from other classes, but there is only one class")
    by_class = np.argsort(ranks, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for _ in range(pieces):
        other = (ranks + rng.integers(1, len(counts), len(labels))) % len(counts)
        yield by_class[first[other] + rng.integers(0, counts[other])]


def _window(corner: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices ``(n, side, 1)`` and ``(n, 1, side)`` of windows at ``corner (2, n)``."""
    steps = np.arange(side)
    return corner[0][:, None, None] + steps[:, None], corner[1][:, None, None] + steps[None, :]


def _tight_boxes(items: np.ndarray) -> np.ndarray:
    """Box of the non-zero pixels of each item, ``(n, 4)`` int16 as x0, y0, x1, y1."""
    side = items.shape[1]
    columns, rows = np.any(items > 0, axis=1), np.any(items > 0, axis=2)
    return np.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            side - columns[:, ::-1].argmax(1),
            side - rows[:, ::-1].argmax(1),
        ],
        axis=1,
    ).astype(np.int16)
