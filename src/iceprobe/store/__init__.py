"""The feature store: tokens of one frozen backbone on one data set, written once, read often."""

import importlib
from typing import Any

_HOME = {
    "Manifest": "format",
    "Settings": "format",
    "Plan": "planning",
    "Store": "reader",
    "StoredSplit": "reader",
    "extract": "writer",
    "extract_in_memory": "memory",
    "plan": "planning",
    "repair": "writer",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
