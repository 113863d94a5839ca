"""What formulas of metrics share: sums under weights of examples, ratios, means over what is defined.

A formula is a pure function in float64 of what was predicted, of targets and of weights of the examples:

    weights (W, n) ≥ 0, one row a draw        predictions (S, n, …), one row a seed        → (S, W)

Weights aren't normalised: ones give the metric itself, counts of a bootstrap draw the metric of the examples
as often as they were drawn. A formula is of degree 0 in them, and they can be differentiated by. Where it is
undefined (no positive, one class only) it is NaN. That depends on targets and weights alone, never on what
was predicted: all seeds have a metric, or none has.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray | Tensor
CELLS = 1 << 17  # held at once in a pass over weights: 1 MB, which stays in a processor's cache


def numbers(values: Values) -> Tensor:
    """As float64."""
    if isinstance(values, Tensor):
        return values.to(torch.float64)
    return torch.from_numpy(np.array(values, np.float64))


def integers(values: Values) -> Tensor:
    """As int64."""
    if isinstance(values, Tensor):
        return values.to(torch.int64)
    return torch.from_numpy(np.array(values, np.int64))


def ratio(above: Tensor, below: Tensor, otherwise: float = float("nan")) -> Tensor:
    """``above / below``, and ``otherwise`` where ``below`` is 0, with gradients that are never NaN."""
    defined = below > 0
    return torch.where(defined, above / torch.where(defined, below, 1.0), otherwise)


def mean_of_defined(values: Tensor) -> Tensor:
    """Mean over the last axis of what isn't NaN, ``(…, K)`` → ``(…)``; NaN where all is.

    >>> mean_of_defined(torch.tensor([[1.0, float("nan"), 2.0]]))
    tensor([1.5000])
    """
    defined = ~values.isnan()
    return ratio(torch.where(defined, values, 0.0).sum(-1), defined.sum(-1).to(values.dtype))


def sums(values: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i v_i: ``(…, n)``, ``(W, n)`` → ``(…, W)``."""
    return values.to(torch.float64) @ weights.T


def picked(weights: Tensor, index: Tensor) -> Tensor:
    """``weights[:, index]`` in a quarter of the time: ``(W, n)``, ``(m,)`` → ``(W, m)``."""
    return weights.gather(1, index.expand(len(weights), -1))


def by_class(classes: Tensor, weights: Tensor, count: int) -> Tensor:
    """Weight of each class: ``(n,)``, weights example by draw ``(n, W)`` → ``(W, C)``; −1 is no class."""
    if (classes < 0).any():
        known = classes >= 0
        classes, weights = classes[known], weights[known]
    # Rows of all draws are added at once; along the other axis it takes three times as long.
    return weights.new_zeros(count, weights.shape[1]).index_add(0, classes, weights).T


def f1(called: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) of each row, 0 without any: two ``(R, n)`` bool → ``(R, W)``.

    Cells that are unknown are False in both.
    """
    hits = sums(called & positive, weights)
    return ratio(2 * hits, sums(called, weights) + sums(positive, weights), 0.0)


def over_members(values: Sequence[Tensor]) -> Tensor:
    """Of each seed ``(K, W)`` → ``(S, W, K)``."""
    return torch.stack([one.T for one in values])
