"""Backbones: a spec string → a frozen module, images → tokens."""

import importlib
from typing import Any

from iceprobe.backbones.registry import BACKBONES, load_backbone

__all__ = ["BACKBONES", "Backbone", "Preprocessing", "load_backbone"]

_LAZY = {"Backbone": "iceprobe.backbones.base", "Preprocessing": "iceprobe.backbones.preprocessing"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
