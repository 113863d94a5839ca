"""Statistics of a whole batch whose parts are in several processes.

    μ = Σ_r w_r μ_r      σ² = Σ_r w_r (σ²_r + (μ_r − μ)²)      w_r = images of part r / images

Batch norm over a part would give another probe than batch norm over the batch. So μ and σ² are
combined over the parts (Chan, Golub and LeVeque 1979), with gradients: the gradient of a sum over
processes is the sum of their gradients.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        """Mean and biased variance of this part → those of the whole batch."""
        whole = _total(mean * self.share)
        return whole, _total((variance + (mean - whole).square()) * self.share)

    def count(self, here: int) -> int:
        """Number of values in the whole batch, if ``here`` of them are in this part."""
        return here // self.here * self.images


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
