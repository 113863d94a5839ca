"""Fitted dense probes → results: the fields that all share, and those of each task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.dense.protocol import DenseContext, FittedDense
from iceprobe.protocols.protocol import images_per_step
from iceprobe.results import image_draws
from iceprobe.results.dense import Dense, Difference, Selection
from iceprobe.results.depth import Depth, TrainingMean
from iceprobe.results.enough import caveat
from iceprobe.results.schema import Flops, Score
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.undertrained import signs_of_undertraining
from iceprobe.store.reader import Store
from iceprobe.tasks import miou
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.pixel_formulas import depth_sums
from iceprobe.tasks.records import Arrays, joined

IMAGES_AT_ONCE = 256  # of maps that are read to score the training mean

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """What a result is made of beside its fitted probe.

    Attributes:
        origin: fields on where it comes from (`results/provenance.py`), the same for all of a run.
        groups: ``(n,)`` of the reported images, if there are any: intervals are over them.
        seconds: of the whole fit.
    """

    context: DenseContext
    store: Store
    split: str
    origin: Mapping[str, Any]
    groups: NDArray[np.int64] | None
    seconds: float

    def draws(self, fitted: FittedDense, metric: Metric) -> Draws:
        """The metric of each bootstrap draw, mean over seeds: ``(W,)``, the same images for all probes."""
        targets = self.store[self.split].labels

        def of_weights(weights: NDArray[np.float64]) -> Draws:
            return metric.resampled(fitted.record, targets, weights).mean(0)

        return image_draws.resampled(of_weights, len(targets), self.groups)

    def score(self, fitted: FittedDense, metric: Metric, drawn: Draws | None = None) -> Score:
        """A metric with its interval; ``drawn`` are its draws, if they are there already."""
        labels = self.store[self.split].labels
        values = metric.value(fitted.record, labels)
        drawn = self.draws(fitted, metric) if drawn is None else drawn
        why = caveat(metric, np.zeros(len(labels)), self.groups)
        return Score.of(values, image_draws.interval(drawn), method="bootstrap", caveat=why)

    def fields(self, fitted: FittedDense, kind: type[Dense], hard: float) -> dict[str, Any]:
        """The fields that results of all tasks share; ``hard`` is how many balanced classes are as hard."""
        choice, context, store = fitted.choice, self.context, self.store
        protocol, probe = context.protocol, fitted.group.probe(0)
        return {name: value for name, value in self.origin.items() if name in kind.model_fields} | {
            "probe": fitted.group.label,
            "side": store.manifest.backbone.preprocessing["image_size"],
            "selection": Selection(
                learning_rate=choice.learning_rate,
                epoch=choice.epoch,
                tried=list(protocol.learning_rates or ()),
                images=fitted.held_out,
                best_minus_median=choice.best_minus_median or 0.0,
            ),
            "training": {
                "optimizer": "adamw",
                "epochs": protocol.epochs,
                "images_per_step": images_per_step(protocol, len(store["train"])),
                "warmup_epochs": protocol.warmup_epochs,
                "run_seed": context.run_seed,
                "device": context.device.type,
            },
            "undertrained": signs_of_undertraining(
                fitted.rows,
                {"learning_rate": choice.learning_rate, "epoch": choice.epoch},
                classes=hard,
                epochs=protocol.epochs,
                steps=fitted.steps,
                learning_rates=protocol.learning_rates or (),
            ),
            "parameters": sum(p.numel() for p in probe.parameters()),
            "flops": Flops(per_image=2 * probe.macs(store.num_tokens)),
            "seeds": [member.seed for member in fitted.group.members],
            "seconds": self.seconds,
        }


def dense_results(fitted: Sequence[FittedDense], facts: Facts) -> list[Dense]:
    """A result a probe, with its modules; all but the first with their difference from that one."""
    task = facts.context.of_pixels
    draws = [facts.draws(one, task.metric()) for one in fitted]
    found: list[Dense] = []
    for one, drawn in zip(fitted, draws, strict=True):
        probes = [one.group.probe(g) for g in range(len(one.group))]
        result = MADE[task.name](one, facts, drawn).replaced(probes=probes)
        if found:
            beside = Difference(
                probe=found[0].probe,
                mean=result.score.mean - found[0].score.mean,
                interval=image_draws.interval(drawn - draws[0]),
            )
            result = result.replaced(beside=beside)
        found.append(result)
    return found


def _segmentation(fitted: FittedDense, facts: Facts, drawn: Draws) -> Segmentation:
    metric, confusions = facts.context.metric, fitted.record.confusion
    by_class = np.array([miou.iou(one) for one in confusions])
    occurring = np.isfinite(by_class).any(0)
    truth = confusions[0].sum(1)
    fields = facts.fields(fitted, Segmentation, _even_classes(truth))
    return Segmentation(
        **fields | {"class_names": ["background", *facts.store.classes]},
        miou=facts.score(fitted, metric, drawn),
        object_iou=Score.of(map(miou.object_iou, confusions)),
        pixel_accuracy=Score.of(one.trace() / max(1, one.sum()) for one in confusions),
        iou=[
            float(np.nanmean(of_class)) if there else None
            for of_class, there in zip(by_class.T, occurring, strict=True)
        ],
        all_background=float(truth[0] / max(1, truth.sum()) / max(1, np.count_nonzero(truth))),
        confusion=np.sum(confusions, 0).tolist(),
    )


def _depth(fitted: FittedDense, facts: Facts, drawn: Draws) -> Depth:
    task, store = facts.context.of_pixels, facts.store
    rmse, delta1, abs_rel = task.metrics.values()
    assert task.scaling is not None
    mean, deviation = (float(one) for one in task.scaling)
    units = store.manifest.dataset.units
    fields = facts.fields(fitted, Depth, task.as_hard_as(1))
    return Depth(
        **fields,
        number=store.classes[0],
        unit=units[0] if units else "",
        rmse=facts.score(fitted, rmse, drawn),
        delta1=facts.score(fitted, delta1),
        abs_rel=facts.score(fitted, abs_rel),
        mean=mean,
        deviation=deviation,
        pixels=int(fitted.record.pixels[0].sum()),
        all_pixels=len(store[facts.split]) * fields["side"] ** 2,
        training_mean=_training_mean(mean, facts),
    )


def _training_mean(mean: float, facts: Facts) -> TrainingMean:
    """What the training mean scores at every pixel of the reported split."""
    split, parts = facts.store[facts.split], []
    for start in range(0, len(split), IMAGES_AT_ONCE):
        maps = split.depths(np.arange(start, min(start + IMAGES_AT_ONCE, len(split)))).numpy()
        parts.append(depth_sums(np.full((1, *maps.shape), mean), maps))
    sums = joined([{n: torch.from_numpy(one) for n, one in part.items()} for part in parts])
    record = Arrays(sums)
    metrics = facts.context.task.metrics
    return TrainingMean(
        **{n: float(one.value(record, split.labels)[0]) for n, one in metrics.items()}
    )


def _even_classes(pixels: NDArray[np.int64]) -> float:
    """Number of equal classes that are as hard to guess: e to the entropy of the pixels' classes.

    Most pixels are background, so the loss is far below log C before any training.
    """
    share = pixels[pixels > 0] / max(1, pixels.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


#: By the task's name.
MADE: Mapping[str, Callable[[FittedDense, Facts, Draws], Dense]] = {
    "segmentation": _segmentation,
    "depth": _depth,
}
