"""How well scores rank positives above negatives: AUROC and average precision of rows of scores.

    AUROC = Σ_i∈P w_i (N_below(i) + ½ N_tied(i)) / (P N)
    AP    = Σ_i∈P w_i TP(s_i) / (TP(s_i) + FP(s_i)) / P        TP(s), FP(s): of scores of at least s

with sums of weights in place of numbers of examples (Hanley and McNeil 1982; AP is the sum of precisions at
steps of recall, ties being one threshold, as scikit-learn's ``average_precision_score``). A row is sorted
once for all draws, and only positives are looked at after that: a draw costs one pass over the examples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iceprobe.tasks.formulas import CELLS, ratio


@dataclass(frozen=True)
class Ranking:
    """Rows of scores, best first, and the P positives of each, padded to the longest row's.

    Attributes:
        examples: ``(R, m)`` int64, whose cell stands where.
        known: ``(R, m)`` bool, whether it counts; None: all do.
        positives: ``(R, P)`` bool, whether there is one.
        at: ``(R, P)`` int64, where each stands.
        first, last: ``(R, P)``, where its tied scores begin and end.
        before, within: ``(R, P)``, which positive is the last one above ``first`` (−1: none), and up to
            ``last``.
    """

    examples: Tensor
    known: Tensor | None
    positives: Tensor
    at: Tensor
    first: Tensor
    last: Tensor
    before: Tensor
    within: Tensor

    @classmethod
    def of(
        cls,
        scores: Tensor,
        positive: Tensor,
        known: Tensor | None = None,
        examples: Tensor | None = None,
    ) -> "Ranking":
        """Of ``scores (R, m)`` that are no NaN; ``examples (m,)`` says whose the cells are."""
        ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
        first, last = tied(ordered)
        hit = positive.gather(1, order)
        so_far = hit.cumsum(1)
        rows, columns = hit.nonzero(as_tuple=True)
        most = int(so_far[:, -1].max()) if so_far.numel() else 0
        at = order.new_zeros(len(scores), most)
        at[rows, so_far[rows, columns] - 1] = columns
        first, last = first.gather(1, at), last.gather(1, at)
        return cls(
            order if examples is None else examples[order],
            None if known is None else known.gather(1, order),
            torch.arange(most) < so_far[:, -1:],
            at,
            first,
            last,
            so_far.gather(1, first) - hit.gather(1, first).long() - 1,
            so_far.gather(1, last) - 1,
        )

    def weighed(self, rows: slice, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some rows, for ``weights (W, n)``: each positive's weight ``(W, R, P)``, and sums up to each
        cell ``(W, R, m)`` and positive ``(W, R, P)``."""
        examples = self.examples[rows]
        each = weights[:, None].expand(-1, len(examples), -1)
        each = each.gather(2, _of_draws(examples, weights))
        if self.known is not None:
            each = each * self.known[rows]
        own = each.gather(2, _of_draws(self.at[rows], weights)) * self.positives[rows]
        return own, each.cumsum(-1), own.cumsum(-1)


def tied(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Where the scores that are equal to each begin and end, of sorted rows ``(R, m)``."""
    count = ordered.shape[-1]
    index = torch.arange(count)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = new.roll(-1, 1)  # the first cell always begins one, so the last one always ends one
    first = torch.where(new, index, 0).cummax(-1).values
    last = torch.where(ends, index, count).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def auroc(ranking: Ranking, weights: Tensor) -> Tensor:
    """Area under the ROC curve, ties counted half: ``(W, n)`` → ``(R, W)``; NaN without both kinds."""

    def measured(rows: slice, weights: Tensor) -> Tensor:
        own, cells, hits = ranking.weighed(rows, weights)
        if not own.shape[-1]:
            return cells.new_full(cells.shape[:2], torch.nan)
        negatives = [
            _up_to(cells, ranking.last[rows]) - _up_to(hits, ranking.within[rows]),
            _up_to(cells, ranking.first[rows] - 1) - _up_to(hits, ranking.before[rows]),
        ]
        positive = hits[..., -1]
        negative = cells[..., -1] - positive
        below = negative[..., None] - (negatives[0] + negatives[1]) / 2
        return ratio((own * below).sum(-1), positive * negative)

    return _in_parts(ranking, weights, measured)


def average_precision(ranking: Ranking, weights: Tensor) -> Tensor:
    """Average precision: ``(W, n)`` → ``(R, W)``; NaN without a positive."""

    def measured(rows: slice, weights: Tensor) -> Tensor:
        own, cells, hits = ranking.weighed(rows, weights)
        if not own.shape[-1]:
            return cells.new_full(cells.shape[:2], torch.nan)
        found = _up_to(hits, ranking.within[rows])
        precision = ratio(found, _up_to(cells, ranking.last[rows]), 0.0)
        return ratio((own * precision).sum(-1), hits[..., -1])

    return _in_parts(ranking, weights, measured)


def _in_parts(
    ranking: Ranking, weights: Tensor, measured: Callable[[slice, Tensor], Tensor]
) -> Tensor:
    """``measured`` of a few rows and draws at a time, ``(W, R)`` each."""
    rows, cells = ranking.examples.shape
    draws = min(len(weights), max(1, CELLS // max(cells, 1)))
    step = max(1, CELLS // max(cells * draws, 1))
    return torch.cat(
        [
            torch.cat([measured(slice(at, at + step), some) for some in weights.split(draws)]).T
            for at in range(0, rows, step)
        ]
        or [weights.new_zeros(0, len(weights))]
    )


def _up_to(cumulated: Tensor, where: Tensor) -> Tensor:
    """Sums up to places ``(R, P)``, of ``(W, R, …)`` → ``(W, R, P)``; 0 up to −1."""
    return cumulated.gather(2, _of_draws(where.clamp(min=0), cumulated)) * (where >= 0)


def _of_draws(index: Tensor, weights: Tensor) -> Tensor:
    return index.expand(len(weights), *index.shape)
