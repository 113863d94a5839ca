"""A metric: a number computed of a task's records of the test examples and of their targets.

A metric that is a mean over examples is Σ_i w_i s_i, with scores s_i and weights w_i. Selection, comparison
and intervals use these alone. Examples of one stratum have the same weight, and so have strata: w_i =
1/(C · n_c) of an example of stratum c with n_c examples; C counts the strata that have any.

A metric that is no mean over examples (mAP, R², mIoU) gives linearised scores: its value M plus the
influence of each example, by how much M changes with the example's weight. The influences have the mean 0,
so Σ_i w_i s_i is M, and their spread gives the standard error of M (the infinitesimal jackknife: Jaeckel
1972, Efron 1981). So selection reads both kinds in the same way; `Metric.exact` computes M itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.core.errors import IceprobeError

Scores = Callable[[Any, NDArray], NDArray | None]  # record, targets (n, …) → (S, n)
Strata = Callable[[NDArray], NDArray]  # targets (n, …) → (n,)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Any metric can be reported. Of one that selects, the scores of every held-out example are kept after
    every evaluation, as bits if they are bool and as float32 otherwise.

    Attributes:
        name: its key in ``results.json`` and its spelling as an option: ``"top1"``.
        title: in tables and sentences: ``"top-1"``.
        scores: of each example, ``(S, n)``, one row a seed; bool for right or wrong, linearised if the
            metric is no mean over examples, None if the record lacks its fields.
        strata: the stratum of each example, ``(n,)``; None: all are of one.
        higher_is_better: whether more is better.
        range: lowest and highest possible value; ``None`` for no bound.
        percent: whether it is a fraction, shown as a percentage.
        accuracy: whether it is a share of right examples, which sentences call an accuracy.
        heading: of its column in tables; the title by default.
        exact: of a metric that is no mean over examples: record and targets → its value, ``(S,)``.
    """

    name: str
    title: str
    scores: Scores
    strata: Strata | None = None
    higher_is_better: bool = True
    range: tuple[float | None, float | None] = (0.0, 1.0)
    percent: bool = True
    accuracy: bool = False
    heading: str = ""
    exact: Callable[[Any, NDArray], NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "heading", self.heading or self.title)

    @property
    def sign(self) -> int:
        """1 where more is better, −1 where less is."""
        return 1 if self.higher_is_better else -1

    @property
    def worst(self) -> float | None:
        """What a member that diverged scores; None where the range has no such end."""
        return self.range[0] if self.higher_is_better else self.range[1]

    @property
    def fraction(self) -> bool:
        """Whether scores lie in [0, 1], so that they have the errors of a share."""
        return self.range == (0.0, 1.0)

    @property
    def scale(self) -> int:
        """By what a score is multiplied where it is shown."""
        return 100 if self.percent else 1

    @property
    def unit(self) -> str:
        """What stands behind a score that is shown."""
        return "%" if self.percent else ""

    def needed_scores(self, record: Any, targets: NDArray) -> NDArray:
        """:attr:`scores`, which must exist.

        Raises:
            IceprobeError: if the record lacks their fields.
        """
        if (found := self.scores(record, targets)) is None:
            raise IceprobeError(f"{self.title} can't be computed from what was kept: fit it again")
        return found

    def strata_of(self, targets: ArrayLike) -> NDArray | None:
        """The stratum of each example: targets ``(n, …)`` → ``(n,)``; None if all are of one."""
        return None if self.strata is None else self.strata(np.asarray(targets))

    def weights(self, targets: ArrayLike) -> NDArray[np.float64]:
        """Weights of the examples: targets ``(n, …)`` → ``(n,)`` with a sum of 1."""
        targets = np.asarray(targets)
        strata = self.strata_of(targets)
        return np.full(len(targets), 1 / len(targets)) if strata is None else even_strata(strata)

    def mean(self, scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
        """The metric of scores and targets: ``(…, n)``, ``(n, …)`` → ``(…)``."""
        return mean_over_strata(scores, self.strata_of(targets))

    def value(self, record: Any, targets: NDArray) -> NDArray[np.float64]:
        """The metric of each seed or member, ``(S,)``.

        Raises:
            IceprobeError: as :meth:`needed_scores`.
        """
        if self.exact is not None:
            return self.exact(record, targets)
        return self.mean(self.needed_scores(record, targets), targets)


def even_strata(strata: ArrayLike) -> NDArray[np.float64]:
    """Weights of examples by which strata count the same: ``(n,)`` → ``(n,)``.

    >>> even_strata([0, 0, 0, 7]).round(4).tolist()
    [0.1667, 0.1667, 0.1667, 0.5]
    """
    _, codes, counts = np.unique(np.asarray(strata), return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[codes])


def mean_over_strata(scores: ArrayLike, strata: ArrayLike | None = None) -> NDArray[np.float64]:
    """Mean over strata of the mean inside each: ``(…, n)``, ``(n,)`` → ``(…)``.

    >>> float(mean_over_strata([True, True, True, False], [0, 0, 0, 7]))
    0.5
    """
    scores = np.asarray(scores, np.float64)
    if strata is None:
        return scores.mean(-1)
    # Stratum by stratum: weights of 1/3 would add up to a little more than 1.
    _, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    hits = [np.bincount(codes, row, len(counts)) for row in scores.reshape(-1, len(codes))]
    return (np.array(hits) / counts).mean(-1).reshape(scores.shape[:-1])
