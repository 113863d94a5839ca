"""Which examples train, select and report, and how a setting is chosen."""

from iceprobe.core.lazy import lazy

_HOME = {"PROTOCOLS": "protocol"}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
