"""The terms that read attention, pair by pair and weight by weight, differentiable.

Nothing is shared with `iceprobe`.
"""

import math
from itertools import combinations

import torch
from torch import Tensor


def mean_cosine(maps: Tensor) -> Tensor:
    """Of one image's maps ``(M, N)``: the mean over pairs."""
    found = [(a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())
             for a, b in combinations(maps, 2)]  # fmt: skip
    return torch.stack(found).mean()


def mean_entropy(maps: Tensor) -> Tensor:
    """Of one image's maps ``(M, N)``: the mean over them, 1 where all are uniform."""
    terms = [-sum(w * w.log() for w in a) / math.log(len(a)) for a in maps]
    return torch.stack(terms).mean()


def penalty(weights: Tensor, complementarity: float = 0.0, entropy: float = 0.0) -> Tensor:
    """Of the attention ``(B, M, N)`` of a batch: the mean over its images."""
    each = [
        (complementarity * mean_cosine(maps) if complementarity else 0.0)
        + (entropy * mean_entropy(maps) if entropy else 0.0)
        for maps in weights
    ]
    return torch.stack(each).mean()
