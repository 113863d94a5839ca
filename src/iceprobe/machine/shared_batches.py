"""Statistics of a whole batch whose parts are in several processes.

    μ = Σ_r w_r μ_r      σ² = Σ_r w_r (σ²_r + (μ_r − μ)²)      w_r = values of part r / values

Batch norm over a part would give another probe than batch norm over the batch. So μ and σ² are
combined over the parts (Chan, Golub and LeVeque 1979), with gradients: the gradient of a sum over
processes is the sum of their gradients.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from iceprobe.machine.processes import world


@dataclass(frozen=True)
class BatchShare:
    """``here`` of a batch's ``images`` are in this process, the rest in others."""

    here: int
    images: int

    @property
    def share(self) -> float:
        return self.here / self.images

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over this part's images → those over the whole batch's."""
        whole = _total(mean * self.share)
        return whole, _total((variance + (mean - whole).square()) * self.share)


class Moments(NamedTuple):
    """Number, mean and biased variance of values."""

    number: int
    mean: Tensor  # (…)
    variance: Tensor  # (…)


def merged(parts: Sequence[Moments]) -> Moments:
    """The moments of all values from those of parts; a single part's stay as they are."""
    if len(parts) == 1:
        return parts[0]
    number = sum(part.number for part in parts)
    shares = [part.number / number for part in parts]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    variance = sum(
        share * (part.variance + (part.mean - mean).square())
        for share, part in zip(shares, parts, strict=True)
    )
    return Moments(number, torch.as_tensor(mean), torch.as_tensor(variance))


def moments_of_all(here: Moments) -> Moments:
    """The moments of the whole batch's values, those in this process being ``here``, in one exchange.

    Parts may have different numbers of values. With gradients.
    """
    rank, size = world().rank, world().size
    own = torch.cat([here.mean.flatten(), here.variance.flatten()]).double()
    own = torch.cat([own, own.new_tensor([here.number])])
    rows = _total(F.pad(own[None], (0, 0, rank, size - 1 - rank)))  # every process fills its row
    numbers = rows[:, -1].detach().tolist()
    means, variances = (
        rows[:, :-1].to(here.mean.dtype).unflatten(1, (2, *here.mean.shape)).unbind(1)
    )
    return merged(
        [Moments(int(n), m, v) for n, m, v in zip(numbers, means, variances, strict=True)]
    )


_part: ContextVar[BatchShare | None] = ContextVar("part", default=None)


def part_of_batch() -> BatchShare | None:
    """The current part of a batch; ``None`` if this process has all of it."""
    return _part.get()


@contextlib.contextmanager
def learning_from(here: int, images: int) -> Iterator[float]:
    """In the block, statistics are of all ``images`` of a batch, ``here`` of them in this process.

    Yields the weight of this part in a mean over the batch.
    """
    if here == images:
        yield 1.0
        return
    part = BatchShare(here, images)
    token = _part.set(part)
    try:
        yield part.share
    finally:
        _part.reset(token)


def sum_gradients(leaves: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Sum the gradients of ``leaves`` over all processes, in place, and ``others``, returned.

    They are sent in one flat buffer. A leaf without gradient has none in any process.
    """
    reached = [leaf for leaf in leaves if leaf.grad is not None]
    tensors = [leaf.grad for leaf in reached if leaf.grad is not None] + list(others)
    flat = world().sum_(torch.cat([tensor.detach().flatten() for tensor in tensors]))
    parts = [
        part.view_as(tensor)
        for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)
    ]
    for leaf, gradient in zip(reached, parts, strict=False):
        leaf.grad = gradient
    return parts[len(reached) :]


class _Total(torch.autograd.Function):
    """Σ over processes, of the gradient as well."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        return world().sum_(part.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return world().sum_(gradient.clone(memory_format=torch.contiguous_format))


def _total(part: Tensor) -> Tensor:
    return _Total.apply(part)
