"""Dense probes under the names of earlier versions; the code is in other packages."""

from iceprobe.core.lazy import lazy

_NAMES = {
    "results.segmentation": ["Segmentation"],
    "results.depth": ["Depth"],
    "results.segmentation_files": ["read_segmentations"],
    "fitting.segmentation": ["segment"],
    "fitting.segmentation_files": ["write_segmentations"],
    "probes.segmentation": ["LinearSegmentation", "EPSegmentation", "build", "upsample"],
    "tasks.miou": ["Counts", "count", "iou", "mean_iou", "IGNORE"],
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)
__getattr__ = lazy("iceprobe", _HOME)
