"""Fitting: members, optimisers, and the engine that trains all of them in one pass."""

from iceprobe.core.lazy import lazy

_HOME = {
    "fit": "api",
    "probe": "api",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
