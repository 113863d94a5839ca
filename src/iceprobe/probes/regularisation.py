"""Terms of the training loss that read the attention itself: complementarity and concentration.

    ℓ = CE + λ_c · mean_{i≠j} cos(a_i, a_j) + λ_e · mean_j H(a_j)/ln N      H(a) = −Σ_n a_n ln a_n

Both are means over the images of a batch. λ_c > 0 rewards predictors that attend to different
tokens, λ_e > 0 predictors that attend to few; negative values reward the opposite, as a control.
The attention is over the patches and the prefix tokens that ``input`` adds. Prediction is the same
as without them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.masks import only_scores


@dataclass(frozen=True)
class Regularisation:
    """The weights of the terms; false if all are zero."""

    complementarity: float = 0.0  # λ_c, of the mean pairwise cosine of an image's maps
    entropy: float = 0.0  # λ_e, of the normalised entropy of a map

    def __bool__(self) -> bool:
        return bool(self.complementarity or self.entropy)

    def __call__(self, log_weights: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
        """ln a and a, ``(B, …, M, N)`` → the addition to the loss, ``(B, …)``; 0 without terms.

        ``mask``, ``(B, N)``, says which rows are tokens; others have a = 0.
        """
        total = log_weights.new_zeros(log_weights.shape[:-2])
        if self.complementarity:
            total = total + self.complementarity * mean_pairwise_cosine(weights)
        if self.entropy:
            total = total + self.entropy * normalised_entropy(log_weights, weights, mask).mean(-1)
        return total


def mean_pairwise_cosine(maps: Tensor) -> Tensor:
    """Mean cosine over pairs of an image's M ≥ 2 maps, ``(…, M, N)`` → ``(…)``.

    In M·N products per image instead of M²·N: with unit maps â_i = a_i/‖a_i‖,

        Σ_{i≠j} cos(a_i, a_j) = ‖Σ_i â_i‖² − Σ_i ‖â_i‖² = ‖Σ_i â_i‖² − M

    Examples:
        >>> mean_pairwise_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
        tensor(0.3333)
    """
    predictors = maps.shape[-2]
    unit = F.normalize(maps, dim=-1)
    pairs = unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))
    return pairs / (predictors * (predictors - 1))


def normalised_entropy(log_weights: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """−Σ_n a_n ln a_n / ln N from ln a and a, ``(B, …, N)`` → ``(B, …)``; N of each example by ``mask``.

    Logarithms are separate because a weight that rounds to 0 still has a gradient by ln a, while
    d(−a ln a)/da = −ln a − 1 is infinite. A single key is an `IceprobeError`; of examples of several
    lengths, the entropy of one with a single token is 0.
    """
    keys = log_weights.shape[-1]
    if keys < 2:
        raise IceprobeError(
            "entropy=… needs two tokens to spread over and there is 1: leave it out"
        )
    if mask is None:
        return -torch.linalg.vecdot(weights, log_weights) / math.log(keys)
    entropy = -torch.linalg.vecdot(weights, only_scores(log_weights, mask, 0.0))
    most = mask.sum(1).clamp_min(2).to(entropy.dtype).log()  # ln 1 = 0, as is the entropy then
    return entropy / most.view(-1, *[1] * (entropy.ndim - 1))
