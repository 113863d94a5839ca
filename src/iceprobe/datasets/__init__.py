"""Data sets: a spec string → labelled images, with splits."""

from typing import Any

from iceprobe.datasets.registry import DATASETS, load_dataset

__all__ = ["DATASETS", "BadImage", "Dataset", "Split", "load_dataset"]


def __getattr__(name: str) -> Any:
    if name in ("BadImage", "Dataset", "Split"):
        from iceprobe.datasets import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
