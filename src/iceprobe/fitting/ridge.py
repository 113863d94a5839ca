"""Ridge regression in closed form: the best linear probe of numbers at a decay.

    f_k(w, b) = 1/n_k Σ_{i known} (w·x̂_i + b − y_ik)² + λ ‖w‖²
    G = V diag(s) Vᵀ, c_k  covariance of x̂, and of x̂ with y_k, over the n_k known rows
    w_k = V diag(1 / (s + λ)) Vᵀ c_k        b_k = ȳ_k − w_k·mean(x̂)

The features are standardised over all rows (`standardised.py`), the bias isn't penalised, and predictions
are in the target's own unit. It is scikit-learn's `Ridge` with alpha = λ n_k on standardised features
(Hoerl and Kennard 1970). Outputs that are known in the same rows share a decomposition, which serves every
λ; if they are known in all rows it is that of the correlation. Rows aren't kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iceprobe.fitting.losses import SquaredLoss, columns
from iceprobe.fitting.solution import TOLERANCE, Solution
from iceprobe.fitting.standardised import CHUNK, Rows, Standardised
from iceprobe.machine.processes import world

KEPT = 2**23  # numbers of decompositions that are kept; beyond it each path makes them again


@dataclass(frozen=True)
class _Basis:
    """What the known rows of some outputs tell."""

    outputs: list[int]  # k of each
    values: Tensor  # s `(D,)`
    vectors: Tensor  # V `(D, D)`
    mean: Tensor  # of x̂, `(D,)`
    products: Tensor  # c in V, `(outputs, D)`


class RidgeProblem(Standardised):
    """The rows to fit; arguments as of `Standardised`."""

    def __init__(
        self,
        rows: Rows,
        count: int,
        dim: int,
        loss: SquaredLoss,
        device: torch.device,
        shared: bool = False,
        stretch: Tensor | None = None,
    ):
        super().__init__(rows, count, dim, loss, device, shared, stretch)
        self.loss = loss
        self._centre = loss.centre.to(device)
        self._bases: dict[int, _Basis] = {}

    def solve(self, decay: float) -> Solution:
        """The optimum at a decay λ."""
        return self.path([decay])[decay]

    def path(
        self,
        decays: Sequence[float],
        known: Mapping[float, Solution] | None = None,
        tolerance: float = TOLERANCE,
    ) -> dict[float, Solution]:
        """The optimum at each decay. (The optimum is exact: nothing else is used.)"""
        shape = (len(decays), self.outputs, self.dim)
        weights = torch.zeros(shape, dtype=torch.float64, device=self.device)
        biases = self._centre.expand(shape[:2]).clone()
        losses = torch.zeros(shape[:2], dtype=torch.float64, device=self.device)
        deviation = self.loss.deviation.to(self.device)
        for number in range(len(self.loss.alike)):
            basis = self._basis(number)
            mine = basis.outputs
            for at, decay in enumerate(decays):
                # One λ for all: outputs that are known in the same rows are stretched alike.
                penalty = decay * self.stretch.expand(self.outputs)[mine[0]]
                folded = basis.products / (basis.values + penalty).clamp_min(1e-300)
                weight = folded @ basis.vectors.mT
                weights[at, mine] = weight
                biases[at, mine] -= weight @ basis.mean
                fitted = folded * (basis.values * folded - 2 * basis.products)
                losses[at, mine] = deviation[mine].square() + fitted.sum(1)
        world().align([weights, biases])  # processors may round differently
        unit = torch.where(deviation > 0, deviation.square(), 1.0)
        share = self.loss.known.to(self.device)
        means = (losses.clamp_min(0) / unit * share).sum(1) / share.sum().clamp_min(1e-300)
        flat = torch.ones((), dtype=torch.float64)
        return {
            decay: Solution(
                weights[at], biases[at], decay, float(means[at]), flat, 0, 0.0, True, "closed form"
            )
            for at, decay in enumerate(decays)
        }

    def _basis(self, number: int) -> _Basis:
        """Of the outputs ``loss.alike[number]``."""
        if number not in self._bases:
            basis = self._measured(self.loss.alike[number])
            if len(self.loss.alike) * self.dim**2 > KEPT:
                return basis
            self._bases[number] = basis
        return self._bases[number]

    def _measured(self, outputs: list[int]) -> _Basis:
        full = bool(self.loss.known[outputs[0]] == 1)
        size = 0 if full else self.dim
        # Σ 1, Σ x̂, Σ x̂ x̂ᵀ and Σ (y − ȳ) x̂ of the known rows.
        count, total = self.mean.new_zeros(()), self.mean.new_zeros(self.dim)
        gram, products = (
            self.mean.new_zeros(size, size),
            self.mean.new_zeros(len(outputs), self.dim),
        )
        for x, targets in self._standardised(torch.float64):
            y = columns(targets)[:, outputs].to(torch.float64)
            if not full:
                rows = ~y[:, 0].isnan()
                x, y = x[rows], y[rows]
                gram += x.mT @ x
            count += len(x)
            total += x.sum(0)
            products += (y - self._centre[outputs]).mT @ x
        for tensor in (count, total, gram, products):
            self._sum(tensor)
        count = count.clamp_min(1)
        mean, products = total / count, products / count
        values, vectors = self.values, self.vectors
        if not full:
            values, vectors = self._decomposed(gram / count - torch.outer(mean, mean))
        return _Basis(outputs, values, vectors, mean, products @ vectors)


def memory_bytes(dim: int, outputs: int) -> int:
    """Bytes of a problem at most: a chunk, decompositions, some solutions."""
    return 8 * (4 * CHUNK + KEPT + 8 * dim * dim + 40 * outputs * (dim + 1))
