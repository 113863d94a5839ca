"""The feature store: tokens of one frozen backbone on one data set, written once, read often."""

from iceprobe.core.lazy import lazy

_HOME = {
    "Manifest": "format",
    "ExtractionSettings": "format",
    "Store": "reader",
    "StoredSplit": "split",
    "blank_in_memory": "memory",
    "extract": "writer",
    "extract_in_memory": "memory",
    "extract_layers": "writer",
    "extract_together": "memory",
    "from_tokens": "given",
    "live": "live_split",
    "load_features": "features",
    "open_store": "opening",
    "repair": "writer",
    "save": "saving",
}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
