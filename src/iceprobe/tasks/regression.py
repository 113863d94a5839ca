"""Regression: one or several numbers an example, K = number of numbers.

    loss = Σ_ik ((ŷ_ik − y_ik) / σ_k)² / number of known cells        ŷ_k = σ_k z_k + μ_k

μ and σ are mean and deviation of the training targets: the loss is the mean squared error on standardised
targets, and predictions are in the target's own unit. Targets are ``(n, K)`` float64, NaN where one isn't
known: then it counts nowhere. A record holds ``predicted (G, n, K)`` float32.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.number_metrics import METRICS
from iceprobe.tasks.targets import known, numbers, some
from iceprobe.tasks.task import ClassWeight, Keep, Task

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record

BINS = 10  # quantile bins of the first number that the held-out part is stratified by
LARGEST = 3e38  # of float32
FINEST = 1e-5  # deviation by mean, below which float32 rounds the predictions too much


class Regression(Task):
    """One or several numbers an example."""

    name: ClassVar[str] = "regression"
    outputs: ClassVar[str] = "numbers"
    metrics: ClassVar[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
    primary: ClassVar[str] = "r2"
    target_dtype: ClassVar[str] = "float64"
    several: ClassVar[bool] = True
    solver: ClassVar[str | None] = "squares"

    def num_outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def targets(self, given: Any, split: str) -> NDArray[np.float64]:
        return numbers(given, split)

    def check_trained(self, targets: NDArray[Any], names: Sequence[str]) -> str | None:
        counts = known(targets).sum(0)
        if len(missing := np.flatnonzero(counts == 0)):
            return f"no known training value of {some([names[k] for k in missing.tolist()])}"
        spans = np.nanmax(targets, 0) - np.nanmin(targets, 0)
        if len(constant := np.flatnonzero(spans == 0)):
            first = int(constant[0])
            value = float(np.nanmax(targets[:, first]))
            named = some([names[k] for k in constant.tolist()])
            return f"the training values of {named} are all the same ({value:g})"
        fine = np.nanstd(targets, 0) < FINEST * np.abs(np.nanmean(targets, 0))
        if len(offset := np.flatnonzero(fine)):
            named = some([names[k] for k in offset.tolist()])
            return f"the training values of {named} differ in their last digits only (subtract their mean)"
        return None

    def learning(self, targets: NDArray[Any], class_weight: ClassWeight = "none") -> Self:
        import torch

        # A number may be in no example of a fold.
        of = np.where(known(targets).any(0), targets, 0.0)
        mean, deviation = np.nanmean(of, 0), np.nanstd(of, 0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        return self.bound(scaling=(torch.from_numpy(mean), torch.from_numpy(deviation)))

    def loss(
        self, logits: "Tensor", targets: "Tensor", everyone: "Tensor | None" = None
    ) -> "Tensor":
        errors = (logits - targets).nan_to_num(0.0)
        if self.scaling is not None:
            errors = errors / self.scaling[1].to(errors)
        counted = (targets if everyone is None else everyone).isnan().logical_not()
        loss: Tensor = errors.to(logits.dtype).square().sum((-2, -1)) / counted.sum().clamp(min=1)
        return loss

    def record(self, logits: "Tensor", targets: "Tensor", keep: Keep = "everything") -> "Record":
        import torch

        found = logits.double().nan_to_num(LARGEST, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
        return {"predicted": found.to("cpu", torch.float32)}

    def voted(
        self,
        weights: "Tensor",
        neighbours: "Tensor",
        outputs: int,
        targets: "Tensor",
        keep: Keep = "everything",
    ) -> "Record":
        """The weighted mean of the neighbours' known targets; without a known one that of all neighbours
        of all examples."""
        import torch

        there = neighbours.isnan().logical_not()
        each = weights[..., None] * there
        mean = (each * neighbours.nan_to_num(0.0)).sum(1) / each.sum(1)
        usual = neighbours.flatten(0, 1).nanmean(0)
        return {"predicted": torch.where(mean.isnan(), usual, mean)[None].to("cpu", torch.float32)}

    def strata(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """By quantiles of the first number; examples without it are the last stratum."""
        first = targets[:, 0]
        there = ~np.isnan(first)
        bins = int(np.clip(there.sum() // 20, 1, BINS))
        edges = np.quantile(first[there], np.linspace(0, 1, bins + 1)[1:-1]) if bins > 1 else []
        return np.where(there, np.searchsorted(edges, first, side="right"), bins)

    def as_hard_as(self, outputs: int) -> float:
        return math.e  # guessing the mean has the loss 1

    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        """Every number by its name, in the target's unit."""
        return [list(zip(names, row, strict=True)) for row in logits.tolist()]
