"""Probes of dense tokens, `iceprobe segment`: a class or a number a pixel; with what belongs to them elsewhere."""

from iceprobe.core.lazy import lazy

_NAMES = {
    "results.segmentation": ["Segmentation"],
    "results.depth": ["Depth"],
    "results.segmentation_files": ["read_segmentations"],
    "dense.api": ["segment"],
    "dense.files": ["write_segmentations"],
    "probes.segmentation": ["LinearSegmentation", "EPSegmentation", "build", "upsample"],
    "tasks.miou": ["Counts", "count", "iou", "mean_iou", "IGNORE"],
}
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)
__getattr__ = lazy("iceprobe", _HOME)
