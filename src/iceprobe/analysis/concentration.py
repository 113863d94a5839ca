"""How spread out attention is, over the N_b tokens that example b has.

    entropy(a) = −Σ_n a_n ln a_n / ln N_b  ∈ [0, 1]
    effective tokens(a) = exp(−Σ_n a_n ln a_n)  ∈ [1, N_b]
    top share(a, k) = sum of the k largest a_n

Entropy 0: all on one token; 1: uniform. As many tokens as are effective, with equal weights, have the same entropy.
"""

import math

import torch
from torch import Tensor


def entropy(maps: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Normalised entropy of maps that sum to 1, ``(…, N)`` → ``(…)``.

    Args:
        maps: 0 in padding.
        lengths: N_b of maps ``(B, …, N)``, ``(B,)``; by default all have N. The entropy over one token has no
            scale and is NaN.

    Raises:
        ValueError: for a single patch, whose entropy says nothing, where all have N.

    Examples:
        >>> entropy(torch.tensor([0.5, 0.5, 0.0, 0.0]))
        tensor(0.5000)
    """
    if lengths is not None:
        scale = lengths.to(maps).log().view(-1, *[1] * (maps.ndim - 2))
        return _nats(maps) / torch.where(scale > 0, scale, torch.nan)
    patches = maps.shape[-1]
    if patches < 2:
        raise ValueError("the entropy over one patch has no scale: ln 1 = 0")
    return _nats(maps) / math.log(patches)


def effective_tokens(maps: Tensor) -> Tensor:
    """The number of tokens that equal weights of the same entropy would be on: ``(…, N)`` → ``(…)``."""
    return _nats(maps).exp()


def top_share(maps: Tensor, counts: Tensor) -> Tensor:
    """How much of each map the k largest weights have: ``(B, M, N)`` with k ``(B,)`` ≥ 1 → ``(B, M)``."""
    most = min(int(counts.max()), maps.shape[-1])
    largest = maps.topk(most).values.cumsum(-1)
    last = (counts.clamp(max=most) - 1).view(-1, 1, 1).expand(*maps.shape[:2], 1)
    return largest.gather(-1, last.to(maps.device))[..., 0]


def _nats(maps: Tensor) -> Tensor:
    return -torch.special.xlogy(maps, maps).sum(-1)
