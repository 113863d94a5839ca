"""Whether two columns of numbers put the same things in the same order: τ, Spearman's ρ, Pearson's r.

Of two probes on the same backbones, Kendall's τ and its interval:

    τ_b = Σ_{i<j} s_ij t_ij / √(Σ s_ij² · Σ t_ij²)      s_ij = sign(x_i − x_j), t_ij = sign(y_i − y_j)

+1: the same order, −1: the reverse (Kendall 1945, with its correction for ties).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 1_000


@dataclass(frozen=True)
class Agreement:
    """τ of two orders, with its 95% percentile bootstrap interval over test images."""

    tau: float
    interval: tuple[float, float]


def kendall(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """τ_b over the last axis, ``(…, K)``, ``(…, K)`` → ``(…)``; 0 where either ties all of them.

    >>> float(kendall([0.1, 0.2, 0.3], [0.5, 0.7, 0.6]).round(3))
    0.333
    """
    a, b = np.asarray(x), np.asarray(y)
    first, second = np.triu_indices(a.shape[-1], 1)
    s, t = (np.sign(v[..., first] - v[..., second]) for v in (a, b))
    scale = np.sqrt((s * s).sum(-1) * (t * t).sum(-1))
    return np.divide((s * t).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)


def pearson(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Correlation over the last axis: ``(…, M)`` twice → ``(…)``; NaN where one side is constant."""
    a, b = (np.asarray(side, np.float64) for side in (x, y))
    a, b = (side - side.mean(-1, keepdims=True) for side in (a, b))
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def spearman(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """:func:`pearson` of ranks, ties at their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def agreement(
    correct_x: ArrayLike, correct_y: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Agreement:
    """τ between the orders of K backbones under two probes, tested on the same images.

    Args:
        correct_x, correct_y: ``(K, n)``, mean correctness over seeds, backbone by image. All of
            them are resampled together.
        draws: resamples of the n images.
        seed: of the resampling.
    """
    x, y = np.asarray(correct_x, np.float64), np.asarray(correct_y, np.float64)
    rng, images = np.random.default_rng(seed), x.shape[1]
    drawn = np.empty(draws)
    for i in range(draws):
        counts = np.bincount(rng.integers(images, size=images), minlength=images)
        # Equal sums by different roundings are a tie, hence the 9 digits.
        drawn[i] = kendall((x @ counts).round(9), (y @ counts).round(9))
    low, high = np.quantile(drawn, [0.025, 0.975])
    tau = kendall(x.sum(1).round(9), y.sum(1).round(9))
    return Agreement(float(tau), (float(low), float(high)))
