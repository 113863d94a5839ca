"""Images on which exactly one of two probes is right.

    a alone is right on mean_i p_i (1 − q_i)      p_i, q_i: share of the seeds of a, b right on i

which is what two seeds drawn at random disagree on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.predictions import Predictions


@dataclass(frozen=True)
class Disagreement:
    """Two probes on the same images."""

    only_a: float  # share of images that a alone is right on, over pairs of seeds
    only_b: float
    neither: float
    # (k,) rows on which the first seed of a is right and that of b is wrong
    for_a: NDArray[np.int64]
    for_b: NDArray[np.int64]  # the other way round


def misread_by_name(
    right: Predictions, wrong: Predictions, classes: Sequence[str], count: int
) -> list[str]:
    """Images that ``right`` reads and ``wrong`` doesn't: ``"a.png (cat read as dog)"``.

    Rows and seed as in :func:`disagreement`; empty where no names were kept, and of tags and numbers, which
    are neither right nor wrong as a whole.
    """
    names = wrong.names or right.names
    if names is None or right.labels.ndim > 1:
        return []
    found = []
    for row in disagreement(right, wrong, count).for_a:
        true, read = int(wrong.labels[row]), int(wrong.predicted[0, row])
        found.append(f"{names[row]} ({_class(true, classes)} read as {_class(read, classes)})")
    return found


def _class(number: int, classes: Sequence[str]) -> str:
    """Its name; of k-NN no neighbour may have a class that counts, −1."""
    if number < 0:
        return "nothing"
    return classes[number] if number < len(classes) else f"class {number}"


def disagreement(a: Predictions, b: Predictions, count: int) -> Disagreement:
    """Compare two probes on the same images, with at most ``count`` rows on each side.

    Rows have the largest p_i − q_i, on which most of the other seeds agree; of equals one of each class
    comes first, in the order of the split. No attention map is used.
    """
    p, q = (one.correct.mean(0) for one in (a, b))
    first_a, first_b = a.correct[0], b.correct[0]
    return Disagreement(
        only_a=float((p * (1 - q)).mean()),
        only_b=float((q * (1 - p)).mean()),
        neither=float(((1 - p) * (1 - q)).mean()),
        for_a=_clearest(first_a & ~first_b, p - q, a.labels, count),
        for_b=_clearest(first_b & ~first_a, q - p, a.labels, count),
    )


def _clearest(
    candidates: NDArray[np.bool_], margin: NDArray[np.float64], labels: NDArray, count: int
) -> NDArray[np.int64]:
    """Rows by margin, then by how many of their class and margin come before them."""
    rows = np.flatnonzero(candidates)
    turn = np.zeros(len(rows), np.int64)
    seen: dict[tuple[float, int], int] = {}
    for i, row in enumerate(rows):
        key = float(margin[row]), int(labels[row])
        turn[i] = seen.get(key, 0)
        seen[key] = turn[i] + 1
    return rows[np.lexsort((rows, turn, -margin[rows]))][:count]
