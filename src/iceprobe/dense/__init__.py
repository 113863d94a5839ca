"""Dense tokens: what single patches say. Segmentation probes on stored patch tokens and masks."""

from iceprobe.core.lazy import lazy

_HOME = {
    "segment": "api",
    "Segmentation": "schema",
    "read_segmentations": "files",
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

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
