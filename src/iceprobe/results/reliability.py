"""Reliability: in bins of equal mass, how sure a probe is and how often it is right (the bins of the ECE).

An example across a border is in both bins with its parts, and examples of equal confidence are spread alike,
as in `tasks/calibration.py`: Σ_b mass_b |share_b − confidence_b| of one seed is its ECE.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.predictions import Predictions
from iceprobe.results.ratios import ratio_of
from iceprobe.tasks.metrics import BINS
from iceprobe.tasks.targets import UNKNOWN

_ROWS = 4096  # of which probabilities are held at once


@dataclass(frozen=True)
class Bin:
    """One of :data:`BINS` bins of equal mass, mean over seeds."""

    confidence: float
    share: float  # right
    interval: tuple[float, float]  # 95%, of the share
    cells: float  # examples in it, or cells of examples and tags


def reliability(
    confidence: NDArray,
    right: NDArray,
    n: int,
    examples: NDArray | None = None,
    groups: ArrayLike | None = None,
) -> list[Bin]:
    """The bins of ``confidence (S, m)`` in [0, 1] and ``right (S, m)`` bool.

    Args:
        n: examples.
        examples: ``(m,)``, whose the cells are; None: cell i is of example i.
        groups: ``(n,)``, equal for examples that aren't independent.
    """
    parts = [list(_memberships(row)) for row in np.asarray(confidence, np.float64)]
    found = []
    for index in range(BINS):
        members = np.stack([of_seed[index] for of_seed in parts])
        above, below = (
            _by_example(one, n, examples) for one in (members * np.asarray(right), members)
        )
        if (ratio := ratio_of(above, below, groups)) is None:
            continue
        sure = float(((members * confidence).sum(1) / members.sum(1)).mean())
        found.append(Bin(sure, ratio.mean, ratio.interval, float(members.sum(1).mean())))
    return found


def _memberships(row: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """For each bin how much of each cell is in it, ``(m,)``."""
    _, codes, counts = np.unique(row, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    starts = ends - counts
    for index in range(BINS):
        low, high = (len(row) * edge / BINS for edge in (index, index + 1))
        inside = np.clip(np.minimum(ends, high) - np.maximum(starts, low), 0, None)
        yield (inside / counts)[codes]


def _by_example(values: NDArray, n: int, examples: NDArray | None) -> NDArray:
    if examples is None:
        return values
    return np.stack([np.bincount(examples, row, n) for row in values])


def of_classes(predictions: Predictions) -> list[Bin]:
    """Of the highest probability of each example; none without logits."""
    logits = predictions.logits()
    if logits is None:
        return []
    confidence = np.empty(logits.values.shape[:2])
    for seed, values in enumerate(logits.values):
        for at in range(0, len(values), _ROWS):
            some = slice(at, at + _ROWS)
            z = np.asarray(values[some], np.float64)
            top = z.max(1)
            if logits.log_sum_exp is not None:
                whole = np.asarray(logits.log_sum_exp[seed, some], np.float64)
            else:
                with np.errstate(invalid="ignore"):
                    whole = top + np.log(np.exp(z - top[:, None]).sum(1))
            with np.errstate(invalid="ignore"):
                confidence[seed, some] = np.exp(top - whole)
    confidence = np.nan_to_num(confidence, nan=1.0).clip(0, 1)
    return reliability(
        confidence, predictions.correct, len(predictions.labels), groups=predictions.groups
    )


def of_tags(predictions: Predictions) -> list[Bin]:
    """Of the probability of each known cell; none without logits."""
    logits = predictions.logits()
    if logits is None:
        return []
    known = predictions.labels != UNKNOWN
    examples, _ = known.nonzero()
    positive = predictions.labels[known] == 1
    p = sigmoid(np.stack([np.asarray(one)[known] for one in logits.values]))
    right = np.broadcast_to(positive, p.shape)
    return reliability(p, right, len(known), examples, predictions.groups)


def sigmoid(logits: NDArray) -> NDArray[np.float64]:
    """1 / (1 + e^−z)."""
    from scipy.special import expit

    found: NDArray[np.float64] = expit(np.asarray(logits, np.float64))
    return found
