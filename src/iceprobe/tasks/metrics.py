"""A metric: a number made of what a task records of the test examples, and of their targets.

A metric that is a mean over examples is Σ_i w_i s_i: what example i scores, and what it counts. That is all
that selection, comparison and intervals need to know of it. Examples of one stratum count the same, and so
does each stratum: w_i = 1/(C · n_c) of an example of stratum c, which has n_c; C counts those with an example.

A metric that is no mean over examples (mAP, R², mIoU) gives linearised scores: its value M plus the
influence of each example, by how much M changes when the example counts more. The influences have the
mean 0, so Σ_i w_i s_i is M, and their spread gives the standard error of M (the infinitesimal jackknife:
Jaeckel 1972, Efron 1981). So selection reads both kinds in the same way; `Metric.exact` computes M itself.
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

    Any metric can be reported. One that selects keeps its scores of every held-out example after every
    evaluation, as bits where they are bool and as float32 otherwise, and may be better high or low.

    Attributes:
        name: its key in ``results.json`` and its spelling as an option: ``"top1"``.
        title: in tables and sentences: ``"top-1"``.
        scores: what each example scores, ``(S, n)``, one row a seed; bool where it is right or wrong,
            linearised where the metric is no mean over examples, None where the record doesn't say.
        strata: the stratum of each example, ``(n,)``; None: all are of one.
        higher_is_better: whether more is better.
        range: lowest and highest value there can be; ``None`` where there is no end.
        percent: whether it is a fraction, shown as a percentage.
        accuracy: whether it is a share of examples that are right, so that sentences call it an accuracy.
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
        """:attr:`scores`, where nothing can go on without them.

        Raises:
            IceprobeError: if the record doesn't say.
        """
        if (found := self.scores(record, targets)) is None:
            raise IceprobeError(f"{self.title} can't be computed from what was kept: fit it again")
        return found

    def strata_of(self, targets: ArrayLike) -> NDArray | None:
        """The stratum of each example: targets ``(n, …)`` → ``(n,)``; None where all are of one."""
        return None if self.strata is None else self.strata(np.asarray(targets))

    def weights(self, targets: ArrayLike) -> NDArray[np.float64]:
        """What each example counts: targets ``(n, …)`` → ``(n,)`` with a sum of 1."""
        if (strata := self.strata_of(targets)) is None:
            return np.full(len(np.asarray(targets)), 1 / len(np.asarray(targets)))
        return even_strata(strata)

    def mean(self, scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
        """The metric of what examples score: ``(…, n)``, ``(n, …)`` → ``(…)``."""
        return mean_over_strata(scores, self.strata_of(targets))

    def value(self, record: Any, targets: NDArray) -> NDArray[np.float64]:
        """The metric of each seed or member, ``(S,)``.

        Raises:
            IceprobeError: if the record doesn't say.
        """
        if self.exact is not None:
            return self.exact(record, targets)
        return self.mean(self.needed_scores(record, targets), targets)


def even_strata(strata: ArrayLike) -> NDArray[np.float64]:
    """What each example counts where strata count the same: ``(n,)`` → ``(n,)``.

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
