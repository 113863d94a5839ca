"""How different an image's maps are from each other.

    (a) 1 − mean_{i<j} cos(a_i, a_j)      (b) 1 − mean_{i<j} Σ_n min(a_in, a_jn)

0 where all maps are the same; both reach 1 where no two share a patch. The publication of EP
gives values without a formula, so ours are named by theirs. For any maps of one image: a probe's
predictors, or the heads of a backbone's own attention.
"""

import torch
from torch import Tensor

from iceprobe.probes.regularisation import mean_pairwise_cosine


def complementarity(maps: Tensor) -> dict[str, Tensor]:
    """Both formulas by name, of maps ``(B, M, N)`` that sum to 1: ``(B,)`` each; nothing of a single map."""
    if maps.shape[1] < 2:
        return {}
    return {
        "cosine": cosine_complementarity(maps),
        "intersection": intersection_complementarity(maps),
    }


def cosine_complementarity(maps: Tensor) -> Tensor:
    """Formula (a) of maps ``(B, M, N)``: ``(B,)``.

    Raises:
        ValueError: for a single map.
    """
    _several(maps)
    return 1 - mean_pairwise_cosine(maps)


def intersection_complementarity(maps: Tensor) -> Tensor:
    """Formula (b) of maps ``(B, M, N)`` that sum to 1: ``(B,)``.

    Raises:
        ValueError: for a single map.
    """
    predictors = _several(maps)
    # In ascending order over predictors the i-th value is the smaller one in M − 1 − i pairs.
    ascending = maps.sort(1).values
    pairs = torch.arange(predictors - 1, -1, -1, device=maps.device, dtype=maps.dtype)
    shared = (ascending.sum(-1) * pairs).sum(-1)
    return 1 - shared / (predictors * (predictors - 1) / 2)


def _several(maps: Tensor) -> int:
    predictors = maps.shape[1]
    if predictors < 2:
        raise ValueError("one map has no other to be compared with")
    return predictors
