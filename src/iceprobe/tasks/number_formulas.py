"""Formulas of one or several numbers an example; conventions as in `tasks/formulas.py`.

    predictions p (S, n, K)        targets t (n, K), NaN where unknown: that cell counts nowhere

Each is of every output, ``(S, W, K)``, and the metric is the mean over the outputs for which it is defined. A
prediction that isn't finite is as far off as float32 goes.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.tasks.formulas import (
    CELLS,
    Values,
    mean_of_defined,
    numbers,
    over_members,
    picked,
    ratio,
    sums,
)
from iceprobe.tasks.rankings import tied

_FURTHEST = float(np.finfo(np.float32).max)
_ROUNDING = 1e-12  # of the squares: less variance than this is none

Formula = Callable[[Values, Values, Tensor], Tensor]


def r2(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """1 − Σ w (t − p)² / Σ w (t − t̄)²; NaN where t is constant. As ``r2_score`` but for that case."""
    cells = _Cells(targets)
    whole = sums(cells.known, weights)
    t = cells.around
    spread = _variance(sums(t, weights), sums(t**2, weights), whole)
    found = []
    for p in cells.members(predicted):
        left = sums((cells.values - p) ** 2, weights)
        found.append(torch.where(spread > 0, 1 - ratio(left, spread), torch.nan))
    return over_members(found)


def mae(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """Σ w |t − p| / Σ w."""
    cells = _Cells(targets)
    whole = sums(cells.known, weights)
    return over_members(
        [ratio(sums((cells.values - p).abs(), weights), whole) for p in cells.members(predicted)]
    )


def rmse(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """√(Σ w (t − p)² / Σ w)."""
    cells = _Cells(targets)
    whole = sums(cells.known, weights)
    return over_members(
        [
            root(ratio(sums((cells.values - p) ** 2, weights), whole))
            for p in cells.members(predicted)
        ]
    )


def pearson(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """Σ w (t − t̄)(p − p̄) / √(Σ w (t − t̄)² Σ w (p − p̄)²); NaN where t is constant, 0 where p is."""
    cells = _Cells(targets)
    t, whole = cells.around, sums(cells.known, weights)
    sum_t = sums(t, weights)
    spread_t = _variance(sum_t, sums(t**2, weights), whole)
    found = []
    for p in cells.members(predicted):
        p = torch.where(cells.known, p - _middle(p, cells.known), 0.0)
        sum_p = sums(p, weights)
        spread_p = _variance(sum_p, sums(p**2, weights), whole)
        common = sums(t * p, weights) - ratio(sum_t * sum_p, whole, 0.0)
        found.append(_correlation(common, spread_t, spread_p))
    return over_members(found)


def spearman(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """Pearson's of ranks; NaN where t is constant, 0 where p is.

    The rank of x is Σ w of what is less than x, and half of Σ w of what is equal to it. Equal weights give
    ranks with their mean for ties, less ½, and counts those of the examples repeated: a constant changes no
    correlation.
    """
    cells = _Cells(targets)
    found = []
    for p in cells.members(predicted):
        by_output = []
        for t, mine, known in zip(cells.values, p, cells.known, strict=True):
            kept = known.nonzero()[:, 0]
            of_t, of_p = _Ranks(t[kept]), _Ranks(mine[kept])
            parts = weights.split(max(1, CELLS // max(len(kept), 1)))
            by_output.append(torch.cat([_of_ranks(of_t, of_p, picked(w, kept)) for w in parts]))
        found.append(torch.stack(by_output))
    return over_members(found)


def mean(formula: Formula) -> Formula:
    """The mean over outputs: ``(S, n, K)``, ``(n, K)``, ``(W, n)`` → ``(S, W)``."""

    def found(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
        return mean_of_defined(formula(predicted, targets, weights))

    return found


mean_r2, mean_mae, mean_rmse = mean(r2), mean(mae), mean(rmse)
mean_pearson, mean_spearman = mean(pearson), mean(spearman)


def number_table(predicted: Values, targets: Values) -> dict[str, NDArray]:
    """Of each output its ``known (K,)`` examples and every metric ``(S, K)``, NaN where undefined."""
    known = _Cells(targets).known
    ones = torch.ones(1, known.shape[1], dtype=torch.float64)
    formulas = {"r2": r2, "mae": mae, "rmse": rmse, "pearson": pearson, "spearman": spearman}
    found = {name: of(predicted, targets, ones)[:, 0].numpy() for name, of in formulas.items()}
    return {"known": known.sum(1).numpy(), **found}


def constant(targets: Values) -> list[int]:
    """Outputs with one known value or none: they are left out of R² and of correlations."""
    cells = _Cells(targets)
    return [k for k, row in enumerate(cells.around) if not row.any()]


def root(squares: Tensor) -> Tensor:
    """√, with the slope 0 at 0; NaN stays."""
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


class _Cells:
    """Targets, output by example ``(K, n)``; 0 where unknown."""

    def __init__(self, targets: Values):
        found = numbers(targets).T.contiguous()
        self.known = ~found.isnan()
        self.values = torch.where(self.known, found, 0.0)
        # Squares around a value in the middle keep their digits, whatever the offset.
        self.around = torch.where(self.known, found - _middle(self.values, self.known), 0.0)

    def members(self, predicted: Values) -> Iterator[Tensor]:
        """Of each seed, ``(K, n)``; 0 where unknown."""
        for one in predicted:
            p = numbers(one).T.nan_to_num(_FURTHEST, _FURTHEST, -_FURTHEST)
            yield torch.where(self.known, p, 0.0)


def _middle(values: Tensor, known: Tensor) -> Tensor:
    """One of the known values of each row, the (lower) median: ``(K, n)`` → ``(K, 1)``."""
    found = torch.where(known, values, torch.nan).nanmedian(1, keepdim=True).values
    return found.nan_to_num()


def _variance(total: Tensor, squares: Tensor, whole: Tensor) -> Tensor:
    """Σ w (x − x̄)² of Σ w x, Σ w x² and Σ w; 0 where it is rounding."""
    found = squares - ratio(total**2, whole, 0.0)
    return torch.where(found > _ROUNDING * squares, found, 0.0)


def _correlation(common: Tensor, spread_t: Tensor, spread_p: Tensor) -> Tensor:
    varies = (spread_t > 0) & (spread_p > 0)
    # Roots one by one: the product of squares of float32's largest is beyond float64.
    below = root(torch.where(varies, spread_t, 1.0)) * root(torch.where(varies, spread_p, 1.0))
    found = torch.where(varies, common / below, 0.0)
    return torch.where(spread_t > 0, found, torch.nan)


class _Ranks:
    """Ranks of some values ``(m,)``, for any weights."""

    def __init__(self, values: Tensor):
        ordered, self.order = values.sort()
        first, last = tied(ordered[None])
        place = self.order.argsort()
        self.before, self.last = first[0][place] - 1, last[0][place]

    def of(self, weights: Tensor) -> Tensor:
        """``(W, m)`` → around their mean, ``(W, m)``."""
        cumulated = picked(weights, self.order).cumsum(1)
        below = picked(cumulated, self.before.clamp(min=0)) * (self.before >= 0)
        ranks = (below + picked(cumulated, self.last)) / 2
        # Their mean is half of the whole, as each pair of examples is in it once.
        return ranks - weights.sum(1, keepdim=True) / 2


def _of_ranks(of_t: _Ranks, of_p: _Ranks, weights: Tensor) -> Tensor:
    t, p = of_t.of(weights), of_p.of(weights)
    least = _ROUNDING * weights.sum(1) ** 3
    common, *spreads = ((weights * a * b).sum(1) for a, b in ((t, p), (t, t), (p, p)))
    spread_t, spread_p = (torch.where(of > least, of, 0.0) for of in spreads)
    return _correlation(common, spread_t, spread_p)
