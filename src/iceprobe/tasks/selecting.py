"""What a record must keep for a metric that selects."""

from typing import Any

import torch
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.records import Arrays
from iceprobe.tasks.task import Keep, Task

CELLS = 2**24  # of logits drawn to try: 64 MB


def kept_for(task: Task, metric: Metric, outputs: int, targets: NDArray[Any]) -> Keep:
    """What a record must keep for a metric that selects: its scores, or the logits as well.

    Args:
        task: whose record it is.
        metric: of the task.
        outputs: K.
        targets: ``(n, …)`` of the examples that select.

    Raises:
        IceprobeError: if neither suffices, or the metric is undefined for the targets.
    """
    some = max(1000, CELLS // outputs)
    targets = targets[:: max(1, len(targets) // some)]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, len(targets), outputs, generator=generator)
    of = torch.from_numpy(targets)
    if metric.scores(Arrays(task.record(drawn, of, "scores")), targets) is not None:
        return "scores"
    metric.needed_scores(Arrays(task.record(drawn, of)), targets)
    return "everything"
