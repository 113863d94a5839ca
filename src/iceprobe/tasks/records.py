"""A task's record of examples: tensors by name, ``(G, n, …)`` of G members and n examples.

The record of many examples is joined from those of batches and, if several processes share the examples,
of processes.
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
    of_parts = {name: [part[name] for part in parts] for name in parts[0]}
    return {n: sum(t[1:], t[0]) if n in summed else torch.cat(t, 1) for n, t in of_parts.items()}


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
    """A record in numpy, sharing memory: its fields are attributes; a missing one is None."""

    def __init__(self, record: Mapping[str, Tensor]):
        self._fields = {name: tensor.numpy() for name, tensor in record.items()}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_fields"].get(name)
