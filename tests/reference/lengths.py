"""Probes on examples of several lengths, ``(N_i, D)`` each: the plain formula on one after the other.

Nothing is padded, so nothing can be read of padding. Where a probe has statistics over the batch they are
of all tokens of all examples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.reference import zoo
from tests.reference.probes import Output, Parameters, mhca
from tests.reference.zoo import Statistics


def one_by_one(plain: Callable[..., Output]) -> Callable[..., Output]:
    """A formula for ``(B, N, D)`` on each example alone; attention is a list of ``(M, N_i)``."""

    def of_examples(examples: Sequence[Tensor], p: Parameters) -> tuple:
        found = [plain(example[None], p) for example in examples]
        maps = [None if weights is None else weights[0] for _, weights in found]
        return torch.cat([descriptor for descriptor, _ in found]), maps

    return of_examples


def aim(heads: int, running: Statistics | None = None) -> Callable[..., Output]:
    def plain(examples: Sequence[Tensor], p: Parameters) -> tuple:
        mean, variance = running or zoo.moments(torch.cat(list(examples)), (0,))
        normed = [(example - mean) / (variance + 1e-6).sqrt() for example in examples]
        return one_by_one(lambda x, p: mhca(x, p, heads))(normed, p)

    return plain


def delf(running: Statistics | None = None) -> Callable[..., Output]:
    def plain(examples: Sequence[Tensor], p: Parameters) -> tuple:
        z = torch.cat([zoo.linear(example, p, "conv") for example in examples])
        statistics = running or zoo.moments(z, (0,))
        return one_by_one(lambda x, p: zoo.delf(x, p, statistics))(examples, p)

    return plain
