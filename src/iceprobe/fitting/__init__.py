"""Fitting: the joint training of all members, and what comes before and after it."""

from iceprobe.core.lazy import lazy

_HOME = {
    "fit": "api",
    "probe": "api",
    "test": "other_sets",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
