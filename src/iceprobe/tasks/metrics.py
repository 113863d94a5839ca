"""A metric: a number made of what a task records of the test examples, and of their targets.

A metric that is a mean over examples is Σ_i w_i s_i: what example i scores, and what it counts. That is all
that selection, comparison and intervals need to know of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = Callable[[Any, NDArray], NDArray]  # record, targets (n, …) → (S, n)
Weights = Callable[[NDArray], NDArray[np.float64]]  # targets (n, …) → (n,), of sum 1


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: its key in ``results.json`` and its spelling as an option: ``"top1"``.
        title: in tables and sentences: ``"top-1"``.
        scores: what each example scores, ``(S, n)``, one row a seed.
        weights: what each example counts, ``(n,)`` with a sum of 1.
        higher_is_better: whether more is better.
        range: lowest and highest value there can be; ``None`` where there is no end.
        percent: whether it is a fraction, shown as a percentage.
    """

    name: str
    title: str
    scores: Scores
    weights: Weights
    higher_is_better: bool = True
    range: tuple[float | None, float | None] = (0.0, 1.0)
    percent: bool = True


def evenly(targets: NDArray) -> NDArray[np.float64]:
    """Each example counts 1/n."""
    return np.full(len(targets), 1 / len(targets))


def by_class(labels: NDArray) -> NDArray[np.float64]:
    """Each class counts the same: w_i = 1/(C · n_c) of an example of class c, of which there are n_c.

    C counts the classes that have an example.

    >>> by_class(np.array([0, 0, 0, 7])).round(4).tolist()
    [0.1667, 0.1667, 0.1667, 0.5]
    """
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[codes])
