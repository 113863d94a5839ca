"""The rows that a linear probe is solved on, standardised by their own mean and deviation.

    x̂ = (x − mean) / sd          R = V diag(s) Vᵀ, the correlation of the features

Features are standardised exactly, so that λ doesn't depend on their units; a constant feature is 0. Rows
are read in chunks, from memory if they fit, so that memory is bounded. Several processes share many rows
and sum what they find; few rows are solved faster by each process alone.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from iceprobe.fitting.losses import Loss
from iceprobe.machine.processes import world
from iceprobe.machine.torch_state import threads

DOUBLE = 2**25  # numbers up to which features are kept and multiplied in float64
HELD = 2**28  # numbers up to which they are kept, in float32; beyond it they are read every time
SMALL = 1024  # features up to which one thread decomposes their correlation
CHUNK = 2**21  # logits and features of a chunk, in numbers

#: Gives the rows once: features ``(m, D)`` and targets ``(m, …)``; this process's part where shared.
Rows = Callable[[], Iterable[tuple[Tensor, Tensor]]]


class Standardised:
    """Rows and what is measured on them.

    Args:
        rows: in chunks, as often as they are asked for.
        count: n, of all processes.
        dim: D.
        loss: built from the rows' targets.
        device: of the products.
        shared: whether every process has a part of the rows, in place of all.
        stretch: an output is solved at λ times this, ``(K,)`` or ``()``; 1 by default.

    Attributes:
        mean, variance: ``(D,)`` float64 of the rows.
        inverse: 1 / sd; 0 where a feature is constant.
        values, vectors: s ``(D,)`` and V ``(D, D)``.
    """

    def __init__(
        self,
        rows: Rows,
        count: int,
        dim: int,
        loss: Loss,
        device: torch.device,
        shared: bool = False,
        stretch: Tensor | None = None,
    ):
        self.shared = shared
        self.count, self.dim, self.outputs, self.device = count, dim, loss.outputs, device
        self.stretch = torch.ones(()) if stretch is None else stretch
        self.stretch = self.stretch.to(device, torch.float64)
        self._rows = rows
        self._measure()

    def _measure(self) -> None:
        """Mean, standard deviation and correlation, about the first row so that nothing cancels."""
        origin = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        for features, _ in self._rows():
            origin += features[0].to(self.device, torch.float64)
            break
        self._align(origin)
        total = torch.zeros_like(origin)
        products = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.device)
        for features, _ in self._rows():
            centred = features.to(self.device, torch.float64) - origin
            total += centred.sum(0)
            products += centred.mT @ centred
        self._sum(total)
        self._sum(products)
        shift = total / self.count
        covariance = products / self.count - torch.outer(shift, shift)
        variance = covariance.diagonal().clamp_min(0)
        scale = products.diagonal() / self.count  # what rounding leaves of a constant feature
        self.mean = origin + shift
        self.variance = torch.where(variance > 1e-14 * scale, variance, 0.0)
        self.inverse = torch.where(self.variance > 0, self.variance.rsqrt(), 0.0)
        self.values, self.vectors = self._decomposed(
            covariance * torch.outer(self.inverse, self.inverse)
        )

    def _decomposed(self, symmetric: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues, not below 0, and eigenvectors, the same in all processes."""
        with threads(1 if len(symmetric) <= SMALL else torch.get_num_threads()):
            values, vectors = torch.linalg.eigh(symmetric)
        self._align(values, vectors)
        return values.clamp_min(0), vectors

    def _sum(self, tensor: Tensor) -> None:
        if self.shared:
            world().sum_(tensor)

    def _align(self, *tensors: Tensor) -> None:
        if self.shared:
            world().align(tensors)

    def _standardised(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """x̂ ``(m, D)`` and targets ``(m, …)`` on the device, a chunk at a time."""
        size = max(1, CHUNK // (self.dim + self.outputs))
        for features, targets in self._rows():
            for x, y in zip(features.split(size), targets.split(size), strict=True):
                x = (x.to(self.device, torch.float64) - self.mean) * self.inverse
                yield x.to(dtype), y.to(self.device)
