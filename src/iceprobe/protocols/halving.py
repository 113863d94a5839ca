"""Successive halving that stops only settings that are clearly beaten.

At a rung, of K settings of a probe the ⌈K/2⌉ best on the held-out images go on; of the others
setting k stops if it lies clearly behind the best one, ℓ::

    d_i = score(ℓ, i) − score(k, i),    Σ w_i d_i > 2 · SE(d)

where score(k, i) is the mean score of k's seeds on image i of n by the metric that selects (of an accuracy
the fraction that is right), and w_i the image's weight; with w_i = 1/n the standard error SE is sd(d)/√n.
Plain successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and
hyperparameter optimization") stops the worse half however near it is, a race (Maron and Moore 1994,
"Hoeffding races") every setting that is clearly behind. Early in a schedule the first stops too many
if few images distinguish settings, the second if large learning rates lead before they decay.
"""

import math

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.weighted import standard_error

RUNGS = (0.25, 0.5)  # of the epochs of selection
ERRORS = 2.0
ROUNDING = 1e-9  # of the scores: a difference this small is none
RULE = (
    "after a quarter and a half of the epochs of selection the better half of a probe's settings "
    "goes on (by the held-out score then, mean over seeds); of the others those stop that lie behind "
    "the best by more than 2 standard errors of the paired difference over the held-out images"
)


def rungs(epochs: int) -> list[int]:
    """The epochs after which settings may stop; of one epoch none."""
    return sorted({math.ceil(part * epochs) for part in RUNGS} - {epochs})


def clearly_beaten(
    scores: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Which settings stop at a rung.

    Args:
        scores: ``(K, n)``: mean score of each setting's seeds on each image; more is better.
        weights: ``(n,)`` of the images; equal by default.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.

    Returns:
        ``(K,)``; never the better half.
    """
    settings, images = scores.shape
    if images < 2:
        return np.zeros(settings, bool)
    counted = np.full(images, 1 / images) if weights is None else weights
    order = np.argsort(-(scores @ counted), kind="stable")
    behind = scores[order[0]] - scores
    least = ROUNDING * np.abs(scores).max()
    stops = np.array(
        [d @ counted > ERRORS * standard_error(d, counted, groups) + least for d in behind]
    )
    stops[order[: math.ceil(settings / 2)]] = False
    return stops
