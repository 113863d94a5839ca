"""Formulas of one class an example; conventions as in `tasks/formulas.py`.

    p = softmax(z), of the logits as they are kept        classes 0 … C − 1, −1 predicted: none

Logits of −∞ are classes that can't be. An example whose logits aren't finite otherwise predicts no class; it
ranks last for its own class and first for the others, and its probability of the truth is 0.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.tasks.calibration import calibration_error
from iceprobe.tasks.formulas import (
    Values,
    by_class,
    integers,
    mean_of_defined,
    numbers,
    over_members,
    ratio,
    sums,
)
from iceprobe.tasks.rankings import Ranking, average_precision
from iceprobe.tasks.rankings import auroc as area_under_roc

_BLOCK = 1 << 22  # of probabilities at once: 32 MB
EPS = float(np.finfo(np.float64).eps)


def auroc(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """AUROC of p_c, one class against the rest, mean over classes: ``(S, n, C)``, ``(n,)`` → ``(S, W)``.

    As scikit-learn's ``roc_auc_score(multi_class="ovr")``, over the classes that have examples.
    """
    return mean_of_defined(_one_against_the_rest(area_under_roc, logits, targets, weights))


def ap(logits: Values, targets: Values, weights: Tensor) -> Tensor:
    """Average precision of p_c, mean over classes that have examples: ``(S, n, C)`` → ``(S, W)``.

    NaN with one true class.
    """
    found = mean_of_defined(_one_against_the_rest(average_precision, logits, targets, weights))
    true = integers(targets)
    return _of_several(by_class(true, weights.T.contiguous(), 1 + int(true.max())), found)


def f1_macro(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """Mean of the F1 of classes that are true or predicted of any example: ``(S, n)``, ``(n,)`` → ``(S, W)``.

    As scikit-learn's ``f1_score(average="macro")``, but that −1 isn't a class.
    """
    hits, truth, called = _counts(predicted, targets, weights)
    return mean_of_defined(ratio(2 * hits, truth + called))


def kappa(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """Cohen's kappa (p_o − p_e)/(1 − p_e): ``(S, n)``, ``(n,)`` → ``(S, W)``; NaN with one true class.

    Cohen 1960.
    """
    hits, truth, called = _counts(predicted, targets, weights)
    whole = weights.sum(1)
    observed = ratio(hits.sum(-1), whole)
    expected = ratio((truth * called).sum(-1), whole**2)
    return _of_several(truth, ratio(observed - expected, 1 - expected))


def kappa_quadratic(predicted: Values, targets: Values, weights: Tensor) -> Tensor:
    """Kappa with disagreement (i − j)² of classes i and j in their order: ``(S, n)``, ``(n,)`` → ``(S, W)``.

        1 − Σ_i w_i (t_i − p_i)² / Σ_ij w_i w_j (t_i − p_j)²        with Σ w_i = 1

    NaN with one true class. −1 counts as the class furthest from the truth. Cohen 1968.
    """
    true = integers(targets)
    highest = int(true.max())
    t = true.to(torch.float64)
    p = integers(predicted)
    p = torch.where(p < 0, torch.where(2 * true < highest, highest, 0), p).to(torch.float64)
    whole = weights.sum(1)
    mean_t, square_t, mean_p, square_p, apart = (
        ratio(sums(of, weights), whole) for of in (t, t**2, p, p**2, (t - p) ** 2)
    )
    by_chance = square_t + square_p - 2 * mean_t * mean_p
    truth = by_class(true, weights.T.contiguous(), highest + 1)
    return _of_several(truth, 1 - ratio(apart, by_chance))


def log_loss(logits: Values, targets: Values) -> Tensor:
    """−ln p of the true class, of each example: ``(S, n, C)``, ``(n,)`` → ``(S, n)``.

    p is at least 2.2e-16, float64's ε, as scikit-learn clips it: a loss is at most 36.04.
    """
    true = integers(targets)[:, None]
    p = [
        _of_softmax(member, lambda p, some: p.gather(1, true[some])) for member in _members(logits)
    ]
    return -torch.stack(p)[..., 0].nan_to_num(0.0).clamp(EPS, 1.0).log()


def ece(
    logits: Values,
    predicted: Values,
    targets: Values,
    weights: Tensor,
    log_sum_exp: NDArray | None = None,
) -> Tensor:
    """Calibration error of the highest p: ``(S, n, C)``, ``(S, n)``, ``(n,)`` → ``(S, W)``.

    Args:
        log_sum_exp: ``(S, n)``, where ``logits`` are those of the best classes only.
    """
    if log_sum_exp is None:
        of_members = [_of_softmax(member, lambda p, _: p.amax(1)) for member in _members(logits)]
        confidence = torch.stack(of_members)
    else:
        confidence = (numbers(logits).amax(-1) - numbers(log_sum_exp)).exp()
    right = integers(predicted) == integers(targets)
    return calibration_error(confidence.nan_to_num(1.0).clamp(0, 1), right, weights)


def class_table(predicted: Values, targets: Values, count: int) -> dict[str, NDArray]:
    """Of each class, its ``examples (C,)`` and ``precision``, ``recall`` and ``f1 (S, C)``.

    Precision is NaN of a class never predicted, recall of one without an example, F1 of one with neither.
    """
    ones = torch.ones(1, len(targets), dtype=torch.float64)
    hits, truth, called = (of[:, 0] for of in _counts(predicted, targets, ones, count))
    return {
        "examples": truth[0].to(torch.int64).numpy(),
        "precision": ratio(hits, called).numpy(),
        "recall": ratio(hits, truth).numpy(),
        "f1": ratio(2 * hits, truth + called).numpy(),
    }


def _counts(
    predicted: Values, targets: Values, weights: Tensor, count: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight of examples that are right, true and predicted of each class, ``(S, W, C)`` each."""
    true, of_members = integers(targets), integers(predicted)
    count = count or 1 + int(max(true.max(), of_members.max()))
    each = weights.T.contiguous()
    truth = by_class(true, each, count)
    hits, called = [], []
    for mine in of_members:
        right = (mine == true).nonzero()[:, 0]
        hits.append(by_class(true[right], each[right], count))
        called.append(by_class(mine, each, count))
    return torch.stack(hits), truth.expand(len(hits), -1, -1), torch.stack(called)


def _of_several(truth: Tensor, values: Tensor) -> Tensor:
    """``values``, where ``truth (…, W, C)`` has examples of several classes, and NaN elsewhere."""
    return torch.where((truth > 0).sum(-1) > 1, values, torch.nan)


def _one_against_the_rest(
    measure: Callable[[Ranking, Tensor], Tensor], logits: Values, targets: Values, weights: Tensor
) -> Tensor:
    """Of each class that has examples, ``(S, W, classes)``."""
    true = integers(targets)
    there = true.unique()
    found = []
    for member in _members(logits):
        rows = []
        for some in there.split(max(1, _BLOCK // max(len(true), 1))):
            p = _of_softmax(member, _columns(some)).T.contiguous()
            positive = true == some[:, None]
            p = torch.where(p.isnan(), (~positive).to(p.dtype), p)
            rows.append(measure(Ranking.of(p, positive), weights))
        found.append(torch.cat(rows))
    return over_members(found)


def _columns(some: Tensor) -> Callable[[Tensor, slice], Tensor]:
    return lambda p, _: p[:, some]


def _of_softmax(logits: Tensor, read: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """``read`` of p and of whose it is, some examples at a time: logits ``(n, C)`` → ``(n, …)``."""
    step = max(1, _BLOCK // logits.shape[1])
    blocks = (slice(at, at + step) for at in range(0, len(logits), step))
    return torch.cat([read(logits[some].to(torch.float64).softmax(1), some) for some in blocks])


def _members(logits: Values) -> Iterator[Tensor]:
    """The logits of each seed, ``(n, C)``, one at a time: all may be GBs in a mapped file."""
    for member in logits:
        yield member if isinstance(member, Tensor) else torch.from_numpy(np.array(member))
