"""The rule by which a setting and an epoch are chosen on held-out examples.

For setting k of the K settings of a probe, r(k, e, i) is the mean score of k's members on example i after
epoch e by the metric that selects (members: seeds, and with repeated folds those that weren't trained on
i), w_i the example's weight, a(k, e) = Σ_i w_i r(k, e, i), and E the schedule's last epoch. For a metric
that is better low, r is its negative::

    k* = argmax_k a(k, E)
    (k', e') = argmax_{k, e} a(k, e)
    d_i = r(k', e', i) − r(k*, E, i)      chosen: (k', e') if Σ w_i d_i > z · SE(d), else (k*, E)

So schedules run whole, and an earlier epoch is taken only if it is better by more than z standard errors
of the paired difference. The maximum over rate × epoch would be the luckiest of hundreds of evaluations
on few examples (docs/selection.md). Of equals the smaller learning rate, then the larger weight decay,
then the latest epoch: with two images a class most decays of a linear probe are equally good, and the
strongest is half a point better on test than the weakest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.curves import CurveRow, seed_means
from iceprobe.results.schema import SelectedScore
from iceprobe.results.weighted import selected_score, standard_error

Floats = NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Record:
    """One setting on the held-out examples."""

    learning_rate: float  # the setting
    weight_decay: float
    # after which it was evaluated; the last is the schedule's if it reached that
    epochs: Sequence[int]
    scores: NDArray[np.float32]  # `(E, n)`: mean score of its members on each example
    lost: bool = False  # whether a member has diverged
    gone: bool = False  # whether all have
    ended: bool = False  # whether it stopped before the schedule's end, clearly beaten


@dataclass(frozen=True)
class Choice:
    """A point of the grid, compared with the others."""

    learning_rate: float  # the point
    weight_decay: float
    epoch: int
    tried: int  # settings
    # its score minus the median setting's at that epoch, positive where it is better
    best_minus_median: float | None
    # its score on the held-out examples, if those are known one by one
    held_out: SelectedScore | None = None
    # whether no other learning rate (of settings without one: no other weight decay) is as good at
    # that epoch
    alone: bool = False


def choose(
    records: Sequence[Record],
    weights: Floats,
    errors: float,
    sign: int = 1,
    groups: NDArray[np.int64] | None = None,
) -> Choice | None:
    """The choice by the rule above, among settings without a diverged member.

    If every setting has one, among all with a member left; ``None`` if no member is left.

    Args:
        records: of one probe, a setting each.
        weights: ``(n,)`` of the examples; their sum is 1.
        errors: z, standard errors that an earlier epoch is better by.
        sign: of the metric, −1 where less is better.
        groups: ``(n,)``, equal for examples that aren't independent: standard errors are over groups then.
    """
    if sign < 0:
        records = [replace(record, scores=-record.scores) for record in records]
    scores = [_scores(record, weights) for record in records]
    left = [k for k, record in enumerate(records) if not record.gone]
    eligible = [k for k in left if not records[k].lost] or left
    if not eligible:
        return None
    eligible = [k for k in eligible if not records[k].ended] or eligible

    def order(k: int, e: int) -> tuple[float, ...]:
        record = records[k]
        rank = (-record.learning_rate, record.weight_decay, record.epochs[e])
        return (round(float(scores[k][e]), 12), *rank)

    best = max((order(k, -1), k, len(scores[k]) - 1) for k in eligible)[1:]
    luckiest = max((order(k, e), k, e) for k in eligible for e in range(len(scores[k])))[1:]
    if luckiest != best:
        difference = _scores_at(records, luckiest) - _scores_at(records, best)
        # One image gained is one standard error exactly, which rounding may put on either side.
        error = standard_error(difference, weights, groups)
        if float(weights @ difference) > errors * error + ROUNDING:
            best = luckiest
    k, e = best
    record, score = records[k], float(scores[k][e])
    then = [float(each[min(e, len(each) - 1)]) for each in scores]  # beaten ones ended before
    axis = "learning_rate" if len({one.learning_rate for one in records}) > 1 else "weight_decay"
    along = [getattr(one, axis) for one in records]
    return Choice(
        record.learning_rate,
        record.weight_decay,
        record.epochs[e],
        tried=len(records),
        best_minus_median=score - float(np.median(then)),
        held_out=selected_score(sign * _scores_at(records, best), weights, groups),
        alone=all(
            other < score - 1e-12
            for other, value in zip(then, along, strict=True)
            if value != along[k]
        ),
    )


def best_at_last_epoch(
    rows: Sequence[CurveRow], sign: int = 1, worst: float | None = 0.0
) -> Choice | None:
    """The setting with the best held-out score at its last epoch, mean over seeds.

    For fits that choose among last epochs only (adaptation, segmentation). Of equals the smaller learning
    rate, then the larger weight decay; of settings with a diverged seed and without, as :func:`choose`.

    Args:
        rows: of one probe.
        sign: of the metric, −1 where less is better.
        worst: what a seed that has diverged scores; with None it is left out.
    """
    seeds: dict[tuple[float, float], set[int]] = {}
    lost: dict[tuple[float, float], set[int]] = {}
    for row in rows:
        point = (row.learning_rate, row.weight_decay)
        seeds.setdefault(point, set()).add(row.seed)
        lost.setdefault(point, set()).update({row.seed} if row.diverged else ())
    found = seed_means(rows, worst)
    best = {point: (means[max(means)], max(means)) for point, means in found.items()}
    left = [point for point in best if lost[point] < seeds[point]]
    eligible = [point for point in left if not lost[point]] or left
    if not eligible:
        return None
    rate, decay = max(eligible, key=lambda s: (sign * best[s][0], -s[0], s[1]))
    score, epoch = best[rate, decay]
    spread = sign * (score - float(np.median([one for one, _ in best.values()])))
    return Choice(rate, decay, epoch, len(best), spread)


def _scores(record: Record, weights: Floats) -> Floats:
    return np.asarray([float(weights @ scores) for scores in record.scores])


def _scores_at(records: Sequence[Record], at: Sequence[int]) -> Floats:
    return records[at[0]].scores[at[1]].astype(np.float64)
