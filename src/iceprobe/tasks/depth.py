"""Depth: one number a pixel (a distance, a height, a temperature), K = 1 a patch.

    loss = Σ_p ((ŷ_p − y_p) / σ)² / number of known pixels        ŷ = σ z + μ

z are the outputs of patches, upsampled to the pixels; μ and σ are mean and deviation of the known pixels of
the training split. So the loss is the mean squared error on standardised targets, and predictions are in the
target's own unit. A pixel is known if its number is finite and above 0; unknown ones are NaN in a store, and
count nowhere. A record holds four sums an image, ``(G, n)`` each (`pixel_formulas.depth_sums`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.linearised import of_fields
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.pixels import PixelTask
from iceprobe.tasks.task import Keep

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record

LARGEST = 3e38  # of float32
FINEST = 1e-5  # deviation by mean, below which float32 rounds the predictions too much
_KNOWN = "a pixel whose number is known"

METRICS = (
    Metric(
        "rmse", "RMSE", formula=of_fields("pixel_formulas:depth_rmse", "squares", "pixels", targets=False),
        needs=_KNOWN, higher_is_better=False, range=(0.0, None), percent=False, unit_of_target=True,
        note="root of the mean over known pixels of the squared error",
    ),
    Metric(
        "delta1", "δ1", formula=of_fields("pixel_formulas:delta1", "within", "pixels", targets=False),
        needs=_KNOWN,
        note="share of known pixels whose prediction is within a factor of 1.25 of the target",
    ),
    Metric(
        "abs_rel", "absRel", formula=of_fields("pixel_formulas:abs_rel", "relative", "pixels", targets=False),
        needs=_KNOWN, higher_is_better=False, range=(0.0, None), percent=False,
        note="mean over known pixels of the absolute error by the target",
    ),
)  # fmt: skip


class Depth(PixelTask):
    """One number a pixel. Targets of a batch are ``(B, S, S)``; of an image there is no other label."""

    name: ClassVar[str] = "depth"
    outputs: ClassVar[str] = "numbers"
    metrics: ClassVar[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
    primary: ClassVar[str] = "rmse"
    map: ClassVar[str] = "depth"

    def num_outputs(self, names: Sequence[str]) -> int:
        return 1

    def targets(self, given: Any, split: str) -> NDArray[np.int64]:
        """Zeros ``(n,)``: the numbers are in the maps."""
        return np.zeros(len(given), np.int64)

    def truth(self, maps: "Tensor", labels: "Tensor") -> "Tensor":
        return maps

    def learning_pixels(self, parts: Iterable["Tensor"]) -> Self:
        """With μ and σ of the known pixels of ``parts``, in float64."""
        import torch

        count, mean, squares = 0, 0.0, 0.0  # squares: Σ (y − mean)²
        for part in parts:
            numbers = part[known(part)].double()
            if not len(numbers):
                continue
            here, off = len(numbers), float(numbers.mean()) - mean
            squares += float((numbers - numbers.mean()).square().sum())
            squares += off**2 * count * here / (count + here)
            mean, count = mean + off * here / (count + here), count + here
        if not count:
            raise IceprobeError(_nothing_known("train"))
        deviation = math.sqrt(squares / count)
        if deviation <= FINEST * mean:
            raise IceprobeError(
                f"the numbers of train's known pixels are all the same ({mean:g}), or differ in their "
                "last digits only: there is nothing to learn from them"
            )
        of_one = (torch.tensor([one], dtype=torch.float64) for one in (mean, deviation))
        return self.bound(scaling=tuple(of_one))

    def check_pixels(self, parts: Iterable["Tensor"], split: str) -> None:
        if not any(bool(known(part).any()) for part in parts):
            raise IceprobeError(_nothing_known(split))

    def loss(
        self, logits: "Tensor", targets: "Tensor", everyone: "Tensor | None" = None
    ) -> "Tensor":
        """Of predictions ``(G, B, 1, S, S)``, in the target's unit."""
        import torch

        there, predicted = known(targets), logits.squeeze(-3)
        errors = torch.where(there, predicted - torch.where(there, targets, 0.0), 0.0)
        if self.scaling is not None:
            errors = errors / self.scaling[1].to(errors)
        counted = there if everyone is None else known(everyone)
        loss: Tensor = errors.square().sum((-3, -2, -1)) / counted.sum().clamp(min=1)
        return loss

    def record(self, logits: "Tensor", targets: "Tensor", keep: Keep = "everything") -> "Record":
        import torch

        from iceprobe.tasks.pixel_formulas import depth_sums

        found = logits.double().nan_to_num(LARGEST, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
        sums = depth_sums(found.squeeze(2).cpu().numpy(), targets.cpu().numpy())
        return {name: torch.from_numpy(np.array(each)) for name, each in sums.items()}

    def as_hard_as(self, outputs: int) -> float:
        return math.e  # guessing the mean has the loss 1

    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        """The mean over an image's pixels, in the target's unit: of logits ``(B, 1, S, S)``."""
        return [[(names[0], float(one.mean()))] for one in logits]


def _nothing_known(split: str) -> str:
    return f"no pixel of {split} has a known number (finite and above 0): mend the maps"


def known(targets: "Tensor") -> "Tensor":
    """Which pixels have a number: finite and above 0."""
    return targets.isfinite() & (targets > 0)
