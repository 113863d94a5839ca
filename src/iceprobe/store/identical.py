"""Images that are in two splits, found by their mean tokens.

Two rows are one image if their mean tokens differ by less than a thousandth of the usual distance: the
same pixels in other batches differ by rounding, other images by a thousand times as much. Candidates are
each row's nearest neighbour in eight random directions (Johnson and Lindenstrauss), which takes one pass
over the mean tokens of either split and little memory.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from iceprobe.store.split import StoredSplit

DIRECTIONS = 8
SAME = 1e-3  # of the standard distance between an image and the mean of all
_ROWS = 8192  # read at once


def identical_rows(train: "StoredSplit", other: "StoredSplit") -> NDArray[np.int64]:
    """Rows of ``other`` whose image is in ``train`` too, sorted.

    None if tokens are live, all images have the same tokens, or either split is empty.
    """
    none = np.zeros(0, np.int64)
    if train.live or other.live or not len(train) or not len(other):
        return none
    directions = np.random.default_rng(0).standard_normal((train.shape.dim, DIRECTIONS))
    bank, queries = _projected(train, directions), _projected(other, directions)
    # √8 times the distance of the vectors themselves
    distance = float(np.sqrt(((bank - bank.mean(0)) ** 2).sum(1).mean()))
    if not distance > 1e-4 * float(np.abs(bank).max()):
        return none
    _, nearest = cKDTree(bank).query(queries, distance_upper_bound=SAME * distance)
    rows = np.flatnonzero(nearest < len(bank))
    if not len(rows):
        return none
    ours, theirs = (
        split.rows("mean", wanted).numpy().astype(np.float64)
        for split, wanted in ((other, rows), (train, nearest[rows]))
    )
    apart = np.sqrt(((ours - theirs) ** 2).sum(1) * DIRECTIONS)
    return rows[apart < SAME * distance]


def _projected(split: "StoredSplit", directions: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty((len(split), directions.shape[1]))
    for start in range(0, len(split), _ROWS):
        part = np.arange(start, min(start + _ROWS, len(split)))
        out[part] = split.rows("mean", part).numpy() @ directions
    return out
