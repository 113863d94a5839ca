"""Multilabel: a set of tags an example, which may be empty, K = number of tags.

    loss = −Σ_ik [ y_ik ln σ(z_ik) + (1 − y_ik) ln σ(−z_ik) ] / number of known cells

Targets are ``(n, K)`` uint8, 1 with the tag, 0 without, `UNKNOWN` where that isn't known: then the cell
counts nowhere. A probe begins at the odds of each tag in training, z_k = ln n_k/(n − n_k): a step of AdamW moves
a bias by the learning rate at most, and from 0 it wouldn't get there. With balanced class weights y_ik counts
(n − n_k)/n_k times, of the known cells of tag k, and the odds are even.
A record holds ``logits (G, n, K)`` float32; ``thresholds (G, K)`` of probabilities are tuned on held-out
examples.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.tag_metrics import METRICS
from iceprobe.tasks.targets import UNKNOWN, some, tags
from iceprobe.tasks.task import ClassWeight, Keep, Task

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record

CERTAIN = 16.0  # the largest logit that k-NN gives: σ(16) = 1 − 1e-7


class Multilabel(Task):
    """A set of tags an example."""

    name: ClassVar[str] = "multilabel"
    outputs: ClassVar[str] = "tags"
    metrics: ClassVar[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
    primary: ClassVar[str] = "map"
    target_dtype: ClassVar[str] = "uint8"
    several: ClassVar[bool] = True
    unknown: ClassVar[float] = UNKNOWN
    weighs_classes: ClassVar[bool] = True
    solver: ClassVar[str | None] = "logistic"

    def num_outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def _averaged(self, outputs: "Tensor") -> "Tensor":
        """ln p/(1 − p) of p = mean_p σ(z_p)."""
        from torch.nn.functional import logsigmoid

        return logsigmoid(outputs).logsumexp(-2) - logsigmoid(-outputs).logsumexp(-2)

    def targets(self, given: Any, split: str) -> NDArray[np.uint8]:
        return tags(given, split)

    def check_trained(self, targets: NDArray[Any], names: Sequence[str]) -> str | None:
        for value, what in ((1, "with"), (0, "without")):
            missing = np.flatnonzero(~(targets == value).any(0))
            if len(missing):
                return (
                    f"no training example {what} tag {some([names[k] for k in missing.tolist()])}"
                )
        return None

    def learning(self, targets: NDArray[Any], class_weight: ClassWeight = "none") -> Self:
        import torch

        having, lacking = ((targets == value).sum(0) for value in (1, 0))
        if class_weight == "none":
            odds = torch.from_numpy(np.log((having + 0.5) / (lacking + 0.5))).float()
            return self.bound(scaling=(odds, torch.ones_like(odds)))
        return self.bound(weights=torch.from_numpy(lacking / np.maximum(having, 1)))

    def loss(
        self, logits: "Tensor", targets: "Tensor", everyone: "Tensor | None" = None
    ) -> "Tensor":
        from torch.nn import functional as F

        known = targets != UNKNOWN
        having = (targets == 1).to(logits.dtype).expand_as(logits)
        weights = None if self.weights is None else self.weights.to(logits)
        losses = F.binary_cross_entropy_with_logits(
            logits, having, reduction="none", pos_weight=weights
        )
        counted = known if everyone is None else everyone != UNKNOWN
        return (losses * known).sum((-2, -1)) / counted.sum().clamp(min=1)

    def record(self, logits: "Tensor", targets: "Tensor", keep: Keep = "everything") -> "Record":
        import torch

        # A member that isn't finite is wrong about every cell.
        wrong = torch.where(targets == 1, -torch.inf, torch.inf).expand_as(logits)
        found = torch.where(logits.isfinite(), logits, wrong.to(logits))
        return {"logits": found.nan_to_num().to("cpu", torch.float32)}

    def tuned(self, record: "Record", targets: NDArray[Any]) -> "Record":
        """Each tag's threshold with the highest F1, ``thresholds (G, K)``."""
        import torch

        from iceprobe.tasks.tag_formulas import best_thresholds

        return {"thresholds": torch.from_numpy(best_thresholds(record["logits"], targets))}

    def voted(
        self,
        weights: "Tensor",
        neighbours: "Tensor",
        outputs: int,
        targets: "Tensor",
        keep: Keep = "everything",
    ) -> "Record":
        """The weighted mean of the neighbours' known tags, as a logit; without a known one 0, p = ½."""
        import torch

        known = neighbours != UNKNOWN
        each = weights[..., None] * known
        share = (each * (neighbours == 1)).sum(1) / each.sum(1)
        logits = torch.logit(share.nan_to_num(0.5)).clamp(-CERTAIN, CERTAIN)
        return {"logits": logits[None].to("cpu", torch.float32)}

    def strata(self, targets: NDArray[Any]) -> NDArray[Any]:
        """The tags themselves, ``(n, K)`` bool: they are dealt by iterative stratification."""
        return targets == 1

    def as_hard_as(self, outputs: int) -> float:
        return 2.0  # each cell is a guess between two

    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        """The tags with the highest probabilities."""
        best = logits.float().sigmoid().topk(min(most, logits.shape[-1]), dim=-1)
        return [
            [(names[k], p) for k, p in zip(of_example, probabilities, strict=True)]
            for of_example, probabilities in zip(
                best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]
