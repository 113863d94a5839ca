"""Metrics, one example and one bin at a time."""

import numpy as np


def calibration_error(confidence, right, bins=15, weights=None):
    """Examples in order of confidence, equal ones as one, each spread over the bins that it lies in."""
    weights = np.ones(len(confidence)) if weights is None else weights
    whole, position = weights.sum(), 0.0
    gaps = np.zeros(bins)
    for value in np.unique(confidence):
        same = confidence == value
        mass = weights[same].sum() / whole
        if mass == 0:
            continue
        accuracy = (weights[same] * right[same]).sum() / weights[same].sum()
        for b in range(bins):
            inside = min(position + mass, (b + 1) / bins) - max(position, b / bins)
            gaps[b] += max(0.0, inside) * (value - accuracy)
        position += mass
    return np.abs(gaps).sum()


def mean_iou_influences(hits, truth, called):
    """mIoU and the influence of each image on it, by hand: ``(S, n, C)`` each → ``(S, n)``.

    IoU_c = H_c/U_c of sums over images; image i moves it by n (h_ic − IoU_c u_ic)/U_c.
    """
    hits = hits.astype(np.float64)
    union = truth + called - hits
    total = union.sum(1, keepdims=True).astype(np.float64)
    occurring = total > 0
    each = np.divide(1.0, total, out=np.zeros_like(total), where=occurring)
    iou = hits.sum(1, keepdims=True) * each
    classes = np.maximum(occurring.sum(-1), 1)
    influence = hits.shape[1] * ((hits - iou * union) * each).sum(-1) / classes
    return iou.sum(-1) / classes + influence


def best_f1(p, positive):
    """The highest F1 of calling all from some p on."""
    found = []
    for threshold in [*np.unique(p), 2.0]:
        called = p >= threshold
        both = called.sum() + positive.sum()
        found.append(2 * (called & positive).sum() / both if both else 0.0)
    return max(found)
