"""Logistic regression to its optimum: the best linear probe of classes or tags at a decay.

    F(W, b) = Σ_parts f(W x̂ + b) + ½ Σ_k λ_k ‖w_k‖²        f of `losses.py`, x̂ of `standardised.py`

The bias isn't penalised. It is scikit-learn's `LogisticRegression` on standardised features with
C = 1/(λ n), multinomial, or one against the rest: each tag is a problem of its own then, and one search
takes the steps of all.

L-BFGS (scipy's, as scikit-learn's) searches U with W = U Pᵀ. The directions of frozen features differ
in scale by orders of magnitude, and P takes most of that away::

    R = V diag(s) Vᵀ  (correlation of the features)      P = V diag((κ s + λ)^-½)

with κ the mean of p(1 − p) over rows and classes where the search begins, a tag's own of tags: κ s is
about the curvature of the loss along a direction. On the class tokens of 2,000 images that takes 100 to
150 iterations at a weak decay where plain L-BFGS takes 700 and more. On a path of decays, strong to weak,
each search begins at the solution before.

Small problems run on one thread, on which they are faster (benchmarks/linear_threads.py).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from iceprobe.fitting import standardised
from iceprobe.fitting.losses import SearchedLoss
from iceprobe.fitting.solution import TOLERANCE, Solution
from iceprobe.fitting.standardised import Rows, Standardised
from iceprobe.machine.processes import world
from iceprobe.machine.torch_state import threads

ALONE = 2**26  # multiply-adds of a pass over the rows up to which one thread works alone
HISTORY = 10  # steps that L-BFGS remembers
MOST_ITERATIONS = 1000
TINY = 1e-12  # a decay of 0 has a logarithm too


class Problem(Standardised):
    """The rows to fit; arguments as of `Standardised`."""

    def __init__(
        self,
        rows: Rows,
        count: int,
        dim: int,
        loss: SearchedLoss,
        device: torch.device,
        shared: bool = False,
        stretch: Tensor | None = None,
    ):
        super().__init__(rows, count, dim, loss, device, shared, stretch)
        self.loss = loss
        few = count * dim <= standardised.DOUBLE
        self.dtype = torch.float64 if few else torch.float32
        keeps = count * dim <= standardised.HELD
        self._kept = list(self._standardised(self.dtype)) if keeps else None

    def evaluate(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss and κ of each part, ``()`` or ``(K,)``, and the gradients of their sum, float64.

        Args:
            weight: W ``(K, D)``.
            bias: b ``(K,)``.
        """
        w, b = weight.to(self.dtype), bias.to(self.dtype)
        shape = (2, *self.loss.parts)
        sums = torch.zeros(shape, dtype=torch.float64, device=self.device)
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for x, y in self._kept if self._kept is not None else self._standardised(self.dtype):
            loss, curvature, error = self.loss.sums(torch.addmm(b, x, w.mT), y)
            sums[0] += loss
            sums[1] += curvature
            by_weight += error.mT @ x
            by_bias += error.sum(0, dtype=torch.float64)
        found = torch.cat([sums.flatten(), by_weight.flatten(), by_bias]) / self.count
        self._sum(found)
        self._align(found)  # so that all take the same steps
        of_parts, weights, biases = found.split([sums.numel(), by_weight.numel(), by_bias.numel()])
        loss, curvature = of_parts.view(shape)
        return loss, curvature, weights.view_as(weight), biases

    def solve(
        self, decay: float, start: Solution | None = None, tolerance: float = TOLERANCE
    ) -> Solution:
        """The optimum at a decay, searched from ``start`` or from W = 0.

        Args:
            decay: λ.
            start: another decay's.
            tolerance: of the gradient's largest entry, in U; in float32 ten times that.
        """
        k, d = self.outputs, self.dim
        first_bias, curvature = (
            self.loss.start() if start is None else (start.bias, start.curvature)
        )
        curvature = curvature.to(self.device).clamp_min(1e-8)
        penalty = (decay * self.stretch)[..., None]  # `(1,)` or `(K, 1)`
        scale = (self.values * curvature[..., None] + penalty).clamp_min(1e-12).sqrt()  # of U in V
        bias_scale = curvature.sqrt()

        def unfold(flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
            u = torch.from_numpy(flat).to(self.device)
            weight = (u[: k * d].view(k, d) / scale) @ self.vectors.mT
            return weight, u[k * d :] / bias_scale

        def value(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = unfold(flat)
            loss, _, by_weight, by_bias = self.evaluate(weight, bias)
            by_weight = (by_weight + penalty * weight) @ self.vectors / scale
            gradient = torch.cat([by_weight.flatten(), by_bias / bias_scale])
            penalised = loss.sum() + 0.5 * (penalty * weight.square()).sum()
            return float(penalised), gradient.cpu().numpy()

        weight = torch.zeros(k, d, dtype=torch.float64, device=self.device)
        if start is not None:
            weight = (start.weight @ self.vectors) * scale
        bias = first_bias.to(self.device) * bias_scale
        first = torch.cat([weight.flatten(), bias]).cpu().numpy()
        tolerance *= 1 if self.dtype == torch.float64 else 10
        with threads(1 if self.count * d * k <= ALONE else torch.get_num_threads()):
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
        mean = self.loss.mean(loss)
        return Solution(weight, bias, decay, mean, curvature, int(found.nit), gradient, converged)

    def path(
        self,
        decays: Sequence[float],
        known: Mapping[float, Solution] | None = None,
        tolerance: float = TOLERANCE,
    ) -> dict[float, Solution]:
        """The optimum at each decay, from the strongest on, from the nearest one that is known."""
        known, found = dict(known or {}), {}
        for decay in sorted(decays, reverse=True):
            start = min(
                known, key=lambda one: abs(math.log((one + TINY) / (decay + TINY))), default=None
            )
            found[decay] = self.solve(decay, None if start is None else known[start], tolerance)
            known[decay] = found[decay]
        return found


def memory_bytes(count: int, dim: int, outputs: int, copies: int = 4) -> int:
    """Bytes of a problem of ``count`` rows at most: kept rows, ``copies`` of a chunk, L-BFGS's history."""
    numbers = count * dim
    kept = 0 if numbers > standardised.HELD else numbers
    kept *= 8 if numbers <= standardised.DOUBLE else 4
    history = (2 * HISTORY + 8) * outputs * (dim + 1)
    return kept + 8 * (copies * standardised.CHUNK + history + 4 * dim * dim)
