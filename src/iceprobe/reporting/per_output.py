"""A metric of single outputs, with intervals that a report can wait for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.fitted import FittedResult
from iceprobe.results.intervals import FEW_UNITS, Method, interval_of
from iceprobe.results.predictions import Logits, Predictions
from iceprobe.results.units import number_of
from iceprobe.tasks.registry import get_task


def only(predictions: Predictions, output: int, seed: int) -> Predictions:
    """One seed's predictions of one tag or number, of its known examples."""
    targets = np.asarray(predictions.labels)[:, [output]]
    known = ~np.isnan(targets[:, 0]) if targets.dtype.kind == "f" else targets[:, 0] <= 1
    logits = predictions.logits()
    found = predictions.predicted
    outputs = [] if logits is None else [Logits(_cells(logits.values, seed, known, output))]
    return Predictions(
        targets[known],
        None if found is None else _cells(found, seed, known, output),
        outputs=outputs,
        groups=None if predictions.groups is None else predictions.groups[known],
    )


def _cells(values: Any, seed: int, known: NDArray[np.bool_], output: int) -> NDArray[Any]:
    """``(S, n, K)`` → ``(1, m, 1)``."""
    found: NDArray[Any] = np.asarray(values[seed])[known][None][..., [output]]
    return found


def intervals_of(
    one: FittedResult, name: str, outputs: Sequence[int]
) -> dict[int, tuple[float, float] | None]:
    """The 95% interval of a metric of each of some outputs, for which it is defined; None of a single group.

    A single output's is the result's. Of several they are over examples or groups, of the probes as they
    were fitted: ends are means over seeds. They are by the slopes of the metric, or by the jackknife of few
    units; the bootstrap of many outputs takes minutes.
    """
    if one.classes == 1 and name in one.metrics:
        return dict.fromkeys(outputs, one.metrics[name].interval)
    predictions, metric = one.needed_predictions(), get_task(one.task).metric(name)
    found: dict[int, tuple[float, float] | None] = {}
    for output in outputs:
        of_seeds = []
        for seed in range(max(1, len(one.seeds))):
            mine = only(predictions, output, seed)
            few = number_of(mine.groups, len(mine.labels)) < FEW_UNITS
            method: Method = "jackknife" if few else "linearised"
            interval = interval_of(metric, mine.record, mine.labels, mine.groups, method=method)
            if interval is not None:
                of_seeds.append(interval.ends)
        low, high = np.mean(of_seeds, 0).tolist() if of_seeds else (0.0, 0.0)
        found[output] = (low, high) if of_seeds else None
    return found
