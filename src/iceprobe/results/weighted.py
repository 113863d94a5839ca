"""A weighted mean over independent examples, or groups of them, and its standard error.

SE² = G/(G − 1) Σ_g (Σ_{i∈g} w_i (s_i − s̄))²        s̄ = Σ_i w_i s_i, G groups; n examples are n groups
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.schema import SelectedScore
from iceprobe.results.units import codes_of, number_of, summed, worth


def standard_error(
    values: NDArray[np.float64], weights: NDArray[np.float64], groups: ArrayLike | None = None
) -> float:
    """Of the weighted mean of ``values (n,)``; infinite of fewer than two examples, or groups ``(n,)``.

    With equal weights and without groups it is sd/√n.
    """
    codes = codes_of(groups, len(values))
    units = number_of(codes, len(values))
    if units < 2:
        return math.inf
    centred = summed(weights * (values - weights @ values), codes)
    return math.sqrt(float(centred @ centred) * units / (units - 1))


def selected_score(
    scores: NDArray[np.float64], weights: NDArray[np.float64], groups: ArrayLike | None = None
) -> SelectedScore | None:
    """From what each example scores ``(n,)``, what it counts ``(n,)`` and its group ``(n,)``; None of fewer
    than two examples, or groups."""
    codes = codes_of(groups, len(scores))
    if number_of(codes, len(scores)) < 2:
        return None
    highest = float(scores.max())  # sums of weights may pass 1 by their rounding
    return SelectedScore(
        mean=min(highest, float(weights @ scores)),
        images=len(scores),
        error=standard_error(scores, weights, codes),
        size=worth(weights, codes),
    )
