"""Results from predictions: the metrics of their task, and provenance."""

from collections.abc import Sequence
from typing import Any

from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Flops, Score
from iceprobe.results.statistics import accuracy_interval, score_interval
from iceprobe.tasks.registry import get_task


def built_result(
    predictions: Predictions,
    *,
    probes: Sequence[Any] | None = None,
    open_store: Any = None,
    **fields: Any,
) -> FittedResult:
    """The result of one probe, with its metrics computed.

    Args:
        predictions: on the reported split.
        probes: the fitted modules, one a seed.
        open_store: the ``Store`` that was probed.
        fields: of the record; for those of provenance see :mod:`iceprobe.results.provenance`.
    """
    made = FittedResult(metrics=scores_of(predictions, fields["task"]), **fields)
    return made.replaced(predictions=predictions, probes=probes, open_store=open_store)


def scores_of(predictions: Predictions, task: str) -> dict[str, Score]:
    """Every metric of ``task`` that the predictions allow, over seeds or replicates, with intervals."""
    found = {}
    labels, record = predictions.labels, predictions.record
    for name, metric in get_task(task).metrics.items():
        if (scores := metric.scores(record, labels)) is not None:
            interval_of = accuracy_interval if metric.fraction else score_interval
            interval = interval_of(scores, metric.strata_of(labels))
            found[name] = Score.of(metric.value(record, labels), interval)
    return found


def flops_of(probe: Any, num_tokens: int, num_prefix: int) -> Flops:
    """Of a fitted probe for one image of ``num_tokens`` patch and ``num_prefix`` prefix tokens."""
    return Flops(
        per_image=probe.flops(num_tokens, num_prefix), per_step=2 * probe.pooling.macs_per_step()
    )
