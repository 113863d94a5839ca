"""Classification: one class an example, K = C classes.

    loss = −w_y ln softmax(z)_y, mean over examples      w = 1, or balanced: n / (C n_c)

A record holds ``predicted (G, n)`` int32, the class with the highest logit, and with more than five
classes ``top5 (G, n)`` bool, whether the true class is among the five highest. Both are of the logits
before they are rounded; a member with a logit that isn't finite predicts −1, which is no class. For
later metrics it keeps ``logits (G, n, C)`` float16, or of more than 2,000 classes the 20 highest with
their classes (``logits (G, n, 20)``, ``logit_classes (G, n, 20)`` int32) and ``log_sum_exp (G, n)``
float32 of all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.linearised import Formula, of_fields
from iceprobe.tasks.metrics import BINS, Metric
from iceprobe.tasks.targets import class_indices, unseen_classes
from iceprobe.tasks.task import ClassWeight, Keep, Task

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record

TOP = 5
MANY, KEPT = 2000, 20  # of more classes than MANY the logits of the KEPT highest are kept


def _right(record: Any, labels: NDArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = record.predicted == labels
    return found


def _of_all_logits(name: str) -> Formula:
    """A formula that needs the logits of all classes."""
    found = of_fields(f"class_formulas:{name}", "logits")

    def formula(record: Any, targets: NDArray, weights: "Tensor") -> "Tensor | None":
        return found(record, targets, weights) if record.logit_classes is None else None

    return formula


def _log_loss(record: Any, targets: NDArray) -> NDArray | None:
    if record.logits is None or record.logit_classes is not None:
        return None
    from iceprobe.tasks.class_formulas import log_loss

    found: NDArray = log_loss(record.logits, targets).numpy()
    return found


def _ece(record: Any, targets: NDArray, weights: "Tensor") -> "Tensor | None":
    if record.logits is None:
        return None
    from iceprobe.tasks.class_formulas import ece

    return ece(record.logits, record.predicted, targets, weights, record.log_sum_exp)


_TWO = "examples of two classes"
METRICS = (
    Metric("top1", "top-1", _right, accuracy=True, note="share of examples whose highest logit is right"),
    Metric(
        "top5", "top-5", lambda record, labels: record.top5, accuracy=True,
        note="share of examples whose class is among the five highest logits",
    ),
    Metric(
        "mean_per_class", "mean per class", _right, strata=lambda labels: labels, accuracy=True,
        heading="per class", note="mean over classes of the top-1 inside a class (balanced accuracy)",
    ),
    Metric(
        "f1_macro", "macro-F1", formula=of_fields("class_formulas:f1_macro", "predicted"),
        note="mean over classes of F1, the harmonic mean of precision and recall",
    ),
    Metric(
        "auroc", "AUROC", formula=_of_all_logits("auroc"), needs=_TWO, most_outputs=20,
        note="area under the ROC curve, one class against the rest, mean over classes",
    ),
    Metric(
        "ap", "average precision", formula=_of_all_logits("ap"), needs=_TWO, most_outputs=20,
        heading="AP", note="average precision, one class against the rest, mean over classes",
    ),
    Metric(
        "log_loss", "log loss", _log_loss, higher_is_better=False, range=(0.0, None), percent=False,
        note="−ln of the probability of the true class, mean over examples, in nats",
    ),
    Metric(
        "ece", "calibration error", formula=_ece, higher_is_better=False, heading="ECE",
        counts="examples",
        note=f"expected calibration error of the highest probability, {BINS} bins of equal mass",
    ),
    Metric(
        "kappa", "kappa", formula=of_fields("class_formulas:kappa", "predicted"), needs=_TWO,
        range=(-1.0, 1.0), percent=False, note="Cohen's kappa, agreement beyond chance (Cohen 1960)",
    ),
    Metric(
        "kappa_quadratic", "quadratic kappa", needs=_TWO, range=(-1.0, 1.0), percent=False,
        formula=of_fields("class_formulas:kappa_quadratic", "predicted"),
        note="Cohen's kappa with squared distances of ordered classes (Cohen 1968)",
    ),
)  # fmt: skip


class Classification(Task):
    """One class an example."""

    name: ClassVar[str] = "classification"
    outputs: ClassVar[str] = "classes"
    metrics: ClassVar[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
    primary: ClassVar[str] = "top1"
    weighs_classes: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    solver: ClassVar[str | None] = "softmax"

    def num_outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def _averaged(self, outputs: "Tensor") -> "Tensor":
        """ln mean_p softmax(z_p)."""
        return outputs.log_softmax(-1).logsumexp(-2) - math.log(outputs.shape[-2])

    def targets(self, given: Any, split: str) -> NDArray[np.int64]:
        return class_indices(given, split)

    def check_trained(self, targets: NDArray[Any], names: Sequence[str]) -> str | None:
        return unseen_classes(targets, names)

    def outside(self, targets: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
        return np.flatnonzero((targets < 0) | (targets >= len(names)))

    def learning(self, targets: NDArray[Any], class_weight: ClassWeight = "none") -> Self:
        if class_weight == "none":
            return self
        import torch

        counts = np.bincount(targets)
        weights = len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return self.bound(weights=torch.from_numpy(np.where(counts > 0, weights, 0.0)))

    def loss(
        self, logits: "Tensor", targets: "Tensor", everyone: "Tensor | None" = None
    ) -> "Tensor":
        from torch.nn import functional as F  # results read the metrics alone, without torch

        if logits.ndim == 2:
            return self.loss(logits[None], targets, everyone)[0]
        members, examples, _ = logits.shape
        losses = F.cross_entropy(logits.flatten(0, 1), targets.repeat(members), reduction="none")
        losses = losses.view(members, examples)
        if self.weights is not None:
            losses = losses * self.weights.to(losses)[targets]
        return losses.mean(1) if everyone is None else losses.sum(1) / len(everyone)

    def record(self, logits: "Tensor", targets: "Tensor", keep: Keep = "everything") -> "Record":
        import torch

        # Of equal logits torch takes any, and which one depends on how many are asked for.
        best = best_classes(logits, 1 if keep == "scores" else TOP)
        best = torch.where(logits.isfinite().all(-1, keepdim=True), best, -1)
        found = {"predicted": best[..., 0].to("cpu", torch.int32)}
        if keep != "scores" and logits.shape[-1] > TOP:
            found["top5"] = (best == targets[:, None]).any(-1).cpu()
        return found | compact(logits) if keep == "everything" else found

    def voted(
        self,
        weights: "Tensor",
        neighbours: "Tensor",
        outputs: int,
        targets: "Tensor",
        keep: Keep = "everything",
    ) -> "Record":
        """Each neighbour votes for its class with its weight; logits are the logarithms of the votes."""
        import torch

        votes = weights.new_zeros(len(neighbours), outputs).scatter_add_(1, neighbours, weights)
        best = most_voted(votes, 1 if keep == "scores" else min(TOP, outputs))
        found = {"predicted": best[None, :, 0].to(torch.int32)}
        if keep != "scores" and outputs > TOP:
            found["top5"] = (best == targets[:, None]).any(-1)[None]
        return found | compact(votes.log()[None]) if keep == "everything" else found

    def strata(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        return targets

    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        probabilities = logits.float().softmax(-1)
        classes = best_classes(probabilities, most)
        numbers = probabilities.gather(-1, classes)
        return [
            [(names[c], p) for c, p in zip(of_image, of_classes, strict=True)]
            for of_image, of_classes in zip(classes.tolist(), numbers.tolist(), strict=True)
        ]


def best_classes(logits: "Tensor", most: int) -> "Tensor":
    """The classes with the highest logits, best first: ``(…, C)`` → ``(…, min(most, C))``."""
    return logits.topk(min(most, logits.shape[-1]), dim=-1).indices


def most_voted(votes: "Tensor", top: int) -> "Tensor":
    """The ``top`` classes with the most votes, best first: ``(n, C)`` → ``(n, top)`` int64.

    Among equal votes the lower class comes first. A class without a vote is no guess: −1 replaces it.
    """
    import torch

    left, best = votes.clone(), []
    for _ in range(top):
        most, winner = left.max(1, keepdim=True)
        best.append(winner.where(most > 0, -1)[:, 0])
        left.scatter_(1, winner, 0)
    return torch.stack(best, -1)


def compact(logits: "Tensor") -> "Record":
    """Logits ``(G, n, C)`` as they are kept: float16, of many classes only the highest."""
    import torch

    if logits.shape[-1] <= MANY:
        return {"logits": logits.to("cpu", torch.float16)}
    best = logits.topk(KEPT, dim=-1)
    return {
        "logits": best.values.to("cpu", torch.float16),
        "logit_classes": best.indices.to("cpu", torch.int32),
        "log_sum_exp": logits.logsumexp(-1).to("cpu", torch.float32),
    }
