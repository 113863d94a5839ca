"""Segmentation: one class a pixel, K = C classes a patch, background (0) among them.

    loss = −ln softmax(z)_y, mean over the pixels of a batch that have a class

z are the logits of patches, upsampled to the masks' pixels. A record counts pixels: ``hits``, ``truth``
and ``called (G, n, C)`` of each image, and one ``confusion (G, C, C)`` of all images, truth by
prediction (`tasks/miou.py`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.linearised import of_fields
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.miou import IGNORE, count
from iceprobe.tasks.pixels import PixelTask
from iceprobe.tasks.targets import class_indices, unseen_classes
from iceprobe.tasks.task import Keep

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record


METRICS = (
    Metric(
        "miou", "mIoU",
        formula=of_fields("pixel_formulas:mean_iou", "hits", "truth", "called", targets=False),
        note="intersection over union of all pixels, mean over the classes that occur",
    ),
    Metric(
        "pixel_accuracy", "pixel accuracy",
        formula=of_fields("pixel_formulas:pixel_accuracy", "hits", "truth", targets=False),
        needs="a pixel that has a class",
        note="share of pixels called right, background among them",
    ),
)  # fmt: skip


class Segmentation(PixelTask):
    """One class a pixel. Targets of a batch are classes of pixels, ``(B, S, S)``."""

    name: ClassVar[str] = "segmentation"
    outputs: ClassVar[str] = "classes"
    metrics: ClassVar[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
    primary: ClassVar[str] = "miou"
    map: ClassVar[str] = "mask"
    summed: ClassVar[frozenset[str]] = frozenset({"confusion"})

    def num_outputs(self, names: Sequence[str]) -> int:
        return 1 + len(names)

    def targets(self, given: Any, split: str) -> NDArray[np.int64]:
        """The class of the object of each image, ``(n,)``."""
        return class_indices(given, split)

    def check_trained(self, targets: NDArray[Any], names: Sequence[str]) -> str | None:
        return unseen_classes(targets, names)

    def truth(self, maps: "Tensor", labels: "Tensor") -> "Tensor":
        return truth_of_masks(maps, labels)

    def loss(
        self, logits: "Tensor", targets: "Tensor", everyone: "Tensor | None" = None
    ) -> "Tensor":
        """Of logits ``(G, B, C, S, S)``."""
        from torch.nn import functional as F

        members, images = logits.shape[:2]
        wanted = targets.long().expand(members, *targets.shape).flatten(0, 1)
        losses = F.cross_entropy(
            logits.flatten(0, 1), wanted, ignore_index=IGNORE, reduction="none"
        )
        total = losses.reshape(members, images, -1).sum((1, 2))
        return total / known_pixels(targets if everyone is None else everyone)

    def record(self, logits: "Tensor", targets: "Tensor", keep: Keep = "everything") -> "Record":
        import torch

        called, truth = logits.argmax(2).cpu().numpy(), targets.cpu().numpy()
        counts = [count(truth, one, logits.shape[2]) for one in called]
        return {
            name: torch.from_numpy(np.stack([getattr(one, name) for one in counts]))
            for name in ("confusion", "hits", "truth", "called")
        }

    def strata(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """By the classes of images, ``(n,)``."""
        return targets

    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        """The classes that most pixels are called, with their share; background is first of names."""
        found = []
        for called in logits.argmax(1).flatten(1).cpu().numpy():
            share = np.bincount(called, minlength=len(names)) / len(called)
            best = np.argsort(-share, kind="stable")[:most]
            found.append([(names[c], float(share[c])) for c in best])
        return found


def known_pixels(truth: "Tensor") -> "Tensor":
    """How many pixels have a class, 1 at least."""
    return (truth != IGNORE).sum().clamp(min=1)


def truth_of_masks(masks: "Tensor", labels: "Tensor") -> "Tensor":
    """Classes of pixels: ``(B, S, S)`` of 0 and 1, ``(B,)`` → ``(B, S, S)`` uint8.

    0 is background, the image's label + 1 the object. A mask without a pixel on the object is ignored:
    its image may have none.
    """
    import torch

    on = masks > 0
    known = on.flatten(1).any(1)[:, None, None]
    truth = torch.where(on, labels[:, None, None] + 1, 0)
    return torch.where(known, truth, IGNORE).to(torch.uint8)
