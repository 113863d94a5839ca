"""Do predictors that look at the object matter more?

Spearman's rank correlation over predictors between importance and a measure of where they look,
with a percentile bootstrap over test images, or over groups of them that aren't independent: in each
draw the importance and the measure of every predictor are means over the images drawn, and the
correlation is that of these. A metric that is a mean per class has its classes as strata: its value is
the mean over strata of the mean inside each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.agreement import spearman
from iceprobe.results.image_draws import DRAWS, weights_of

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ over predictors."""

    rho: float  # of the images as they are
    interval: tuple[float, float]  # 95% percentile bootstrap over images, or groups of them
    predictors: int  # how many it is over


def correlate(
    drops: Values,
    measures: Mapping[str, Values],
    *,
    groups: NDArray | None = None,
    strata: NDArray | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Correlation | None]:
    """Correlation of importance with each measure, on the same draws of images.

    Args:
        drops: ``(M, n)``: how many right answers on an image are lost when predictor j is replaced, 1,
            0 or −1; their mean over images is its importance. M may be over several fits.
        measures: by name, ``(M, n)``; NaN where an image has no ground truth, the same images for every
            predictor.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        strata: of the importance, ``(n,)``; None: its plain mean.
        draws: of images or groups with replacement.
        confidence: of the interval.
        seed: of the draws.

    Returns:
        By name; None where all predictors score the same, so that there are no ranks. Such draws are
        left out of an interval.
    """
    names = list(measures)
    observed = np.ones((1, drops.shape[1]))
    rho = {
        name: float(spearman(_means(drops, observed, strata), _means(measures[name], observed))[0])
        for name in names
    }
    drawn: dict[str, list[Values]] = {name: [] for name in names}
    for counts in weights_of(drops.shape[1], groups, draws, seed):
        importance = _means(drops, counts, strata)
        for name in names:
            drawn[name].append(spearman(importance, _means(measures[name], counts)))
    tail = (1 - confidence) / 2
    found: dict[str, Correlation | None] = dict.fromkeys(names)
    for name in names:
        values = np.concatenate(drawn[name])
        defined = values[~np.isnan(values)]
        if len(defined) and not np.isnan(rho[name]):
            low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
            found[name] = Correlation(rho[name], (low, high), len(drops))
    return found


def mean_intervals(
    values: Values,
    *,
    groups: NDArray | None = None,
    strata: NDArray | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Values:
    """Percentile bootstrap interval over images, or groups, of each row's mean: ``(M, n)`` → ``(M, 2)``.

    Images with NaN are left out; if none is left it is NaN. Other arguments are those of :func:`correlate`.
    """
    counts = weights_of(values.shape[1], groups, draws, seed)
    drawn = np.concatenate([_means(values, one, strata) for one in counts])
    tail = (1 - confidence) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=0).T


def _means(values: Values, counts: Values, strata: NDArray | None = None) -> Values:
    """Means over images, each counted so often: ``(M, n)``, ``(d, n)`` → ``(d, M)``.

    With strata it is the mean over those that were drawn of the mean inside each.
    """
    known = ~np.isnan(values).any(0)
    values, counts = values[:, known], counts[:, known]
    if strata is None:
        with np.errstate(invalid="ignore"):
            return counts @ values.T / counts.sum(1, keepdims=True)
    strata = strata[known]
    total, drawn = np.zeros((len(counts), len(values))), np.zeros((len(counts), len(values)))
    for one in np.unique(strata):
        mean = _means(values[:, strata == one], counts[:, strata == one])
        total += np.nan_to_num(mean)
        drawn += ~np.isnan(mean)
    return total / drawn
