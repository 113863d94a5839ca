"""Classification: one class an example, K = C classes.

loss = −ln softmax(z)_y, mean over examples          record: z in float16, what it calls, the five best
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

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


class Called(Protocol):
    """What the metrics read of a record.

    Attributes:
        predicted: ``(S, n)``, the class that each seed calls an example.
        top5: ``(S, n)`` bool, whether the true class is among the five best; None where that isn't known.
    """

    @property
    def predicted(self) -> NDArray[np.int32]: ...
    @property
    def top5(self) -> NDArray[np.bool_] | None: ...


def _right(record: Called, labels: NDArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = record.predicted == labels
    return found


def _among_five(record: Called, labels: NDArray) -> NDArray[np.bool_] | None:
    return record.top5


def _class(labels: NDArray) -> NDArray:
    return labels


class Classification(Task):
    """One class an example."""

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "one class an example"
    metrics: ClassVar[Mapping[str, Metric]] = {
        metric.name: metric
        for metric in (
            Metric("top1", "top-1", _right, accuracy=True),
            Metric("top5", "top-5", _among_five, accuracy=True),
            Metric(
                "mean_per_class",
                "mean per class",
                _right,
                _class,
                accuracy=True,
                heading="per class",
            ),
        )
    }
    primary: ClassVar[str] = "top1"

    def num_outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        from torch.nn import functional as F  # results read the metrics alone, without torch

        members, examples, _ = logits.shape
        losses = F.cross_entropy(logits.flatten(0, 1), targets.repeat(members), reduction="none")
        return losses.view(members, examples).mean(1)

    def record(self, logits: "Tensor") -> ClassRecord:
        import torch

        best = logits.topk(min(TOP, logits.shape[-1]), dim=-1).indices
        finite = logits.isfinite().all(-1, keepdim=True)
        kept = torch.where(finite, best, -1).to("cpu", torch.int32)
        return ClassRecord(logits.to("cpu", torch.float16).numpy(), kept.numpy())

    def strata(self, targets: NDArray) -> NDArray[np.int64]:
        return targets

    def reading(self, logits: "Tensor", names: Sequence[str]) -> str:
        return names[int(logits.argmax())]
