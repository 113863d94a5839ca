"""Multinomial logistic regression to its optimum: the best linear probe at a decay.

    f(W, b) = 1/n Σ_i CE(W x̂_i + b, y_i) + ½ λ ‖W‖²        x̂ = (x − mean) / sd of the rows

The features are standardised exactly, so λ doesn't depend on their units; a constant feature is 0. The
bias isn't penalised. It is scikit-learn's `LogisticRegression` on standardised features with C = 1/(λ n).

L-BFGS (scipy's, as scikit-learn's) searches U with W = U Pᵀ. The directions of frozen features differ
in scale by orders of magnitude, and P takes most of that away::

    R = V diag(s) Vᵀ  (correlation of the features)      P = V diag((κ s + λ)^-½)

with κ the mean of p(1 − p) over rows and classes where the search begins: κ s is about the curvature of
the loss along a direction. On the class tokens of 2,000 images that takes 100 to 150 iterations at a
weak decay where plain L-BFGS takes 700 and more. On a path of decays, strong to weak, each search begins
at the solution before.

Small problems run on one thread, on which they are faster (benchmarks/linear_threads.py). Rows are read
in chunks, from memory if they fit, so that memory is bounded. Several processes share many rows and sum
their gradients; few rows are solved faster by each process alone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from iceprobe.machine.processes import world

DOUBLE = 2**25  # numbers up to which features are kept and multiplied in float64
HELD = 2**28  # numbers up to which they are kept, in float32; beyond it they are read every time
CHUNK = 2**21  # logits and features of a chunk, in numbers
ALONE = 2**26  # multiply-adds of a pass over the rows up to which one thread works alone
HISTORY = 10  # steps that L-BFGS remembers
MOST_ITERATIONS = 1000
TOLERANCE = 1e-6

#: Gives the rows once: features ``(m, D)`` and classes ``(m,)``; this process's part where shared.
Rows = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Solution:
    """An optimum, for standardised features."""

    weight: Tensor  # `(C, D)` float64
    bias: Tensor  # `(C,)`
    decay: float  # λ
    loss: float  # mean cross-entropy of the rows
    curvature: float  # κ there
    iterations: int  # of L-BFGS
    gradient: float  # largest entry of the gradient, in U
    # whether that is within the tolerance, or the loss falls no further for rounding
    converged: bool


class Problem:
    """The rows to fit.

    Args:
        rows: in chunks, as often as they are asked for.
        count: n, of all processes.
        dim: D.
        classes: C.
        device: of the products.
        shared: whether every process has a part of the rows, in place of all.

    Attributes:
        mean, variance: ``(D,)`` float64 of the rows.
        inverse: 1 / sd; 0 where a feature is constant.
    """

    def __init__(
        self,
        rows: Rows,
        count: int,
        dim: int,
        classes: int,
        device: torch.device,
        shared: bool = False,
    ):
        self.shared = shared
        self.count, self.dim, self.classes, self.device = count, dim, classes, device
        self.dtype = torch.float64 if count * dim <= DOUBLE else torch.float32
        self._rows = rows
        self._measure()
        self._kept = list(self._standardised()) if count * dim <= HELD else None

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
        values, vectors = torch.linalg.eigh(covariance * torch.outer(self.inverse, self.inverse))
        self._align(values, vectors)
        self._values, self._vectors = values.clamp_min(0), vectors

    def _sum(self, tensor: Tensor) -> None:
        if self.shared:
            world().sum_(tensor)

    def _align(self, *tensors: Tensor) -> None:
        if self.shared:
            world().align(tensors)

    def _standardised(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, CHUNK // (self.dim + self.classes))
        for features, labels in self._rows():
            for x, y in zip(features.split(size), labels.split(size), strict=True):
                x = (x.to(self.device, torch.float64) - self.mean) * self.inverse
                yield x.to(self.dtype), y.to(self.device)

    def evaluate(self, weight: Tensor, bias: Tensor) -> tuple[float, float, Tensor, Tensor]:
        """Mean cross-entropy, κ and the gradients, float64, at ``weight (C, D)`` and ``bias (C,)``."""
        w, b = weight.to(self.dtype), bias.to(self.dtype)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for x, y in self._kept if self._kept is not None else self._standardised():
            log_p = torch.log_softmax(torch.addmm(b, x, w.mT), 1)
            sums[0] -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64)
            error = log_p.exp_()
            sums[1] += len(y) - error.square().sum(dtype=torch.float64)  # Σ p(1 − p)
            error[torch.arange(len(y), device=self.device), y] -= 1
            by_weight += error.mT @ x
            by_bias += error.sum(0, dtype=torch.float64)
        found = torch.cat([sums, by_weight.flatten(), by_bias]) / self.count
        self._sum(found)
        self._align(found)  # so that all take the same steps
        gradients = found[2:].split([by_weight.numel(), by_bias.numel()])
        loss, spread = found[:2].tolist()
        return loss, spread / self.classes, gradients[0].view_as(weight), gradients[1]

    def solve(
        self, decay: float, start: Solution | None = None, tolerance: float = TOLERANCE
    ) -> Solution:
        """The optimum at a decay, searched from ``start`` or from zeros.

        Args:
            decay: λ.
            start: another decay's.
            tolerance: of the gradient's largest entry, in U; in float32 ten times that.
        """
        c, d = self.classes, self.dim
        curvature = max(start.curvature if start is not None else (1 - 1 / c) / c, 1e-8)
        scale = (self._values * curvature + decay).clamp_min(1e-12).sqrt()  # of U in V
        bias_scale = curvature**0.5

        def unfold(flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
            u = torch.from_numpy(flat).to(self.device)
            weight = (u[: c * d].view(c, d) / scale) @ self._vectors.mT
            return weight, u[c * d :] / bias_scale

        def value(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = unfold(flat)
            loss, _, by_weight, by_bias = self.evaluate(weight, bias)
            by_weight = (by_weight + decay * weight) @ self._vectors / scale
            gradient = torch.cat([by_weight.flatten(), by_bias / bias_scale])
            return loss + 0.5 * decay * float(weight.square().sum()), gradient.cpu().numpy()

        first = np.zeros(c * d + c)
        if start is not None:
            folded = (start.weight @ self._vectors) * scale
            first = torch.cat([folded.flatten(), start.bias * bias_scale]).cpu().numpy()
        tolerance *= 1 if self.dtype == torch.float64 else 10
        with _threads(1 if self.count * d * c <= ALONE else torch.get_num_threads()):
            found = minimize(
                value,
                first,
                jac=True,
                method="L-BFGS-B",
                options={
                    "maxcor": HISTORY,
                    "maxiter": MOST_ITERATIONS,
                    "maxfun": 2 * MOST_ITERATIONS,
                    "gtol": tolerance,
                    "ftol": 8 * torch.finfo(self.dtype).eps,
                },
            )
        gradient = float(np.abs(found.jac).max())
        weight, bias = unfold(found.x)
        world().align([weight, bias])  # processors may round differently
        loss, curvature, *_ = self.evaluate(weight, bias)
        near = found.success and gradient <= 100 * tolerance
        converged = bool(gradient <= tolerance or near)
        return Solution(weight, bias, decay, loss, curvature, int(found.nit), gradient, converged)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Sets the number of torch's threads, and restores it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_bytes(count: int, dim: int, classes: int) -> int:
    """Bytes of a problem of ``count`` rows at most: kept rows, a chunk, L-BFGS's history."""
    numbers = count * dim
    kept = 0 if numbers > HELD else numbers * (8 if numbers <= DOUBLE else 4)
    return kept + 8 * (4 * CHUNK + (2 * HISTORY + 8) * classes * (dim + 1) + 4 * dim * dim)
