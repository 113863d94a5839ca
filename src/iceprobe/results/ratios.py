"""Ratios of sums over examples (recall, precision, F1, the share right in a bin), with their intervals.

    r = Σ_i a_i / Σ_i b_i            s_i = r + n (a_i − r b_i) / Σ_i b_i

The scores s_i have the mean r, and their spread over examples, groups and seeds is that of the ratio
(linearisation: Binder 1983). The interval is Wilson's with the size that this spread is worth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.crossed import spread
from iceprobe.results.scores import wilson
from iceprobe.results.units import codes_of


@dataclass(frozen=True)
class Ratio:
    """A share in [0, 1], mean over seeds, and its 95% interval."""

    mean: float
    interval: tuple[float, float]


def ratio_of(
    above: ArrayLike, below: ArrayLike, groups: ArrayLike | None = None, *, counts: float = 1.0
) -> Ratio | None:
    """The ratio of two sums; None where some seed has nothing below.

    Args:
        above: a, ``(S, n)``, from 0 to b.
        below: b, ``(S, n)``.
        groups: ``(n,)``, equal for examples that aren't independent; None: all are.
        counts: how much of ``below`` is one example: 2 of F1, which counts what is true and what is called.
    """
    a, b = np.asarray(above, np.float64), np.asarray(below, np.float64)
    sums = b.sum(1, keepdims=True)
    if not (sums > 0).all():
        return None
    ratios = a.sum(1, keepdims=True) / sums
    mean = min(1.0, max(0.0, float(ratios.mean())))
    found = spread(ratios + b.shape[1] / sums * (a - ratios * b), groups=groups, fractions=False)
    there = b.any(0)
    units = float(sums.mean()) / counts
    if (codes := codes_of(groups, b.shape[1])) is not None:
        units = min(units, len(np.unique(codes[there])))
    size, single = units, mean * (1 - mean)
    if single > 0 and found.variance > 0:
        size = min(len(b) * units, single / found.variance)
    q = found.quantile(0.95)
    return Ratio(mean, wilson(mean, size, q, 0.95))


def class_ratios(
    predicted: NDArray, labels: NDArray, index: int, groups: ArrayLike | None = None
) -> dict[str, Ratio | None]:
    """Recall, precision and F1 of class ``index``: ``(S, n)``, ``(n,)``."""
    true = np.broadcast_to(labels == index, predicted.shape)
    called = predicted == index
    hits = true & called
    return {
        "recall": ratio_of(hits, true, groups),
        "precision": ratio_of(hits, called, groups),
        "f1": ratio_of(2.0 * hits, true.astype(float) + called, groups, counts=2.0),
    }
