"""A metric by the values of columns of the data set (site, sex, …): where a probe is worst. Nothing is refitted.

Each value's score is that of its test examples alone, with their own interval over examples or groups
(`results/intervals.py`).
"""

from collections.abc import Sequence

import numpy as np

from iceprobe.results.building import score_of
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Slice, Slices
from iceprobe.tasks.registry import get_task


def slices_of(predictions: Predictions, task: str, name: str | None = None) -> list[Slices]:
    """The metric called ``name``, the task's primary one by default, by each column of slices.

    An interval of a value with fewer than 10 examples, groups or positives isn't trusted: its score says so.

    Raises:
        IceprobeError: if the task has no such metric, or the predictions don't allow it at all.
    """
    metric = get_task(task).metric(name)
    metric.needed_scores(predictions.record, predictions.labels)
    found = []
    for column, (codes, names) in predictions.slices.items():
        values = [
            _slice(predictions.rows(codes == code), task, metric.name, value)
            for code, value in enumerate(names)
            if (codes == code).any()
        ]
        found.append(
            Slices(
                column=column, metric=metric.name, values=values, worst=_worst(values, metric.sign)
            )
        )
    return found


def _slice(predictions: Predictions, task: str, name: str, value: str) -> Slice:
    labels, groups = predictions.labels, predictions.groups
    why = get_task(task).metric(name).missing(predictions.record, labels)
    return Slice(
        value=value,
        images=len(labels),
        groups=None if groups is None else len(np.unique(groups)),
        score=score_of(predictions, task, name) if why is None else None,
        why=why,
    )


def trusted(values: Sequence[Slice]) -> dict[str, float]:
    """Scores of the values whose intervals can be trusted."""
    scored = {one.value: one.score for one in values if one.score is not None}
    return {value: score.mean for value, score in scored.items() if score.caveat is None}


def _worst(values: Sequence[Slice], sign: int) -> str | None:
    found = trusted(values)
    return min(found, key=lambda value: sign * found[value]) if len(found) > 1 else None
