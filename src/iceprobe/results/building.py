"""Results from predictions: the metrics of their task, and provenance."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.results.enough import caveat
from iceprobe.results.fitted import FittedResult
from iceprobe.results.intervals import interval_of
from iceprobe.results.predictions import Predictions, Recorded
from iceprobe.results.schema import Flops, Score
from iceprobe.tasks.linearised import at_equal_weights
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
    found, record, labels = {}, predictions.record, predictions.labels
    outputs = _outputs(record, labels)
    for name, metric in get_task(task).metrics.items():
        wanted = metric.by_itself(outputs) or name in names
        if wanted and (scores := metric.scores(record, labels)) is not None:
            found[name] = _score(metric, record, labels, predictions.groups, scores)
    return found


def score_of(predictions: Predictions, task: str, name: str) -> Score:
    """One metric of a finished run.

    Raises:
        IceprobeError: if ``task`` has no metric of that name, the predictions don't allow it, or it is
            undefined for their targets.
    """
    metric, record, labels = get_task(task).metric(name), predictions.record, predictions.labels
    scores = metric.needed_scores(record, labels)
    return _score(metric, record, labels, predictions.groups, scores)


def led_by(result: FittedResult, name: str) -> FittedResult:
    """The result with another metric in front, computed from its predictions.

    Raises:
        IceprobeError: as :func:`score_of`, or if no predictions were kept.
    """
    predictions, metric = result.needed_predictions(), get_task(result.task).metric(name)
    if (
        result.folds is not None
        and metric.formula is not None
        and at_equal_weights(metric.formula, predictions.record, predictions.labels) is None
    ):
        # It reads thresholds, which folds don't keep.
        raise IceprobeError(
            f"{metric.title} can't be computed of out-of-fold predictions: fit with --protocol heldout"
        )
    score = score_of(predictions, result.task, name)
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


def _score(
    metric: Metric,
    record: Recorded,
    labels: NDArray[Any],
    groups: NDArray[np.int64] | None,
    scores: NDArray[Any],
) -> Score:
    formula = metric.formula is not None
    values = metric.value(record, labels) if formula else metric.mean(scores, labels)
    found = interval_of(metric, record, labels, groups, scores=scores)
    if found is None:
        return Score.of(values, caveat=caveat(metric, labels, groups))
    return Score.of(values, found.ends, method=found.method, caveat=found.caveat)


def _outputs(record: Recorded, labels: NDArray[Any]) -> int:
    """K; of classes without logits the number of those that occur."""
    if labels.ndim > 1:
        return labels.shape[1]
    if record.logits is not None:
        return record.logits.shape[-1]
    highest = [int(one.max(initial=0)) for one in (labels, record.predicted) if one is not None]
    return 1 + max(highest)


def flops_of(probe: Any, num_tokens: int, num_prefix: int) -> Flops:
    """Of a fitted probe for one image of ``num_tokens`` patch and ``num_prefix`` prefix tokens."""
    return Flops(
        per_image=probe.flops(num_tokens, num_prefix), per_step=2 * probe.pooling.macs_per_step()
    )
