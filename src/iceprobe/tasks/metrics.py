"""A metric: a number computed of a task's records of the test examples and of their targets.

A metric that is a mean over examples is Σ_i w_i s_i, with scores s_i and weights w_i. Selection, comparison
and intervals use these alone. Examples of one stratum have the same weight, and so have strata: w_i =
1/(C · n_c) of an example of stratum c with n_c examples; C counts the strata that have any.

A metric that is no mean over examples (mAP, R², mIoU) is a formula M(w) of weights of the examples, of degree
0 in them (`tasks/formulas.py`). Its scores are linearised at equal weights: M plus the influence of each
example, n ∂M/∂w_i, by differentiating the formula. The influences have the mean 0, so Σ_i w_i s_i is M, and
their spread gives the standard error of M (the infinitesimal jackknife: Jaeckel 1972, Efron 1981). So
selection reads both kinds in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.linearised import Formula, at_equal_weights, linearised, resampled

Scores = Callable[[Any, NDArray], NDArray | None]  # record, targets (n, …) → (S, n)
Strata = Callable[[NDArray], NDArray]  # targets (n, …) → (n,)
BINS = 15  # of equal mass, of calibration
_CHUNK_CELLS = 4_000_000  # of drawn weights held at once: 32 MB


@dataclass(frozen=True)
class Metric:
    """One metric: a mean over examples, with ``each``, or else a ``formula``.

    Any metric can be reported. Of one that selects, the scores of every held-out example are kept after
    every evaluation, as bits if they are bool and as float32 otherwise.

    Attributes:
        name: its key in ``results.json`` and its spelling as an option: ``"top1"``.
        title: in tables and sentences: ``"top-1"``.
        each: of a mean, the score of each example, ``(S, n)``, one row a seed; bool for right or wrong, None
            if the record lacks its fields.
        strata: of a mean, the stratum of each example, ``(n,)``; None: all are of one.
        higher_is_better: whether more is better.
        range: lowest and highest possible value; ``None`` for no bound.
        percent: whether it is a fraction, shown as a percentage.
        accuracy: whether it is a share of right examples, which sentences call an accuracy.
        heading: of its column in tables; the title by default.
        formula: of record, targets and weights ``(W, n)``, ``(S, W)``; None if the record lacks its fields,
            NaN where it is undefined, which depends on targets and weights alone.
        needs: what the targets need for a formula to be defined: ``"examples of two classes"``.
        most_outputs: up to how many outputs it is computed with every fit, and not only when it is asked for;
            None for any number. More take long.
        note: its definition in a line.
        unit_of_target: whether it is in the unit of the targets.
        counts: of a formula, what it counts alike, of which its interval needs enough: the examples of
            each class or tag, the cells of all tags together, or all examples.
    """

    name: str
    title: str
    each: Scores | None = None
    strata: Strata | None = None
    higher_is_better: bool = True
    range: tuple[float | None, float | None] = (0.0, 1.0)
    percent: bool = True
    accuracy: bool = False
    heading: str = ""
    formula: Formula | None = None
    needs: str = ""
    most_outputs: int | None = None
    note: str = ""
    unit_of_target: bool = False
    counts: Literal["each", "cells", "examples"] = "each"

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
        """Whether scores lie in [0, 1], so that they have the errors of a share; linearised ones don't."""
        return self.formula is None and self.range == (0.0, 1.0)

    @property
    def scale(self) -> int:
        """By what a score is multiplied where it is shown."""
        return 100 if self.percent else 1

    @property
    def unit(self) -> str:
        """What stands behind a score that is shown."""
        return "%" if self.percent else ""

    def by_itself(self, outputs: int) -> bool:
        """Whether it is computed without being asked for, with K outputs."""
        return self.most_outputs is None or outputs <= self.most_outputs

    def scores(self, record: Any, targets: NDArray) -> NDArray | None:
        """Of each example, ``(S, n)``; linearised of a formula.

        None if the record lacks its fields, or if it is undefined for these targets; see :meth:`missing`.
        """
        if self.formula is None:
            return None if self.each is None else self.each(record, targets)
        return linearised(self.formula, record, targets)

    def missing(self, record: Any, targets: NDArray) -> str | None:
        """Why there are no :attr:`scores`, in a sentence; None if there are."""
        return None if self.scores(record, targets) is not None else self._why(record, targets)

    def needed_scores(self, record: Any, targets: NDArray) -> NDArray:
        """:meth:`scores`, which must exist.

        Raises:
            IceprobeError: if the record lacks their fields, or the metric is undefined.
        """
        if (found := self.scores(record, targets)) is None:
            raise IceprobeError(self._why(record, targets))
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
        if self.formula is None:
            return self.mean(self.needed_scores(record, targets), targets)
        found = at_equal_weights(self.formula, record, targets)
        if found is None or not np.isfinite(found).all():
            raise IceprobeError(self._why(record, targets))
        return found

    def resampled(self, record: Any, targets: NDArray, weights: ArrayLike) -> NDArray[np.float64]:
        """The metric of weighted examples, as of bootstrap draws: ``(W, n)`` → ``(S, W)``.

        A draw for which it is undefined has NaN. A mean over strata is one over those that were drawn.

        Raises:
            IceprobeError: if the record lacks its fields.
        """
        weights = np.asarray(weights)
        step = max(1, _CHUNK_CELLS // max(weights.shape[1], 1))
        parts = [weights[at : at + step] for at in range(0, len(weights), step)]
        if self.formula is None:
            scores = np.asarray(self.needed_scores(record, targets), np.float64)
            strata = self.strata_of(targets)
            return np.concatenate([_weighted_mean(scores, part, strata) for part in parts], 1)
        found = []
        for part in parts:
            if (one := resampled(self.formula, record, targets, part)) is None:
                raise IceprobeError(self._why(record, targets))
            found.append(one)
        return np.concatenate(found, 1)

    def _why(self, record: Any, targets: NDArray) -> str:
        if self.formula is not None:
            found = at_equal_weights(self.formula, record, targets)
            if found is not None:
                return f"{self.title} needs {self.needs or 'other targets than these'}"
        return f"{self.title} can't be computed from what was kept: fit it again"


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


def _weighted_mean(
    scores: NDArray[np.float64], weights: NDArray, strata: NDArray | None
) -> NDArray[np.float64]:
    """``(S, n)``, ``(W, n)`` → ``(S, W)``: the mean over strata of the weighted mean inside each."""
    weights = weights.astype(np.float64)
    if strata is None:
        return _ratio(scores @ weights.T, weights.sum(1))
    order = np.argsort(strata, kind="stable")
    ordered = np.asarray(strata)[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    drawn = weights[:, order]
    mass = np.add.reduceat(drawn, starts, axis=1)
    found = []
    for row in scores[:, order]:
        inside = _ratio(np.add.reduceat(drawn * row, starts, axis=1), mass)
        found.append(_ratio(np.nansum(inside, 1), (mass > 0).sum(1)))
    return np.stack(found)


def _ratio(above: NDArray, below: NDArray) -> NDArray[np.float64]:
    out = np.full(above.shape, np.nan)
    return np.divide(above, below, out=out, where=below > 0)
