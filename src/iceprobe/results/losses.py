"""What each example costs a probe, for examples on which two probes differ.

tags       −Σ_k ln p of what the example has or has not, mean over its known tags
numbers    |predicted − true| / deviation of the true ones, mean over its known numbers
"""

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.predictions import Predictions
from iceprobe.tasks.targets import UNKNOWN


def losses(predictions: Predictions) -> NDArray[np.float64] | None:
    """Of each seed and example, ``(S, n)``; NaN where nothing is known. None where none were kept, and of
    classes."""
    labels = np.asarray(predictions.labels)
    if labels.ndim < 2:
        return None
    if labels.dtype.kind == "f":
        known = np.isfinite(labels)
        deviation, there = np.ones(labels.shape[1]), known.any(0)
        deviation[there] = np.nanstd(labels[:, there], 0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        error = np.abs(np.asarray(predictions.predicted, np.float64) - np.where(known, labels, 0.0))
        return _mean(error / deviation, known)
    if (logits := predictions.logits()) is None:
        return None
    known = labels != UNKNOWN
    z = np.asarray(logits.values, np.float64)
    return _mean(np.logaddexp(0, np.where(labels == 1, -z, z)), known)


def _mean(cells: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    counts = known.sum(1)
    total = np.where(known, cells, 0.0).sum(-1)
    return np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
