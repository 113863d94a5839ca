"""Segmentation under the names of earlier versions; the code is in other packages."""

from iceprobe.core.lazy import lazy

_HOME = {
    "Segmentation": "results.segmentation",
    "read_segmentations": "results.segmentation_files",
    "segment": "fitting.segmentation",
    "write_segmentations": "fitting.segmentation_files",
    "LinearSegmentation": "probes.segmentation",
    "EPSegmentation": "probes.segmentation",
    "build": "probes.segmentation",
    "upsample": "probes.segmentation",
    "Counts": "tasks.miou",
    "count": "tasks.miou",
    "iou": "tasks.miou",
    "mean_iou": "tasks.miou",
    "IGNORE": "tasks.miou",
}

__all__ = sorted(_HOME)
__getattr__ = lazy("iceprobe", _HOME)
