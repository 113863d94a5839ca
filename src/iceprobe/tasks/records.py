"""What a task keeps of examples: tensors by name, ``(G, n, …)`` of G members and n examples.

A record of many examples is put together from those of batches, and, where several processes share the
examples, from theirs.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.machine.processes import world

Record = dict[str, Tensor]


def joined(parts: Sequence[Record], summed: Collection[str] = ()) -> Record:
    """The record of examples that were recorded in several parts.

    Args:
        parts: at least one, in the examples' order.
        summed: names of the fields that are sums over examples.
    """
    return {
        name: _sum([part[name] for part in parts])
        if name in summed
        else torch.cat([part[name] for part in parts], 1)
        for name in parts[0]
    }


def gathered(record: Record, mine: slice, count: int, summed: Collection[str] = ()) -> Record:
    """The record of ``count`` examples, of which ``record`` has this process's, at ``mine``."""
    return {
        name: world().sum_(tensor)
        if name in summed
        else world().assembled(tensor, mine, count, dim=1)
        for name, tensor in record.items()
    }


def of_members(record: Record, members: Sequence[int] | NDArray[Any]) -> Record:
    """The record of some members only, in that order."""
    index = torch.as_tensor(list(members), dtype=torch.int64)
    return {name: tensor[index] for name, tensor in record.items()}


class Arrays:
    """A record in numpy, sharing memory: its fields are attributes, and what it hasn't is None."""

    def __init__(self, record: Mapping[str, Tensor]):
        self._fields = {name: tensor.numpy() for name, tensor in record.items()}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_fields"].get(name)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total
