"""A metric of single outputs, with intervals that a report can wait for."""

from collections.abc import Sequence

import numpy as np

from iceprobe.results.fitted import FittedResult
from iceprobe.results.intervals import FEW_UNITS, Method, interval_of
from iceprobe.results.predictions import Logits, Predictions
from iceprobe.results.units import number_of
from iceprobe.tasks.registry import get_task


def only(predictions: Predictions, output: int) -> Predictions:
    """The predictions of one tag or number, of its known examples."""
    targets = np.asarray(predictions.labels)[:, [output]]
    known = ~np.isnan(targets[:, 0]) if targets.dtype.kind == "f" else targets[:, 0] <= 1
    logits = predictions.logits()
    found = predictions.predicted
    return Predictions(
        targets[known],
        None if found is None else np.asarray(found)[:, known][..., [output]],
        outputs=[]
        if logits is None
        else [Logits(np.asarray(logits.values)[:, known][..., [output]])],
        groups=None if predictions.groups is None else predictions.groups[known],
    )


def intervals_of(
    one: FittedResult, name: str, outputs: Sequence[int]
) -> dict[int, tuple[float, float] | None]:
    """The 95% interval of a metric of each of some outputs; None where it is undefined.

    A single output's is the result's. Of several they are by the slopes of the metric, or by the jackknife of
    few units: the bootstrap of many takes minutes.
    """
    predictions, metric = one.needed_predictions(), get_task(one.task).metric(name)
    if one.classes == 1 and name in one.metrics:
        return dict.fromkeys(outputs, one.metrics[name].interval)
    found: dict[int, tuple[float, float] | None] = {}
    for output in outputs:
        mine = only(predictions, output)
        found[output] = None
        if metric.missing(mine.record, mine.labels) is None:
            few = number_of(mine.groups, len(mine.labels)) < FEW_UNITS
            method: Method = "jackknife" if few else "linearised"
            mean = interval_of(metric, mine.record, mine.labels, mine.groups, method=method)
            found[output] = None if mean is None else mean.ends
    return found
