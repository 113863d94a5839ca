"""The losses that linear probes are solved for, built from the targets of the rows that are learnt from.

For logits z ∈ R^K of n rows, each a mean over rows::

    SoftmaxLoss    f   = 1/n Σ_i w(y_i) CE(z_i, y_i)                                Σ_i w(y_i) = n
    TagsLoss       f_k = 1/n_k Σ_{i known} w_k^{y_ik} (ln(1 + e^{z_ik}) − y_ik z_ik)     each tag k alone
    SquaredLoss    f_k = 1/n_k Σ_{i known} (z_ik − y_ik)²                           each output k alone

n_k counts the rows in which output k is known. `logistic.py` searches the optimum of the first two and
`ridge.py` has that of the last in closed form; both add ½ λ ‖W‖² (ridge λ ‖W‖²). They are scikit-learn's
`LogisticRegression` with C = 1/(λ n), with C = 1/(λ n_k) a tag, and `Ridge` with alpha = λ n_k an output.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from iceprobe.tasks.targets import UNKNOWN


class Loss(ABC):
    """A kind of loss on the targets of some rows.

    Attributes:
        outputs: K.
        known: share of the rows in which an output is known: ``(K,)`` float64, ``()`` if it is one for
            all outputs.
    """

    outputs: int
    known: Tensor


class SearchedLoss(Loss):
    """One whose optimum is searched.

    Attributes:
        parts: ``()`` if it is one problem, ``(K,)`` if each output is one; all are solved at once.
    """

    parts: tuple[int, ...] = ()

    @abstractmethod
    def start(self) -> tuple[Tensor, Tensor]:
        """Where a search begins with W = 0: bias ``(K,)``, curvature κ of each part, float64."""

    @abstractmethod
    def sums(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some rows: Σ loss and Σ curvature of each part, in float64, and ∂loss/∂z ``(m, K)``.

        Args:
            logits: ``(m, K)``, which may be overwritten.
            targets: ``(m, …)``.
        """

    @abstractmethod
    def mean(self, losses: Tensor) -> float:
        """The loss over known cells, from that of each part."""


class SoftmaxLoss(SearchedLoss):
    """Multinomial cross-entropy of classes ``(n,)``.

    The curvature is the mean of p(1 − p) over classes.

    Args:
        targets: ``(n,)``.
        outputs: C.
        weights: ``(C,)`` of the classes, in any unit.
    """

    def __init__(self, targets: ArrayLike, outputs: int, weights: ArrayLike | None = None):
        self.outputs, self.known = outputs, torch.ones((), dtype=torch.float64)
        self.weights: Tensor | None = None
        if weights is not None:
            given = np.asarray(weights, np.float64)
            self.weights = torch.from_numpy(given / given[np.asarray(targets)].mean())

    def start(self) -> tuple[Tensor, Tensor]:
        curvature = (1 - 1 / self.outputs) / self.outputs
        return torch.zeros(self.outputs, dtype=torch.float64), torch.tensor(curvature).double()

    def sums(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax(logits, 1)
        losses = -log_p.gather(1, targets[:, None])[:, 0]
        error = log_p.exp_()
        if self.weights is None:
            loss = losses.sum(dtype=torch.float64)
            spread = len(targets) - error.square().sum(dtype=torch.float64)  # Σ p(1 − p)
        else:
            weights = self.weights.to(logits)[targets]
            loss = (losses * weights).sum(dtype=torch.float64)
            spread = (weights * (1 - error.square().sum(1))).sum(dtype=torch.float64)
        error[torch.arange(len(targets), device=targets.device), targets] -= 1
        if self.weights is not None:
            error *= weights[:, None]
        return loss, spread / self.outputs, error

    def mean(self, losses: Tensor) -> float:
        return float(losses)


class TagsLoss(SearchedLoss):
    """One tag against the rest, each tag a problem of its own on the rows in which it is known.

    A tag that all known rows have, or none, has no finite optimum: its weight stays 0, its bias the
    log-odds of (n₁ + ½) to (n₀ + ½).

    Args:
        targets: ``(n, K)``, 0 or 1, or 255 if unknown.
        positive_weights: ``(K,)`` of rows that have the tag.
    """

    def __init__(self, targets: ArrayLike, positive_weights: ArrayLike | None = None):
        tags = np.asarray(targets)
        known, positive = (tags != UNKNOWN).sum(0), (tags == 1).sum(0)
        self.outputs = tags.shape[1]
        self.parts = (self.outputs,)
        self.known = torch.from_numpy(known / max(1, len(tags)))
        weights = np.ones(self.outputs) if positive_weights is None else positive_weights
        self.positive_weights = torch.from_numpy(np.asarray(weights, np.float64))
        mixed = (positive > 0) & (positive < known)
        self.scale = torch.from_numpy(np.where(mixed, len(tags) / np.maximum(known, 1), 0.0))
        pulls = positive * self.positive_weights.numpy()
        self._odds = (pulls + 0.5) / (known - positive + 0.5)
        self._curvature = (pulls + known - positive) / np.maximum(known, 1) * mixed

    def start(self) -> tuple[Tensor, Tensor]:
        p = self._odds / (1 + self._odds)
        return torch.from_numpy(np.log(self._odds)), torch.from_numpy(self._curvature * p * (1 - p))

    def sums(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = (targets == 1).to(logits)
        cells = torch.where(y > 0, self.positive_weights.to(logits), 1.0)
        cells = cells * self.scale.to(logits) * (targets != UNKNOWN)
        losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none").mul_(cells)
        loss = losses.sum(0, dtype=torch.float64)
        p = logits.sigmoid_()
        curvature = (1 - p).mul_(p).mul_(cells).sum(0, dtype=torch.float64)
        return loss, curvature, (p - y).mul_(cells)

    def mean(self, losses: Tensor) -> float:
        known = self.known.to(losses) * (self.scale.to(losses) > 0)
        return float((losses * known).sum() / known.sum().clamp_min(1e-300))


class SquaredLoss(Loss):
    """Squared error of numbers.

    Args:
        targets: ``(n, K)`` or ``(n,)``, NaN if unknown.

    Attributes:
        centre, deviation: ``(K,)`` of the known targets; the deviation is 0 where they are equal.
        alike: outputs that are known in the same rows, which one decomposition solves.
    """

    def __init__(self, targets: ArrayLike):
        numbers = columns(np.asarray(targets, np.float64))
        known = ~np.isnan(numbers)
        count = known.sum(0)
        self.outputs = numbers.shape[1]
        self.known = torch.from_numpy(count / max(1, len(numbers)))
        centre = np.where(known, numbers, 0).sum(0) / np.maximum(count, 1)
        squares = np.where(known, np.square(numbers - centre), 0).sum(0)
        self.centre = torch.from_numpy(centre)
        self.deviation = torch.from_numpy(np.sqrt(squares / np.maximum(count, 1)))
        alike: dict[bytes, list[int]] = {}
        for k in range(self.outputs):
            alike.setdefault(np.packbits(known[:, k]).tobytes(), []).append(k)
        self.alike = list(alike.values())


def columns(targets: Any) -> Any:
    """Targets ``(n,)`` or ``(n, K)``, an array or tensor → ``(n, K)``."""
    return targets[:, None] if targets.ndim == 1 else targets


@dataclass(frozen=True)
class _Kind:
    """What linear probes of a task are solved for."""

    build: Callable[[NDArray, int, ArrayLike | None], Loss]  # of targets, K and weights
    searched: bool = True  # rather than had in closed form
    copies: int = 4  # of a chunk's features or logits that a pass makes


#: By the task's `solver`.
SOLVED: Mapping[str, _Kind] = {
    "softmax": _Kind(SoftmaxLoss),
    "logistic": _Kind(lambda targets, _, weights: TagsLoss(targets, weights), copies=8),
    "squares": _Kind(lambda targets, _, __: SquaredLoss(targets), searched=False),
}


def solver_loss(
    solver: str, targets: NDArray, outputs: int, weights: ArrayLike | None = None
) -> Loss:
    """The loss that a linear probe of a task is solved for.

    Args:
        solver: of the task, one of `SOLVED`.
        targets: ``(n, …)`` of the rows that are learnt from.
        outputs: K.
        weights: of classes, or of tags where an example has them, as `Task.learning` finds them.
    """
    return SOLVED[solver].build(targets, outputs, weights)
