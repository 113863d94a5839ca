"""Mean intersection over union, in numpy, from one confusion matrix of pixels.

    IoU_c = T_cc / (Σ_k T_ck + Σ_k T_kc − T_cc)        T_tp: pixels of class t called p

All pixels of a split are counted into one T (Everingham et al., the PASCAL VOC challenge); a mean of
images' own IoUs is another number. A class that is neither the truth nor the prediction of any pixel is
left out of the mean. Pixels labelled `IGNORE` don't count.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

IGNORE = 255  # the field's label of pixels that aren't evaluated


@dataclass
class Counts:
    """Pixels of a split by class."""

    confusion: NDArray[np.int64]  # `(C, C)`, truth by prediction, of all images
    hits: NDArray[np.int64]  # `(n, C)` of each image: T_cc, Σ_k T_ck and Σ_k T_kc
    truth: NDArray[np.int64]
    called: NDArray[np.int64]

    @classmethod
    def of(cls, record: Any, member: int) -> Self:
        """Of a member of what `tasks/segmentation.py` recorded."""
        return cls(
            record.confusion[member],
            record.hits[member],
            record.truth[member],
            record.called[member],
        )


def count(truth: NDArray[np.integer], called: NDArray[np.integer], classes: int) -> Counts:
    """Count pixels.

    Args:
        truth: ``(n, …)`` classes of pixels, or `IGNORE`.
        called: the same shape, predicted classes.
        classes: C.
    """
    images = len(truth)
    truth, called = (pixels.reshape(images, -1).astype(np.int64) for pixels in (truth, called))
    cells = (np.arange(images)[:, None] * classes + truth) * classes + called
    found = np.bincount(cells[truth != IGNORE], minlength=images * classes**2)
    each = found.reshape(images, classes, classes)
    return Counts(each.sum(0), np.einsum("ncc->nc", each), each.sum(2), each.sum(1))


def iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class, ``(C, C)`` → ``(C,)``; NaN where the class doesn't occur.

    >>> iou(np.array([[3, 1], [0, 2]]))
    array([0.75      , 0.66666667])
    """
    hits = confusion.diagonal()
    return _ratio(hits, confusion.sum(1) + confusion.sum(0) - hits)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean over the classes that occur, ``(C, C)`` → a fraction; 0 without any pixel."""
    found = iou(confusion)
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0


def object_iou(confusion: NDArray[np.int64]) -> float:
    """IoU of all classes but background (0) taken as one: *where* objects are, of any class."""
    union = confusion.sum() - confusion[0, 0]
    return float(confusion[1:, 1:].sum() / union) if union else 0.0


def _ratio(hits: NDArray, union: NDArray) -> NDArray[np.float64]:
    return np.divide(hits, union, out=np.full(union.shape, np.nan), where=union > 0)
