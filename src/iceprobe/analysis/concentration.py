"""How spread out attention is.

    entropy(a) = −Σ_n a_n ln a_n / ln N  ∈ [0, 1]

0: all on one patch; 1: uniform.
"""

import math

import torch
from torch import Tensor


def entropy(maps: Tensor) -> Tensor:
    """Normalised entropy of maps that sum to 1, ``(…, N)`` → ``(…)``.

    Raises:
        ValueError: for a single patch, whose entropy says nothing.

    Examples:
        >>> entropy(torch.tensor([0.5, 0.5, 0.0, 0.0]))
        tensor(0.5000)
    """
    patches = maps.shape[-1]
    if patches < 2:
        raise ValueError("the entropy over one patch has no scale: ln 1 = 0")
    return -torch.special.xlogy(maps, maps).sum(-1) / math.log(patches)
