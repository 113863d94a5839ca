"""Several processes that do one thing, each a part of it; one process needs none of this."""

from iceprobe.distributed.world import World, first, join, world

__all__ = ["World", "first", "join", "world"]
