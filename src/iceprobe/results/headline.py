"""Which accuracy leads on a data set, as one weighted mean over its examples.

    top1             w_i = 1/n
    mean_per_class   w_i = 1/(C · n_c),  c the class of example i

C counts the classes that have an example, n_c the examples of class c. Both are Σ_i w_i · right_i, so
selection, comparison and intervals need to know no more of a headline than its weights.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.schema import SelectedScore

Headline = Literal["top1", "mean_per_class"]
NAMES: dict[Headline, str] = {"top1": "top-1", "mean_per_class": "mean per class"}


def weights(headline: Headline, labels: ArrayLike) -> NDArray[np.float64]:
    """What each example counts: ``(n,)`` → ``(n,)`` with a sum of 1.

    >>> weights("mean_per_class", [0, 0, 0, 7]).round(4).tolist()
    [0.1667, 0.1667, 0.1667, 0.5]
    """
    labels = np.asarray(labels)
    if headline == "top1":
        return np.full(len(labels), 1 / len(labels))
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[codes])


def standard_error(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Of the weighted mean of independent ``values (n,)``; infinite of fewer than two.

    With equal weights it is sd/√n.
    """
    n = len(values)
    if n < 2:
        return math.inf
    centred = weights * (values - weights @ values)
    return math.sqrt(float(centred @ centred) * n / (n - 1))


def selected_score(
    right: NDArray[np.float64], weights: NDArray[np.float64]
) -> SelectedScore | None:
    """From how far each example is right ``(n,)`` and what it counts ``(n,)``; None of fewer than two."""
    if len(right) < 2:
        return None
    return SelectedScore(
        mean=min(1.0, float(weights @ right)),  # sums of weights may pass 1 by their rounding
        images=len(right),
        error=standard_error(right, weights),
        size=1 / float(weights @ weights),
    )


def headline_accuracy(
    headline: Headline, right: ArrayLike, labels: ArrayLike
) -> NDArray[np.float64]:
    """The headline of what is right: ``(…, n)`` of booleans or fractions, ``(n,)`` → ``(…)``.

    >>> float(headline_accuracy("mean_per_class", [True, True, True, False], [0, 0, 0, 7]))
    0.5
    """
    right = np.asarray(right, np.float64)
    if headline == "top1":
        return right.mean(-1)
    # Class by class: weights of 1/3 would add up to a little more than 1.
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    hits = [np.bincount(codes, row, len(counts)) for row in right.reshape(-1, len(codes))]
    return (np.array(hits) / counts).mean(-1).reshape(right.shape[:-1])
