"""What is done after an epoch: evaluate, keep scores and the best, and write a row a member."""

import logging
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.phase import Best, Phase
from iceprobe.fitting.stacked import Member, Stacked
from iceprobe.tasks.records import Arrays, Record
from iceprobe.tasks.task import Keep

log = logging.getLogger("iceprobe")


def evaluate(
    phase: Phase,
    context: FitContext,
    groups: Sequence[Stacked],
    losses: Mapping[Member, float],
    feed: Feed | None,
    *,
    batch_size: int,
    keep_best: bool,
) -> dict[Member, NDArray[Any]]:
    """Evaluate ``groups`` on ``feed``, if there is one: a row a member, the scores or the best kept.

    Returns:
        What each member scored on each example, ``(n,)``.
    """
    scores: dict[Member, NDArray[Any]] = {}
    values: dict[Member, float] = {}
    if feed is not None and groups:
        keep: Keep = "predictions" if keep_best else "scores"
        records = predict_all(groups, feed, batch_size, context.task, keep)
        targets, metric = feed.targets, context.metric
        for group, record in zip(groups, records, strict=True):
            found = metric.needed_scores(Arrays(record), targets)
            scores |= zip(group.members, found, strict=True)
            if metric.exact is None:
                value = metric.mean(found, targets)
            else:
                value = metric.value(Arrays(record), targets)
            values |= zip(group.members, value.tolist(), strict=True)
        if keep_best:
            of_groups = [metric.sign * np.array([values[m] for m in g.members]) for g in groups]
            _keep_best(phase, groups, of_groups, records)
    evaluations = phase.evaluations
    number = phase.epoch - 1 if evaluations is None else bisect(evaluations, phase.epoch) - 1
    count = context.protocol.epochs if evaluations is None else len(evaluations)
    numbers = {member: g for g, member in enumerate(phase.members)}
    for group in groups:
        for member in group.members:
            if member in scores and not keep_best:
                phase.keep_scores(number, numbers[member], scores[member], count)
            phase.rows.append(phase.row(member, losses[member], values.get(member)))
    return scores


def _keep_best(
    phase: Phase,
    groups: Sequence[Stacked],
    scores: Sequence[NDArray[np.float64]],
    records: Sequence[Record],
) -> None:
    if not phase.best:
        phase.best = [
            Best(
                score,
                np.full(len(group), phase.epoch),
                record,
                [group.probe(g) for g in range(len(group))],
            )
            for group, score, record in zip(groups, scores, records, strict=True)
        ]
        return
    for best, group, score, record in zip(phase.best, groups, scores, records, strict=True):
        for g in np.flatnonzero(score > best.score):
            best.score[g], best.epoch[g] = score[g], phase.epoch
            best.probes[g] = group.probe(int(g))
            for name, tensor in record.items():
                best.record[name][g] = tensor[g]
