"""Data sets: a spec string → labelled images, with splits."""

from iceprobe.core.lazy import lazy
from iceprobe.datasets.catalogue import CATALOGUE
from iceprobe.datasets.registry import DATASETS, load_dataset

__all__ = ["CATALOGUE", "DATASETS", "BadImage", "Dataset", "Split", "load_dataset"]
__getattr__ = lazy(__name__, {"BadImage": "base", "Dataset": "base", "Split": "base"})
