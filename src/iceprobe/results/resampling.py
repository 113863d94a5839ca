"""Resampled values of a metric that is no mean over examples: the metric of weighted examples, recomputed.

What is drawn, or left out, are independent units: examples, or groups of them (`results/units.py`).

    bootstrap   unit g as often as it is drawn: counts are multinomial over the G units (Efron 1979)
    jackknife   all units but one (Quenouille 1956)

The ends of the bootstrap's interval are quantiles of the drawn values. Plain ones hold the truth too seldom:
draws vary too little by a factor of √((G − 1)/G) and have normal tails; and the mean of AUROC or mAP over draws
isn't the value, nor is their spread the same at the truth as at the value. So their levels are

    Φ(z₀ + (z₀ ± q)/(1 − a (z₀ ± q)))        q = √(G/(G − 1)) t_{G−1}

with q of the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"),
z₀ = Φ⁻¹(share of draws below the value) and the acceleration a = Σ Z³/(6 (Σ Z²)^{3/2}), Z the influence of a
unit (BCa: Efron 1987, "Better bootstrap confidence intervals"). Where most draws lie on one side of the value
(the mAP of many rare tags, ECE) these levels may leave it out; the interval goes as far as the value then.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric

DRAWS = 1_000
SEED = 0
_CHUNK_CELLS = 4_000_000  # of weights held at once: 32 MB

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def draw_counts(units: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each of G units is drawn: ``(W, G)``, rows with the sum G."""
    picked = rng.integers(0, units, (draws, units)) + units * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * units).reshape(draws, units)


def bootstrapped(
    metric: Metric, record: Any, targets: NDArray, codes: Codes, draws: int = DRAWS
) -> Floats:
    """The metric of each draw, mean over seeds, ``(W,)``; NaN where it is undefined.

    The draws depend on the number of units alone: two probes on the same examples have the same.

    Args:
        codes: the unit 0 … G − 1 of each example, ``(n,)``.
    """
    units, rng = 1 + int(codes.max()), np.random.default_rng(SEED)
    found = []
    for step in _steps(draws, len(codes)):
        counts = draw_counts(units, step, rng)
        found.append(metric.resampled(record, targets, counts[:, codes]).mean(0))
    return np.concatenate(found)


def left_out(metric: Metric, record: Any, targets: NDArray, codes: Codes) -> Floats:
    """The metric without each unit in turn, ``(S, G)``; NaN where it is undefined."""
    units, found, at = 1 + int(codes.max()), [], 0
    for step in _steps(units, len(codes)):
        weights = np.arange(at, at + step)[:, None] != codes
        found.append(metric.resampled(record, targets, weights))
        at += step
    return np.concatenate(found, 1)


def bootstrap_ends(
    value: float, draws: Floats, influences: Floats, confidence: float
) -> tuple[float, float]:
    """The interval by the formula above.

    Args:
        value: of the metric.
        draws: it of each draw, without NaN.
        influences: Z of each unit, ``(G,)``, with a sum of 0.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    units, many = len(influences), len(draws)
    q = math.sqrt(units / (units - 1)) * -float(stdtrit(units - 1, (1 - confidence) / 2))
    tied = np.isclose(draws, value, rtol=0, atol=1e-12)
    below = float(((draws < value) & ~tied).mean() + tied.mean() / 2)
    z = float(ndtri(min(max(below, 0.5 / many), 1 - 0.5 / many)))
    squares = float(influences @ influences)
    a = float((influences**3).sum()) / (6 * squares**1.5) if squares else 0.0

    def level(off: float) -> float:
        left = 1 - a * off
        return float(ndtr(z + off / left)) if left > 0 else float(off > 0)

    low, high = np.quantile(draws, [level(z - q), level(z + q)])
    return min(float(low), value), max(float(high), value)


def _steps(rows: int, n: int) -> list[int]:
    """Sizes of parts of rows of n weights."""
    most = max(1, _CHUNK_CELLS // max(n, 1))
    return [min(most, rows - at) for at in range(0, rows, most)]
