"""Training-free classification."""

from iceprobe.lazy import lazy

_HOME = {
    "classify": "voting",
    "knn": "evaluate",
    "nearest": "search",
    "plan_search": "planning",
    "settings": "voting",
    "votes": "voting",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
