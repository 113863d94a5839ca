"""MaxBoxAccV2: does some threshold of a map give the object's box?

    BoxAcc(τ, δ) = share of images with IoU(box of a component of {map ≥ τ}, a true box) ≥ δ
    MaxBoxAccV2 = mean over δ ∈ {0.3, 0.5, 0.7} of max_τ BoxAcc(τ, δ)

Maps are min–max normalised, then upsampled bilinearly to the image; each δ has one best τ for the whole
set. Components are connected over eight neighbours, and the boxes of all of them count. Choe et al.,
"Evaluating Weakly Supervised Object Localization Methods Right".
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from iceprobe.analysis.localisation import Size, sides

DELTAS = (0.3, 0.5, 0.7)
THRESHOLDS = tuple(step / 100 for step in range(100))


def box_hits(
    maps: Tensor,
    boxes: Tensor,
    size: Size,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    deltas: Sequence[float] = DELTAS,
) -> NDArray[np.bool_]:
    """Whether each image is correct at each threshold and IoU.

    Args:
        maps: ``(B, H, W)``, one an image.
        boxes: ``(B, 4)`` or, with several an image, ``(B, K, 4)``, as ``x0, y0, x1, y1`` in
            pixels with exclusive upper ends; boxes without area are none.
        size: S, pixels a side of the image, or height and width.
        thresholds: T of τ in [0, 1].
        deltas: IoU to reach.

    Returns:
        ``(B, T, len(deltas))``; a constant map is 0 everywhere.
    """
    truths = boxes.reshape(len(boxes), -1, 4).double().cpu().numpy()
    pictures = F.interpolate(
        _normalised(maps.double())[:, None], sides(size), mode="bilinear", align_corners=False
    )[:, 0]
    hits = np.zeros((len(maps), len(thresholds), len(deltas)), bool)
    for i, picture in enumerate(pictures.cpu().numpy()):
        for t, threshold in enumerate(thresholds):
            best = _ious(component_boxes(picture >= threshold), truths[i]).max(initial=0.0)
            hits[i, t] = best >= np.asarray(deltas)
    return hits


def max_box_accuracy(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The best threshold's accuracy at each δ: ``(n, T, len(deltas))`` → ``(len(deltas),)``.

    Their mean is MaxBoxAccV2.
    """
    return hits.mean(0).max(0)


def component_boxes(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Boxes ``(K, 4)`` of the connected components of ``(S, S)``, eight neighbours a pixel."""
    from scipy import ndimage

    components, _ = ndimage.label(inside, structure=np.ones((3, 3)))
    found = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(components)]
    return np.array(found, np.float64).reshape(-1, 4)


def _normalised(maps: Tensor) -> Tensor:
    """Each map from 0 to 1; a constant one is 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))


def _ious(found: NDArray[np.float64], truths: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(K, 4)`` with ``(L, 4)`` → ``(K, L)``."""
    low = np.maximum(found[:, None, :2], truths[None, :, :2])
    high = np.minimum(found[:, None, 2:], truths[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (found, truths)]
    return shared / (areas[0][:, None] + areas[1] - shared)
