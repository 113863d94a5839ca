"""Backbones: a spec string → a frozen module, images → tokens."""

from iceprobe.backbones.registry import BACKBONES, load_backbone
from iceprobe.core.lazy import lazy

__all__ = ["BACKBONES", "Backbone", "NativePreprocessing", "Preprocessing", "load_backbone"]
__getattr__ = lazy(
    __name__,
    {"Backbone": "base", "NativePreprocessing": "native", "Preprocessing": "preprocessing"},
)
