"""Fitting: members, protocols, optimisers, and the engine that trains all of them in one pass."""

import importlib
from typing import Any

_EXPORTS = {
    "PROTOCOLS": "iceprobe.fitting.protocols",
    "fit": "iceprobe.fitting.api",
    "probe": "iceprobe.fitting.api",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
