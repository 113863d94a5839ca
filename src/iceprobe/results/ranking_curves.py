"""ROC and precision-recall curves of one ranking, thinned for drawing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POINTS = 200  # of a curve


@dataclass(frozen=True)
class Curves:
    """Of scores against positives.

    Attributes:
        roc: ``(m, 2)``: false positive rate, true positive rate.
        precision: ``(m, 2)``: recall, precision; precision holds from the point before up to it.
        auroc, ap: the areas, of all points.
        rate: share of positives, the precision of chance.
    """

    roc: NDArray[np.float64]
    precision: NDArray[np.float64]
    auroc: float
    ap: float
    rate: float


def curves_of(scores: NDArray, positive: NDArray) -> Curves | None:
    """Of ``(n,)`` and ``(n,)`` bool; None without both kinds."""
    if not 0 < positive.sum() < len(positive):
        return None
    from sklearn.metrics import (
        average_precision_score,
        precision_recall_curve,
        roc_auc_score,
        roc_curve,
    )

    finite = np.nan_to_num(np.asarray(scores, np.float64))
    false, true, _ = roc_curve(positive, finite)
    precision, recall, _ = precision_recall_curve(positive, finite, drop_intermediate=True)
    # From recall 0 up; scikit-learn's last point is no threshold's. Of one recall its best precision.
    recall, precision = recall[:-1][::-1], precision[:-1][::-1]
    recall, first = np.unique(recall, return_index=True)
    precision = precision[first]
    return Curves(
        _thinned(np.stack([false, true], 1)),
        _thinned(np.stack([np.r_[0, recall], np.r_[precision[:1], precision]], 1)),
        float(roc_auc_score(positive, finite)),
        float(average_precision_score(positive, finite)),
        float(positive.mean()),
    )


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most :data:`POINTS` of them, at even distances along the curve, with its ends."""
    if len(points) <= POINTS:
        return points
    way = np.r_[0, np.abs(np.diff(points, axis=0)).sum(1).cumsum()]
    kept = np.searchsorted(way, np.linspace(0, way[-1], POINTS)).clip(0, len(points) - 1)
    found: NDArray[np.float64] = points[np.unique(np.r_[0, kept, len(points) - 1])]
    return found
