"""LiDAR: the effective rank of what tells examples apart beyond their views (Thilak et al. 2023).

    Σ_b = mean_i (μ_i − μ)(μ_i − μ)ᵀ                    μ_i: mean over the q views of example i
    Σ_w = mean_{i,v} (e_iv − μ_i)(e_iv − μ_i)ᵀ + δ I    δ = 1e-4
    LiDAR = exp(−Σ p ln p), p = λ / Σλ + ε              λ: eigenvalues of Σ_w^−½ Σ_b Σ_w^−½

An example is a class of its own, its augmented views are its members. The publication takes 1,000 examples
and 50 views; the rank of Σ_b is at most the examples less one.
"""

from collections.abc import Iterable

import numpy as np
from scipy.linalg import eigh

from iceprobe.measures.moments import Floats, Moments
from iceprobe.measures.registry import Undefined
from iceprobe.measures.spectrum import entropy_rank

DELTA = 1e-4


def lidar(views: Iterable[Floats], dim: int, delta: float = DELTA) -> float:
    """Of examples whose q ≥ 2 views come in blocks ``(b, q, D)``.

    Raises:
        Undefined: if the mean over views is the same for all examples.
    """
    between, within, count = Moments(dim), np.zeros((dim, dim)), 0
    for block in views:
        means = block.mean(1)
        apart = (block - means[:, None]).reshape(-1, dim)
        between.add(means)
        within += apart.T @ apart
        count += len(apart)
    if between.constant.all():
        raise Undefined("the mean over views is the same for all examples")
    # eigh's second matrix is the one that whitens: λ of Σ_b u = λ Σ_w u.
    found = eigh(between.covariance, within / count + delta * np.eye(dim), eigvals_only=True)
    return entropy_rank(np.maximum(found, 0.0))
