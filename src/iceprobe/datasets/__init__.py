"""Data sets: a spec string → labelled images, with splits."""

from iceprobe.datasets.registry import DATASETS, load_dataset
from iceprobe.lazy import lazy

__all__ = ["DATASETS", "BadImage", "Dataset", "Split", "load_dataset"]
__getattr__ = lazy(__name__, {"BadImage": "base", "Dataset": "base", "Split": "base"})
