"""Classification: one class an example, K = C classes.

loss = −ln softmax(z)_y, mean over examples          record: z in float16, what it calls, the five best
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.tasks.metrics import Metric, by_class, evenly
from iceprobe.tasks.task import Task

TOP = 5


@dataclass(frozen=True)
class ClassRecord:
    """What is kept of n test examples of S seeds.

    Attributes:
        logits: ``(S, n, C)`` float16; None in files of earlier versions.
        best: ``(S, n, min(5, C))`` int32, best first, by the logits before they were rounded; −1 where
            a logit isn't finite.
    """

    logits: NDArray[np.float16] | None
    best: NDArray[np.int32]


def _right(record: ClassRecord, labels: NDArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = record.best[..., 0] == labels
    return found


def _among_five(record: ClassRecord, labels: NDArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (record.best == labels[None, :, None]).any(-1)
    return found


class Classification(Task):
    """One class an example."""

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "one class an example"
    metrics: ClassVar[Mapping[str, Metric]] = {
        metric.name: metric
        for metric in (
            Metric("top1", "top-1", _right, evenly),
            Metric("top5", "top-5", _among_five, evenly),
            Metric("mean_per_class", "mean per class", _right, by_class),
        )
    }
    primary: ClassVar[str] = "top1"

    def num_outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        members, examples, _ = logits.shape
        losses = F.cross_entropy(logits.flatten(0, 1), targets.repeat(members), reduction="none")
        return losses.view(members, examples).mean(1)

    def record(self, logits: Tensor) -> ClassRecord:
        best = logits.topk(min(TOP, logits.shape[-1]), dim=-1).indices
        finite = logits.isfinite().all(-1, keepdim=True)
        kept = torch.where(finite, best, -1).to("cpu", torch.int32)
        return ClassRecord(logits.to("cpu", torch.float16).numpy(), kept.numpy())

    def strata(self, targets: NDArray) -> NDArray[np.int64]:
        return targets

    def reading(self, logits: Tensor, names: Sequence[str]) -> str:
        return names[int(logits.argmax())]
