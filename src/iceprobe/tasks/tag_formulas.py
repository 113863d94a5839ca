"""Formulas of a set of tags an example; conventions as in `tasks/formulas.py`.

    p = σ(z) of the logits (S, n, K)        targets (n, K): 1 has the tag, 0 has not, 255 unknown

An unknown cell counts nowhere. A tag without a positive (and, for AUROC, without a negative) is left out of
means over tags ("macro"); "micro" takes the cells of all tags for one. A tag is called where p is at least the
threshold. A logit that is NaN is taken for the wrong one of ±∞.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.tasks import rankings
from iceprobe.tasks.calibration import calibration_error
from iceprobe.tasks.formulas import (
    Values,
    f1,
    mean_of_defined,
    numbers,
    over_members,
    ratio,
    sums,
)
from iceprobe.tasks.rankings import Ranking
from iceprobe.tasks.targets import UNKNOWN


class _Cells:
    """Targets as bools, tag by example ``(K, n)``."""

    def __init__(self, targets: Values):
        found = targets if isinstance(targets, Tensor) else torch.from_numpy(np.array(targets))
        self.positive = (found.T == 1).contiguous()
        self.known = (found.T != UNKNOWN).contiguous()
        self.complete = bool(self.known.all())

    def scores(self, logits: Values) -> Tensor:
        """Logits of one seed ``(n, K)`` → ``(K, n)`` without NaN."""
        z = numbers(logits).T.contiguous()
        return torch.where(z.isnan(), torch.where(self.positive, -torch.inf, torch.inf), z)

    def ranking(self, logits: Values) -> Ranking:
        return Ranking.of(self.scores(logits), self.positive, None if self.complete else self.known)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Of the known cells the examples, and whether they are positive: ``(m,)`` each."""
        examples = torch.arange(self.known.shape[1]).expand_as(self.known)[self.known]
        return examples, self.positive[self.known]

    def called(self, logits: Values, thresholds: Values | None = None) -> Tensor:
        """Of one seed, ``(n, K)``, ``(K,)`` → known cells that are called, ``(K, n)``."""
        at = 0.5 if thresholds is None else numbers(thresholds)[:, None]
        return (self.scores(logits).sigmoid() >= at) & self.known


def ap_by_tag(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """Average precision of each tag, ``(S, W, K)``; NaN without a positive."""
    cells = _Cells(targets)
    found = (rankings.average_precision(cells.ranking(of), weights) for of in logits)
    return over_members(list(found))


def auroc_by_tag(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """AUROC of each tag, ``(S, W, K)``; NaN without a positive or a negative."""
    cells = _Cells(targets)
    return over_members([rankings.auroc(cells.ranking(of), weights) for of in logits])


def f1_by_tag(
    logits: Values, targets: Values, weights: Tensor, thresholds: Values | None = None
) -> Tensor:
    """F1 of each tag at p = 0.5 or at ``thresholds (S, K)``, ``(S, W, K)``; NaN without a positive."""
    cells = _Cells(targets)
    there = sums(cells.positive, weights) > 0
    called = _called(cells, logits, thresholds)
    return over_members(
        [torch.where(there, f1(of, cells.positive, weights), torch.nan) for of in called]
    )


def mean_ap(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """mAP, the mean over tags of the average precision: ``(S, n, K)``, ``(n, K)`` → ``(S, W)``."""
    return mean_of_defined(ap_by_tag(logits, targets, weights))


def auroc(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """Mean over tags of the AUROC: ``(S, n, K)``, ``(n, K)`` → ``(S, W)``."""
    return mean_of_defined(auroc_by_tag(logits, targets, weights))


def auroc_micro(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """AUROC of all known cells as one ranking: ``(S, n, K)``, ``(n, K)`` → ``(S, W)``."""
    cells = _Cells(targets)
    examples, positive = cells.pooled()
    found = [
        rankings.auroc(
            Ranking.of(cells.scores(of)[cells.known][None], positive[None], examples=examples),
            weights,
        )[0]
        for of in logits
    ]
    return torch.stack(found)


def f1_macro(
    logits: Values, targets: Values, weights: Tensor, thresholds: Values | None = None
) -> Tensor:
    """Mean over tags of the F1 at p = 0.5 or at ``thresholds (S, K)``: ``(S, n, K)`` → ``(S, W)``."""
    return mean_of_defined(f1_by_tag(logits, targets, weights, thresholds))


def f1_micro(
    logits: Values, targets: Values, weights: Tensor, thresholds: Values | None = None
) -> Tensor:
    """F1 of all known cells at p = 0.5 or at ``thresholds (S, K)``: ``(S, n, K)`` → ``(S, W)``.

    NaN without a positive.
    """
    cells = _Cells(targets)
    positive = sums(cells.positive.sum(0), weights)
    found = []
    for called in _called(cells, logits, thresholds):
        hits, all_called = (sums(of.sum(0), weights) for of in (called & cells.positive, called))
        score = ratio(2 * hits, all_called + positive)
        found.append(torch.where(positive > 0, score, torch.nan))
    return torch.stack(found)


def exact_match(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """Share of examples whose known cells are all called right at p = 0.5: ``(S, n, K)`` → ``(S, W)``.

    An example without a known cell doesn't count.
    """
    cells = _Cells(targets)
    some = cells.known.any(0)
    right = [(cells.called(of) == cells.positive).all(0) & some for of in logits]
    return ratio(sums(torch.stack(right), weights), sums(some, weights))


def ece(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """Calibration error of p over all known cells: ``(S, n, K)``, ``(n, K)`` → ``(S, W)``."""
    cells = _Cells(targets)
    examples, positive = cells.pooled()
    p = torch.stack([cells.scores(of)[cells.known].sigmoid() for of in logits])
    return calibration_error(p, positive.expand_as(p), weights, examples)


def best_thresholds(logits: Values, targets: Values) -> NDArray[np.float64]:
    """The p at which each tag has its highest F1: ``(S, n, K)``, ``(n, K)`` → ``(S, K)``.

    Tried are 0.5 and the middles between neighbours of 0, the distinct p of known cells and 1; of equally
    good ones it is the nearest to 0.5, which a tag without a positive has.
    """
    cells = _Cells(targets)
    found = np.full((len(logits), len(cells.known)), 0.5)
    for member, of in enumerate(logits):
        p = cells.scores(of).sigmoid().numpy()
        for tag, (known, positive) in enumerate(
            zip(cells.known.numpy(), cells.positive.numpy(), strict=True)
        ):
            if positive.any():
                found[member, tag] = _best_threshold(p[tag, known], positive[known])
    return found


def _best_threshold(p: NDArray, positive: NDArray) -> float:
    values = np.unique(np.concatenate([p, [0.0, 1.0]]))
    tried = np.append((values[1:] + values[:-1]) / 2, 0.5)
    # Called are all from the threshold on.
    called = len(p) - np.searchsorted(np.sort(p), tried)
    hits = positive.sum() - np.searchsorted(np.sort(p[positive]), tried)
    score = 2 * hits / (called + positive.sum())
    best = tried[score == score.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def without_positive(targets: Values) -> list[int]:
    """Tags that no known example has: they are left out of mAP, AUROC and F1 over tags."""
    return [tag for tag, row in enumerate(_Cells(targets).positive) if not row.any()]


def without_negative(targets: Values) -> list[int]:
    """Tags that every known example has, and some example: they are left out of AUROC over tags."""
    cells = _Cells(targets)
    negative = (cells.known & ~cells.positive).any(1)
    return (cells.positive.any(1) & ~negative).nonzero()[:, 0].tolist()


def tag_table(
    logits: Values, targets: Values, thresholds: Values | None = None
) -> dict[str, NDArray]:
    """Of each tag, ``known`` and ``positive (K,)`` examples, ``ap``, ``auroc`` and ``f1 (S, K)``.

    NaN where undefined.
    """
    cells = _Cells(targets)
    ones = torch.ones(1, cells.known.shape[1], dtype=torch.float64)
    return {
        "known": cells.known.sum(1).numpy(),
        "positive": cells.positive.sum(1).numpy(),
        "ap": ap_by_tag(logits, targets, ones)[:, 0].numpy(),
        "auroc": auroc_by_tag(logits, targets, ones)[:, 0].numpy(),
        "f1": f1_by_tag(logits, targets, ones, thresholds)[:, 0].numpy(),
    }


def _called(cells: _Cells, logits: Values, thresholds: Values | None) -> list[Tensor]:
    if thresholds is None:
        return [cells.called(of) for of in logits]
    return [cells.called(of, at) for of, at in zip(logits, thresholds, strict=True)]
