"""A weighted mean over independent examples, and its standard error."""

import math

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.schema import SelectedScore


def standard_error(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Of the weighted mean of independent ``values (n,)``; infinite of fewer than two.

    With equal weights it is sd/√n.
    """
    n = len(values)
    if n < 2:
        return math.inf
    centred = weights * (values - weights @ values)
    return math.sqrt(float(centred @ centred) * n / (n - 1))


def selected_score(
    scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> SelectedScore | None:
    """From what each example scores ``(n,)`` and what it counts ``(n,)``; None of fewer than two."""
    if len(scores) < 2:
        return None
    highest = float(scores.max())  # sums of weights may pass 1 by their rounding
    return SelectedScore(
        mean=min(highest, float(weights @ scores)),
        images=len(scores),
        error=standard_error(scores, weights),
        size=1 / float(weights @ weights),
    )
