"""Sums over streamed vectors, in float64: their mean, their covariance, their products with others.

    Σ (x − c)(x − c)ᵀ,  c the mean of the first block

Shifted by c, vectors far from 0 lose no digits when means are subtracted. Blocks of any size give the same
up to rounding.
"""

from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SAME = 1e-24  # variance as a share of the mean square, below which it is rounding


class Moments:
    """First and second moments of vectors ``(n, D)``.

    Attributes:
        count: n.
        shift: c, ``(D,)``.
        total: Σ (x − c), ``(D,)``.
        product: Σ (x − c)(x − c)ᵀ, ``(D, D)``.
    """

    def __init__(self, dim: int):
        self.count, self.shift = 0, np.zeros(dim)
        self.total, self.product = np.zeros(dim), np.zeros((dim, dim))

    @classmethod
    def of(cls, blocks: Iterable[Floats], dim: int) -> Self:
        """Of blocks ``(b, D)``."""
        made = cls(dim)
        for block in blocks:
            made.add(block)
        return made

    def add(self, block: Floats) -> None:
        """Add vectors ``(b, D)``."""
        if not len(block):
            return
        if not self.count:
            self.shift = block.mean(0)
        shifted = block - self.shift
        self.count += len(block)
        self.total += shifted.sum(0)
        self.product += shifted.T @ shifted

    @property
    def mean(self) -> Floats:
        """``(D,)``."""
        return self.shift + self.total / self.count

    @property
    def covariance(self) -> Floats:
        """Divided by n, ``(D, D)``."""
        return (self.product - np.outer(self.total, self.total) / self.count) / self.count

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Dimensions in which all vectors are the same, up to rounding, ``(D,)``."""
        square = self.second.diagonal() / self.count
        return np.asarray(self.covariance.diagonal() <= _SAME * square)

    @property
    def second(self) -> Floats:
        """Σ x xᵀ of the vectors as they are, ``(D, D)``."""
        mean = self.mean
        return self.count * (self.covariance + np.outer(mean, mean))
