"""The processes of a training run: process 0 takes the look, the others wait for it.

They wait on a group of their own, by sockets: the group of a trainer ends after ten minutes, and a wait on a
GPU would keep it from the look.
"""

from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

WAIT = timedelta(hours=12)


class Processes:
    """Those that torch.distributed joins, if there are several.

    All of them must make it together.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.first = not several or dist.get_rank() == 0
        self._group: Any = dist.new_group(backend="gloo", timeout=WAIT) if several else None

    def told(self, value: T) -> T:
        """``value`` of process 0, in all; each waits for it."""
        if self._group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, group=self._group)
        return values[0]
