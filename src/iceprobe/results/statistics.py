"""Scores, their intervals and paired comparisons, in numpy.

Everything starts from ``correct``: ``(R, n)`` booleans (or fractions), replicate or seed by test image.
Both are taken for draws from many: an interval says how the mean would move with other images *and* with
other replicates (`results/crossed.py`), as a score interval (`results/scores.py`): Wilson's of an
accuracy, Tango's of a paired difference. Scores that aren't bound to [0, 1] have mean ± q·√Var. Images
are taken for independent of each other, or ``groups`` of them are: then these are what others are drawn of.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.crossed import Spread, pooled, spread, spread_of_difference
from iceprobe.results.scores import FEW, departure, mcnemar, tango, wilson
from iceprobe.tasks.metrics import even_strata, mean_over_strata


@dataclass(frozen=True)
class Difference:
    """The score of a minus that of b on the same images."""

    gained: float  # share of the images that only a reads, mean over replicates
    lost: float  # share that only b reads; both mean nothing where scores aren't fractions
    spread: Spread  # how the mean would move
    family: Spread | None = None  # with the variance of replicates of all pairs (:func:`together`)
    fractions: bool = True  # whether scores are bound to [0, 1]

    @property
    def mean(self) -> float:
        """The observed difference."""
        return self.spread.mean

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval."""
        return self.within(0.95)

    def __neg__(self) -> "Difference":
        """b − a."""
        spread, *family = (replace(one, mean=0.0 - one.mean) for one in self.spreads)
        turned = replace(self, gained=self.lost, lost=self.gained, spread=spread)
        return replace(turned, family=family[0]) if family else turned

    def within(self, confidence: float) -> tuple[float, float]:
        """The interval of another confidence.

        Where few images of a single row differ, it contains zero unless McNemar's exact test rejects it.
        """
        if not self.fractions:
            return self.spread.within(confidence)
        size = self.size(self.spread)
        low, high = tango(self.gained, self.lost, size, self.spread.quantile(confidence))
        if (exact := self._exact) is not None and exact >= 1 - confidence:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    @cached_property
    def p(self) -> float:
        """Two-sided p of "no difference"; McNemar's exact one where few images of a row differ.

        In a family the larger of the two by the pair's own spread and by the family's.
        """
        if self._exact is not None:
            return self._exact
        return max(min(1.0, one.p(self.departure(one, 0.0))) for one in self.spreads)

    def p_above(self, delta: float) -> float:
        """One-sided p of "a − b is at most ``delta``"."""
        found = []
        for one in self.spreads:
            off = self.departure(one, delta)
            half = min(1.0, one.p(off)) / 2
            found.append(half if off > 0 else 1 - half)
        return max(found)

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def spreads(self) -> list[Spread]:
        """Its own, and its family's."""
        return [one for one in (self.spread, self.family) if one is not None]

    def size(self, spread: Spread) -> float:
        """The effective number of images, by one of its spreads."""
        return spread.effective(self.gained + self.lost - self.mean**2)

    def departure(self, spread: Spread, delta: float) -> float:
        """Standard errors by which a − b lies above ``delta`` (a score test), by one of its spreads."""
        if not self.fractions:
            return spread.departure(delta)
        return departure(self.gained, self.lost, self.size(spread), delta)

    @cached_property
    def _exact(self) -> float | None:
        if not self.spread.plain or not self.fractions:
            return None
        only = [self.spread.size * share for share in (self.gained, self.lost)]
        whole = all(abs(count - round(count)) < 1e-6 for count in only)
        if not whole or sum(only) >= FEW:
            return None
        return mcnemar(*map(round, only))


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests at 5% in interval form: is the 90% interval inside ±margin?"""

    mean: float
    interval: tuple[float, float]
    margin: float

    @property
    def holds(self) -> bool:
        return -self.margin < self.interval[0] and self.interval[1] < self.margin


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Share of images with ``predicted == labels``: ``(S, n)``, ``(n,)`` → ``(S,)``.

    >>> accuracy([[0, 1, 1, 0]], [0, 1, 0, 0])
    array([0.75])
    """
    return _right(predicted, labels).mean(1)


def mean_per_class(predicted: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Mean over classes of the accuracy inside a class: ``(S, n)``, ``(n,)`` → ``(S,)``.

    Classes without a test image are left out of the mean.

    >>> mean_per_class([[0, 0, 0, 0]], [0, 0, 0, 1])
    array([0.5])
    """
    return mean_over_strata(_right(predicted, labels), labels)


def accuracy_interval(
    correct: ArrayLike,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Lower and upper end of the interval of the mean correctness, over images and replicates.

    Where no error was seen in groups, it is as wide as with one image a group: all of a group may have been
    right for the same reason. That is conservative.

    Args:
        correct: ``(R, n)`` or ``(n,)``.
        classes: ``(n,)``, for the mean of each class's accuracy; None for top-1.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        confidence: how often such intervals contain the accuracy over all images and replicates.
    """
    found = spread(correct, classes, groups)
    share = min(1.0, max(0.0, found.mean))  # sums of weights may pass 1 by their rounding
    size = found.effective(share * (1 - share))
    return wilson(share, size, found.quantile(confidence), confidence)


def score_interval(
    scores: ArrayLike,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean of scores of any range; arguments as of :func:`accuracy_interval`."""
    return spread(scores, strata, groups, fractions=False).within(confidence)


def paired_difference(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    replicates: bool = False,
    fractions: bool = True,
    least: float = 0.0,
) -> Difference:
    """a − b on the images that both were tested on.

    It is antisymmetric: b − a has exactly the negated mean, the mirrored interval and the same p.

    Args:
        correct_a: ``(R, n)`` or ``(n,)``.
        correct_b: ``(R', n)`` or ``(n,)``; the two may have different numbers of seeds.
        classes: ``(n,)``, to compare means of each class's accuracy.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        replicates: whether row r of both is the same complete repetition (the same draw of training
            images): differences are computed row by row.
        fractions: whether scores are bound to [0, 1].
        least: variance over images that the difference of others has at least.

    Raises:
        ValueError: if the numbers of images, or of replicates, differ.
    """
    a, b = (np.atleast_2d(np.asarray(one, np.float64)) for one in (correct_a, correct_b))
    found = spread_of_difference(a, b, classes, groups, paired=replicates, fractions=fractions)
    found = replace(found, examples=max(found.examples, least))
    counted = 1 / a.shape[1] if classes is None else even_strata(classes)
    rows = (a, b) if replicates else (a.mean(0), b.mean(0))
    gained, lost = (
        float((one * (1 - other) * counted).sum()) / (len(a) if replicates else 1)
        for one, other in (rows, rows[::-1])
    )
    return Difference(gained, lost, found, fractions=fractions)


def together(
    differences: Sequence[Difference], pairs: Sequence[tuple[Hashable, Hashable]]
) -> list[Difference]:
    """Differences reported together: the variance of replicates is estimated from all ``pairs``, of which
    each is the difference, as well (`results/crossed.py`)."""
    beside = pooled([one.spread for one in differences], pairs)
    return [replace(one, family=family) for one, family in zip(differences, beside, strict=True)]


def equivalent(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    margin: float,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    replicates: bool = False,
) -> Equivalence:
    """Whether a and b are the same within ``±margin`` (a fraction), at 5%.

    Raises:
        ValueError: for a margin that isn't positive, or different numbers of images.
    """
    difference = paired_difference(correct_a, correct_b, classes, groups, replicates=replicates)
    return same_within(difference, margin)


def same_within(difference: Difference, margin: float) -> Equivalence:
    """:func:`equivalent` of a difference that is known."""
    if not margin > 0:
        raise ValueError(f"the margin of an equivalence test is positive, not {margin}")
    return Equivalence(difference.mean, difference.within(0.90), margin)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's corrected p of each of several tests: below 5% none of them errs in 95% of families.

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, so_far = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = so_far
    return corrected


def _right(predicted: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    predicted, labels = np.atleast_2d(np.asarray(predicted)), np.asarray(labels)
    if labels.ndim != 1 or predicted.shape[1:] != labels.shape or not len(labels):
        raise ValueError(f"predictions {predicted.shape} don't fit labels {labels.shape}")
    return predicted == labels
