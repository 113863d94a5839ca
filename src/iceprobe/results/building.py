"""Results from predictions: the metrics of their task, and provenance."""

from collections.abc import Collection, Sequence
from typing import Any

from iceprobe.results.enough import caveat
from iceprobe.results.fitted import FittedResult
from iceprobe.results.intervals import interval_of
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Flops, Score
from iceprobe.tasks.metrics import Metric
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


def scores_of(predictions: Predictions, task: str, names: Collection[str] = ()) -> dict[str, Score]:
    """The metrics of ``task`` that come by themselves, and those of ``names``, with intervals.

    Each is over seeds or replicates, and over groups of examples where the predictions have some. One that
    the predictions don't allow, or that is undefined for their targets, is left out.
    """
    found, record = {}, predictions.record
    outputs = _outputs(predictions)
    for name, metric in get_task(task).metrics.items():
        wanted = metric.by_itself(outputs) or name in names
        if wanted and metric.scores(record, predictions.labels) is not None:
            found[name] = _score(metric, predictions)
    return found


def score_of(predictions: Predictions, task: str, name: str) -> Score:
    """One metric of a finished run.

    Raises:
        IceprobeError: if ``task`` has no metric of that name, the predictions don't allow it, or it is
            undefined for their targets.
    """
    return _score(get_task(task).metric(name), predictions)


def led_by(result: FittedResult, name: str) -> FittedResult:
    """The result with another metric in front, computed from its predictions.

    Raises:
        IceprobeError: as :func:`score_of`, or if no predictions were kept.
    """
    score = score_of(result.needed_predictions(), result.task, name)
    known = result.metrics | {name: score}
    ordered = {n: known[n] for n in get_task(result.task).metrics if n in known}
    if name == result.primary:
        return result.replaced(metrics=ordered)
    return result.replaced(  # the others are of the metric that selected
        primary=name,
        metrics=ordered,
        selected_score=None,
        last_epoch=None,
        best_minus_median=None,
        folds=None,
    )


def _score(metric: Metric, predictions: Predictions) -> Score:
    record, labels = predictions.record, predictions.labels
    values = metric.value(record, labels)
    found = interval_of(metric, record, labels, predictions.groups)
    if found is None:
        return Score.of(values, caveat=caveat(metric, labels, predictions.groups))
    return Score.of(values, found.ends, method=found.method, caveat=found.caveat)


def _outputs(predictions: Predictions) -> int:
    """K; of classes without logits the number of those that occur."""
    labels, logits = predictions.labels, predictions.logits()
    if labels.ndim > 1:
        return labels.shape[1]
    if logits is not None:
        return logits.values.shape[-1]
    highest = [
        int(one.max(initial=0)) for one in (labels, predictions.predicted) if one is not None
    ]
    return 1 + max(highest)


def flops_of(probe: Any, num_tokens: int, num_prefix: int) -> Flops:
    """Of a fitted probe for one image of ``num_tokens`` patch and ``num_prefix`` prefix tokens."""
    return Flops(
        per_image=probe.flops(num_tokens, num_prefix), per_step=2 * probe.pooling.macs_per_step()
    )
