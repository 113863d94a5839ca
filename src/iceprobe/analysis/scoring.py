"""A run's leading metric on the images of an analysis, as a value an image whose mean is the metric.

Of a metric that is a mean over images, the value is n·w_i·s_i; of another (mAP, R²) it is linearised, with the
spread of its influence (`tasks/metrics.py`). So a change of the metric has a value an image as well.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.results.schema import Result
from iceprobe.tasks.records import Arrays, Record, joined
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.task import Keep

Values = NDArray[np.float64]
_KEPT: tuple[Keep, ...] = ("scores", "predictions")


class Scoring:
    """The leading metric of a result.

    Args:
        result: whose task and metric.
        targets: of the images of the split.
    """

    def __init__(self, result: Result, targets: NDArray):
        self.task, self.metric = get_task(result.task), result.metric
        self.targets = np.asarray(targets)
        self._keep: Keep | None = None

    def record(self, logits: Tensor, targets: Tensor) -> Record:
        """Of some images, as small as the metric allows: logits ``(G, B, K)``."""
        if self._keep is None:
            self._keep = self._smallest(logits, targets)
        return self.task.record(logits, targets, self._keep)

    def values(self, parts: Sequence[Record], rows: NDArray[np.int64] | None = None) -> Values:
        """Values of the images, of all or of these rows of the split: ``(G, n)``.

        Raises:
            IceprobeError: if the metric is undefined for them.
        """
        targets = self.targets if rows is None else self.targets[rows]
        scores = self.metric.needed_scores(Arrays(joined(parts, self.task.summed)), targets)
        found = np.asarray(scores, np.float64)
        return found if self.metric.strata is None else found * self.metric.weights(targets) * len(targets)  # fmt: skip

    def _smallest(self, logits: Tensor, targets: Tensor) -> Keep:
        """What has to be kept for the metric."""
        for keep in _KEPT:
            record = Arrays(self.task.record(logits, targets, keep))
            if self.metric.scores(record, targets.cpu().numpy()) is not None:
                return keep
        return "everything"
