"""How many dimensions vectors use: RankMe, participation ratio, α-ReQ.

    RankMe         exp(−Σ_k p_k ln p_k), p_k = σ_k / Σσ + ε          Garrido et al. 2023, ε = 1e-7
    participation  (Σλ)² / Σλ²                                       Gao et al. 2017
    α-ReQ          ln λ_i = a − α ln i, i = 4 … 100, weights 1/i     Agrawal et al. 2022

σ are the singular values of the vectors as they are, as published; λ the eigenvalues of their covariance. The
range and the weights of α's fit are those of the authors' code, which has them from Stringer et al. 2019: the
first eigenvalues don't follow the law.
"""

from dataclasses import dataclass

import numpy as np

from iceprobe.measures.moments import Floats
from iceprobe.measures.registry import Undefined

EPSILON = 1e-7
FIRST, LAST = 4, 100  # eigenvalues of α's fit, from 1
LEAST = 8  # of them, below which no slope is told
_FLAT = 1e-18  # variance of logarithms that is rounding


@dataclass(frozen=True)
class PowerLaw:
    """A fitted spectrum: its exponent, R² of the fit in logarithms, and the last eigenvalue of it, from 1."""

    alpha: float
    r2: float
    last: int


def eigenvalues(matrix: Floats) -> Floats:
    """Of a symmetric matrix without negative ones, ``(D, D)`` → ``(D,)``, the largest first.

    Those that are rounding, as `numpy.linalg.matrix_rank` has it, are 0.
    """
    found = np.linalg.eigvalsh(matrix)[::-1]
    return np.where(found > len(found) * np.finfo(np.float64).eps * found[0], found, 0.0)


def entropy_rank(values: Floats) -> float:
    """exp(−Σ p ln p) of values ``(D,)`` ≥ 0, p = value / Σ + ε."""
    p = values / values.sum() + EPSILON
    return float(np.exp(-(p * np.log(p)).sum()))


def rankme(second: Floats, count: int) -> float:
    """RankMe of ``count`` vectors whose Σ x xᵀ is ``second (D, D)``; they have min(count, D) singular values."""
    return entropy_rank(np.sqrt(eigenvalues(second))[:count])


def participation_ratio(spectrum: Floats) -> float:
    """Of the eigenvalues ``(D,)`` of a covariance."""
    return float(spectrum.sum() ** 2 / (spectrum**2).sum())


def alpha_req(spectrum: Floats, first: int = FIRST, last: int = LAST) -> PowerLaw:
    """Exponent of the eigenvalues ``(D,)`` of a covariance, the largest first.

    Args:
        spectrum: the first that is 0 ends the fit.
        first: eigenvalue of the fit, from 1.
        last: eigenvalue of the fit, or the last that isn't 0.

    Raises:
        Undefined: for fewer than 8 eigenvalues in that range.
    """
    last = min(last, int((spectrum > 0).sum()))
    if last - first + 1 < LEAST:
        raise Undefined(
            f"a slope from eigenvalue {first} on needs {LEAST} of them, and there are "
            f"{max(0, last - first + 1)} that aren't 0"
        )
    index = np.arange(first, last + 1)
    x, y, weights = np.log(index), np.log(spectrum[first - 1 : last]), 1 / index
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weights))  # numpy squares them
    left = ((y - slope * x - intercept) ** 2).sum()
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - left / spread if spread > _FLAT else 1.0  # a line through a flat spectrum is exact
    return PowerLaw(float(-slope), float(r2), last)
