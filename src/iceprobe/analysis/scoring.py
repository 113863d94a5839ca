"""A run's leading metric on the images of an analysis, as a value an image whose mean is the metric.

Of a metric that is a mean over images, or per class, the value is its score s_i; of another (mAP, R²) it is
linearised, with the spread of its influence (`tasks/metrics.py`). So a change of the metric has a value an image
as well.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.results.schema import Result
from iceprobe.tasks.records import Arrays, Record, joined
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.selecting import kept_for
from iceprobe.tasks.task import Keep

Values = NDArray[np.float64]


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
            self._keep = kept_for(self.task, self.metric, logits.shape[-1], self.targets)
        return self.task.record(logits, targets, self._keep)

    def values(self, parts: Sequence[Record]) -> Values:
        """Values of the images of the split, ``(G, n)``, whose mean over the metric's strata it is.

        Raises:
            IceprobeError: if the metric is undefined for them.
        """
        record = Arrays(joined(parts, self.task.summed))
        return np.asarray(self.metric.needed_scores(record, self.targets), np.float64)
