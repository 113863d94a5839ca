"""Export of a fitted probe with its backbone, and prediction with it."""

from iceprobe.core.lazy import lazy

_HOME = {
    "Card": "card",
    "ExportedProbe": "exported",
    "Predicted": "prediction",
    "export": "writing",
    "TokenProbe": "of_tokens",
    "load_probe": "loading",
    "predict": "prediction",
}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
