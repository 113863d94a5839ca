"""Training-free classification."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iceprobe.knn.evaluate import knn
    from iceprobe.knn.search import nearest
    from iceprobe.knn.voting import classify, settings, votes

_WHERE = {
    "classify": "voting",
    "knn": "evaluate",
    "nearest": "search",
    "settings": "voting",
    "votes": "voting",
}

__all__ = ["classify", "knn", "nearest", "settings", "votes"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
