"""Where probes look: entropy, localisation, complementarity, importance, maps.

Every measure is a pure function on tensors, one file each; `analyze` takes them all over the
reported images of a run.
"""

from iceprobe.core.lazy import lazy

_HOME = {
    "analyze": "running",
    "Analysis": "schema",
    "Estimate": "schema",
    "Shortcut": "schema",
    "read_analyses": "files",
    "write_analyses": "files",
    "Predictor": "schema",
    "patch_maps": "maps",
    "entropy": "concentration",
    "box_shares": "localisation",
    "mask_shares": "localisation",
    "mass": "localisation",
    "centroids": "localisation",
    "centroid_in_box": "localisation",
    "cosine_complementarity": "complementarity",
    "intersection_complementarity": "complementarity",
    "replaced_logits": "importance",
    "Correlation": "association",
    "spearman": "association",
    "correlate": "association",
    "box_hits": "box_accuracy",
    "max_box_accuracy": "box_accuracy",
    "recall_at": "retrieval",
    "part_maps": "parts",
    "part_picture": "parts",
    "spherical_kmeans": "parts",
    "replace_background": "background",
    "shortcut": "background",
}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
