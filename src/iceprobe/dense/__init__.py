"""Dense tokens: what single patches say. Segmentation probes on stored patch tokens and masks."""

from iceprobe.core.lazy import lazy
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.segmentation_files import read_segmentations

_HOME = {
    "segment": "api",
    "write_segmentations": "files",
    "LinearSegmentation": "probes",
    "EPSegmentation": "probes",
    "build": "probes",
    "upsample": "probes",
    "Counts": "miou",
    "count": "miou",
    "iou": "miou",
    "mean_iou": "miou",
    "IGNORE": "miou",
}

__all__ = ["Segmentation", "read_segmentations", *_HOME]
__getattr__ = lazy(__name__, _HOME)
