"""Linear CKA: how alike two sets of vectors of the same examples are (Kornblith et al. 2019).

    CKA = HSIC(X, Y) / √(HSIC(X, X) HSIC(Y, Y))
    HSIC(X, Y) = ‖X_cᵀ Y_c‖²                                  X_c centred
    unbiased (Song et al. 2012), K = X Xᵀ and L = Y Yᵀ without their diagonals:
    HSIC = [ tr(KL) + 1ᵀK1 · 1ᵀL1 / ((n − 1)(n − 2)) − 2/(n − 2) 1ᵀKL1 ] / (n (n − 3))

The biased one grows towards 1 where examples are few for their dimensions; the unbiased one doesn't. Of linear
kernels all terms are sums over examples, so neither needs an (n, n) matrix, and neither changes when all of X is
shifted, which keeps the digits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from iceprobe.measures.moments import Floats
from iceprobe.measures.registry import Undefined


@dataclass(frozen=True)
class Hsic:
    """Of two sets of vectors; ``unbiased`` is NaN of fewer than four examples."""

    biased: float
    unbiased: float


def hsic(pairs: Iterable[tuple[Floats, Floats]]) -> Hsic:
    """Of the same examples' vectors in blocks ``(b, D)`` and ``(b, D')``; the biased one isn't scaled."""
    n, product, k_l = 0, np.zeros(()), 0.0
    shifts: tuple[Floats, Floats] | None = None
    totals: list[Floats] = []
    weighted: list[Floats] = []  # Σ x ‖y‖², Σ y ‖x‖²
    lengths = [0.0, 0.0]  # Σ ‖x‖², Σ ‖y‖²
    for first, second in pairs:
        if shifts is None:
            shifts = first.mean(0), second.mean(0)
            totals = [np.zeros(first.shape[1]), np.zeros(second.shape[1])]
            weighted = [np.zeros_like(one) for one in totals]
            product = np.zeros((first.shape[1], second.shape[1]))
        x, y = first - shifts[0], second - shifts[1]
        k, ell = (x * x).sum(1), (y * y).sum(1)
        n += len(x)
        product += x.T @ y
        for at, (one, other) in enumerate(((x, ell), (y, k))):
            totals[at] += one.sum(0)
            weighted[at] += other @ one
        lengths[0] += float(k.sum())
        lengths[1] += float(ell.sum())
        k_l += float(k @ ell)
    biased = float(((product - np.outer(*totals) / n) ** 2).sum())
    if n < 4:
        return Hsic(biased, float("nan"))
    trace = float((product**2).sum()) - k_l
    sums = [float(one @ one) - length for one, length in zip(totals, lengths, strict=True)]
    mixed = float(totals[0] @ product @ totals[1]) + k_l
    mixed -= float(totals[0] @ weighted[0]) + float(totals[1] @ weighted[1])
    corrected = trace + sums[0] * sums[1] / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)
    return Hsic(biased, corrected / (n * (n - 3)))


def linear_cka(both: Hsic, first: Hsic, second: Hsic) -> dict[str, float]:
    """``cka`` and, where it is defined, ``cka_unbiased``.

    Raises:
        Undefined: if all vectors of one are the same.
    """
    if not first.biased * second.biased > 0:
        raise Undefined("all vectors of one of them are the same")
    found = {"cka": both.biased / np.sqrt(first.biased * second.biased)}
    if (scale := first.unbiased * second.unbiased) > 0 and first.unbiased > 0:
        found["cka_unbiased"] = both.unbiased / np.sqrt(scale)
    return {name: float(value) for name, value in found.items()}
