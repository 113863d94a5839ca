"""Formulas of dense targets, of sums over the pixels of each image; conventions as in `tasks/formulas.py`.

Images are what is drawn: a ratio is of sums over the images' pixels, so that pixels count the same.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.tasks.formulas import Values, mean_of_defined, numbers, ratio, sums
from iceprobe.tasks.number_formulas import root

DELTA = 1.25


def class_iou(hits: Values, truth: Values, called: Values, weights: Tensor) -> Tensor:
    """IoU of each class, T_cc / (Σ_k T_ck + Σ_k T_kc − T_cc): each ``(S, n, C)`` → ``(S, W, C)``.

    NaN of a class that is neither true nor called of any pixel.
    """
    right, union = (weights @ of for of in (numbers(hits), _union(hits, truth, called)))
    return ratio(right, union)


def mean_iou(hits: Values, truth: Values, called: Values, weights: Tensor) -> Tensor:
    """Mean over the classes that occur, ``(S, W)``; 0 without any pixel."""
    return mean_of_defined(class_iou(hits, truth, called, weights)).nan_to_num()


def pixel_accuracy(hits: Values, truth: Values, weights: Tensor) -> Tensor:
    """Share of pixels called right: ``(S, n, C)`` twice → ``(S, W)``."""
    right, known = (sums(numbers(of).sum(-1), weights) for of in (hits, truth))
    return ratio(right, known)


def depth_sums(predicted: NDArray, target: NDArray) -> dict[str, NDArray[np.float64]]:
    """Of each image: ``(S, n, …)``, ``(n, …)`` → ``(S, n)`` each, by the names of the formulas' arguments.

    Pixels whose target is NaN or not above 0 don't count. A prediction that isn't above 0 is in no δ.
    """
    t = np.asarray(target, np.float64).reshape(len(target), -1)
    p = np.asarray(predicted, np.float64).reshape(len(predicted), *t.shape)
    known = np.isfinite(t) & (t > 0)
    t = np.where(known, t, 1.0)
    off = np.where(known, p - t, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = known & (p > 0) & (np.maximum(p / t, t / p) < DELTA)
    return {
        "pixels": np.broadcast_to(known.sum(-1), within.shape[:-1]).astype(np.float64),
        "within": within.sum(-1).astype(np.float64),
        "relative": (np.abs(off) / t).sum(-1),
        "squares": (off**2).sum(-1),
    }


def delta1(within: Values, pixels: Values, weights: Tensor) -> Tensor:
    """δ1, the share of pixels with max(p/t, t/p) < 1.25: ``(S, n)`` twice → ``(S, W)``.

    Eigen, Puhrsch and Fergus 2014, as the two others.
    """
    return ratio(sums(numbers(within), weights), sums(numbers(pixels), weights))


def abs_rel(relative: Values, pixels: Values, weights: Tensor) -> Tensor:
    """Mean over pixels of |p − t|/t: ``(S, n)`` twice → ``(S, W)``."""
    return ratio(sums(numbers(relative), weights), sums(numbers(pixels), weights))


def depth_rmse(squares: Values, pixels: Values, weights: Tensor) -> Tensor:
    """Root of the mean over pixels of (p − t)²: ``(S, n)`` twice → ``(S, W)``."""
    return root(ratio(sums(numbers(squares), weights), sums(numbers(pixels), weights)))


def _union(hits: Values, truth: Values, called: Values) -> Tensor:
    return numbers(truth) + numbers(called) - numbers(hits)
