"""What a record must keep for a metric."""

from typing import Any

import torch
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.records import Arrays
from iceprobe.tasks.task import Keep, Task

CELLS = 2**24  # of logits drawn to try: 64 MB
_LESS: tuple[Keep, ...] = ("scores", "predictions")  # than everything


def kept_for(task: Task, metric: Metric, outputs: int, targets: NDArray[Any]) -> Keep:
    """The least that a record must keep for a metric.

    Args:
        task: whose record it is.
        metric: of the task.
        outputs: K.
        targets: ``(n, …)`` of the examples that are scored.

    Raises:
        IceprobeError: if nothing suffices, or the metric is undefined for the targets.
    """
    some = max(1000, CELLS // outputs)
    targets = targets[:: max(1, len(targets) // some)]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, len(targets), outputs, generator=generator)
    of = torch.from_numpy(targets)
    for keep in _LESS:
        if metric.scores(Arrays(task.record(drawn, of, keep)), targets) is not None:
            return keep
    metric.needed_scores(Arrays(task.record(drawn, of)), targets)
    return "everything"
