"""Where probes look: entropy, localisation, complementarity, importance, maps.

Every measure is a pure function on tensors, one file each; `analyze` takes them all over the
reported images of a run.
"""

from iceprobe.core.lazy import lazy

_NAMES = {
    "running": "analyze",
    "schema": "Analysis Estimate Evidence Shortcut Predictor",
    "files": "read_analyses write_analyses",
    "maps": "patch_maps",
    "evidence": "has_evidence patch_evidence true_map",
    "concentration": "entropy",
    "localisation": "box_shares mask_shares mass centroids centroid_in_box",
    "complementarity": "cosine_complementarity intersection_complementarity",
    "importance": "replaced_logits",
    "association": "Correlation spearman correlate",
    "box_accuracy": "box_hits max_box_accuracy",
    "retrieval": "recall_at",
    "parts": "part_maps part_picture spherical_kmeans",
    "background": "replace_background shortcut",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
