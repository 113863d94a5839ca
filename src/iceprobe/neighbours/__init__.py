"""Training-free classification."""

from iceprobe.core.lazy import lazy

_HOME = {
    "classify": "voting",
    "knn": "evaluate",
    "nearest": "search",
    "settings": "voting",
    "votes": "voting",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
