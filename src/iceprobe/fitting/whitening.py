"""Whitened coordinates for probes on pooled vectors, in which few steps are enough.

    R = correlation of the training vectors      A = ((1−δ)R + δI)^-½      W = W' A

The directions of a frozen feature space differ in scale by orders of magnitude (condition number
of R for the bundled backbone's class token: 6e5), and a first-order optimiser is slow along the
short ones. So the weight W of the vector is trained as W', for whitened vectors A x. The probe, its
parameters, its initialisation and the functions it can express are unchanged; training is shorter.

δ keeps directions with almost no variance, or that few images can't estimate, from being amplified: the
shrinkage of Ledoit and Wolf (2004), and never below the protocol's own.

If the vector is the direct input of the probe's batch norm (`linear`), its mean and variance over the
training images replace those of each batch: a batch of 256 estimates a coordinate's scale to 4%, and
that noise hides a direction that is a small difference of large coordinates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iceprobe.probes.linear import Linear
from iceprobe.probes.mean_value import MeanValue
from iceprobe.probes.probe import Probe


@dataclass(frozen=True)
class Whitening:
    """Of vectors x ∈ R^D."""

    mean: Tensor  # `(D,)`
    std: Tensor  # `(D,)` standard deviations; 1 where a coordinate is constant
    matrix: Tensor  # A, `(D, D)`, symmetric, for standardised vectors

    def before(self, probe: Probe) -> tuple[str, Tensor] | None:
        """Name of the weight that ``probe`` multiplies the vector by, and the matrix of its W'.

        ``None`` if a probe has no linear map of the vector, or no batch norm: nothing would subtract
        the vectors' mean, which whitening amplifies.
        """
        if not isinstance(probe.norm, nn.BatchNorm1d):
            return None
        if isinstance(probe.pooling, MeanValue):
            return "pooling.value.weight", self.matrix / self.std
        return ("classifier.weight", self.matrix) if isinstance(probe.pooling, Linear) else None


def whitening(batches: Callable[[], Iterable[Tensor]], least: float, copies: int = 1) -> Whitening:
    """Measure the vectors ``(b, D)`` of ``batches()``, which is called twice, in float64.

    δ is at least ``least``; ``copies`` of the vectors are of one image, its augmented views.
    """
    count, origin = 0, torch.tensor(0.0)
    total, products = torch.tensor(0.0), torch.tensor(0.0)
    for batch in batches():
        origin = origin if count else batch[0].double()  # so that nothing cancels far from 0
        centred = batch.double() - origin
        count += len(batch)
        total = total.to(centred) + centred.sum(0)
        products = products.to(centred) + centred.mT @ centred
    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    std = covariance.diagonal().clamp_min(0).sqrt()
    std = torch.where(std > 0, std, 1.0)
    correlation = covariance / torch.outer(std, std)
    mean = mean + origin
    fourth = sum(
        float(((batch.double() - mean) / std).square().sum(1).square().sum()) for batch in batches()
    )
    shrinkage = max(least, ledoit_wolf(correlation, fourth, count, copies))
    values, vectors = torch.linalg.eigh(correlation)
    values = (1 - shrinkage) * values.clamp_min(0) + shrinkage
    matrix = vectors * values.rsqrt() @ vectors.mT
    return Whitening(mean.float(), std.float(), matrix.float())


def ledoit_wolf(covariance: Tensor, fourth: float, count: int, copies: int = 1) -> float:
    """The shrinkage δ towards a multiple of I that is nearest to the truth in expectation.

    Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional covariance
    matrices": δ = min(b², d²) / d² with d² = ‖S − μI‖² and b² = (Σ_k ‖z_k‖⁴/n − ‖S‖²)/n.

    Args:
        covariance: S, ``(D, D)``, of vectors z_k.
        fourth: Σ_k ‖z_k‖⁴.
        count: n vectors.
        copies: vectors of one image. They aren't independent, so the noise b² is that of n / copies:
            exact if they were equal, too large otherwise.
    """
    level = covariance.diagonal().mean()
    distance = float(covariance.square().sum() - len(covariance) * level.square())
    noise = (fourth / count - float(covariance.square().sum())) / (count / copies)
    return min(1.0, max(0.0, noise) / distance) if distance > 0 else 1.0
