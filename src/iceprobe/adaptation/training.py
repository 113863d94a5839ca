"""One training of one adapted backbone with one probe: AdamW, linear warm-up, half-cosine to 0."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from iceprobe.adaptation.coordinates import enter
from iceprobe.adaptation.examples import Examples
from iceprobe.adaptation.model import Adapted
from iceprobe.adaptation.registry import ON
from iceprobe.adaptation.steps import MicroBatch, backward, scaled
from iceprobe.backbones.base import Backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.feed import split_batches
from iceprobe.fitting.optimisers import build_optimizer, warmup_cosine
from iceprobe.loggers.session import Tell
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.probe import Probe, build_for
from iceprobe.protocols.protocol import Protocol, images_per_step
from iceprobe.results.curves import CurveRow
from iceprobe.store.format import Manifest
from iceprobe.store.forward import autocast
from iceprobe.tasks.classification import Classification
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.records import Arrays, Record, joined
from iceprobe.tasks.selecting import kept_for
from iceprobe.tasks.task import ClassWeight, Keep, Task


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        phase: ``"select"`` (on nine tenths of train) or ``"refit"`` (on all of train).
    """

    adaptation: str
    probe: str
    learning_rate: float
    weight_decay: float
    seed: int
    phase: str

    @property
    def label(self) -> str:
        return self.adaptation + ON + self.probe


@dataclass(frozen=True)
class AdaptationContext:
    """What all trainings of a run share: the task, its metric that selects, how classes count."""

    backbone: Backbone
    manifest: Manifest
    protocol: Protocol
    run_seed: int
    device: torch.device
    forward_dtype: str
    checkpointing: bool
    micro_batch: int
    augmentation: str | None
    coordinates: Mapping[str, Coordinates]
    task: Task = field(default_factory=Classification)
    metric_name: str | None = None
    class_weight: ClassWeight = "none"
    tell: Tell | None = None  # of the loggers, called with each row

    def told(self, rows: Sequence[CurveRow]) -> None:
        """Tell the loggers, if there are any, of the rows of one training."""
        if self.tell is None:
            return
        for row in rows:
            once = f"{row.phase} {row.probe} {row.learning_rate!r} {row.weight_decay!r} {row.seed}"
            self.tell(row.phase, [row], self.metric.name, once)

    @property
    def metric(self) -> Metric:
        """The metric that selects."""
        return self.task.metric(self.metric_name)

    def learning(self, examples: Examples) -> Task:
        """The task for training on these examples: its scaling and class weights are theirs."""
        return self.task.learning(examples.targets, self.class_weight)

    def build(self, probe: str, seed: int | None = None) -> Probe:
        """A probe for these tokens and outputs; with a seed, initialised by it alone."""
        outputs = self.task.num_outputs(self.manifest.dataset.classes)
        return build_for(self.manifest.shape, probe, outputs, seed, self.task)

    def model(self, task: Training) -> Adapted:
        """Initialised by the task's seed alone."""
        return Adapted(
            self.backbone,
            task.adaptation,
            enter(self.build(task.probe, task.seed), self.coordinates),
            seed=task.seed,
            checkpointing=self.checkpointing,
        )


def train(
    model: Adapted,
    task: Training,
    setting: AdaptationContext,
    examples: Examples,
    evaluate_on: Examples | None,
    micro: MicroBatch,
    stepped: Callable[[int], None],
) -> list[CurveRow]:
    """Train the fresh ``model`` in place; returns a row an epoch.

    A training ends when its loss isn't finite, with the metric's worst score.

    Args:
        examples: to learn from.
        evaluate_on: to evaluate on after each epoch.
        micro: how many examples pass the backbone at a time.
        stepped: called after each step with its number of examples.

    Raises:
        IceprobeError: if memory doesn't suffice, or a refit diverges.
    """
    protocol, metric, rows = setting.protocol, setting.metric, []
    learning = setting.learning(examples)
    keep: Keep = "scores" if evaluate_on is None else kept_of(setting, evaluate_on)
    batch_size = images_per_step(protocol, len(examples))
    steps_an_epoch = len(split_batches(np.arange(len(examples)), batch_size))
    steps = protocol.epochs * steps_an_epoch
    warmup = round(min(protocol.warmup_epochs, protocol.epochs / 2) * steps_an_epoch)
    optimizer = build_optimizer("adamw", model.parameter_groups(task.weight_decay))
    step = 0
    for epoch in range(1, protocol.epochs + 1):
        order = np.random.default_rng((setting.run_seed, epoch - 1)).permutation(len(examples))
        batches = split_batches(order, batch_size)
        views = (setting.run_seed, task.seed, epoch)
        total = 0.0
        model.train()
        for inputs, targets in examples.batches(batches, setting.augmentation, views):
            rate = task.learning_rate * warmup_cosine(step, steps, warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.zero_grad(set_to_none=True)
            loss = backward(
                model,
                inputs,
                targets.to(setting.device),
                micro,
                setting.forward_dtype,
                learning,
            )
            if not math.isfinite(loss):
                total = math.nan
                break
            optimizer.step()
            step += 1
            total += loss * len(targets)
            stepped(len(targets))
        finite = math.isfinite(total)
        if not finite and task.phase == "refit":
            raise IceprobeError(
                f"{task.label} diverged at a learning rate of {task.learning_rate:g}: give smaller "
                "--learning-rates"
            )
        score = None if evaluate_on is None else metric.worst
        if evaluate_on is not None and finite:
            record = Arrays(predict(model, learning, evaluate_on, keep, setting, micro))
            score = float(metric.value(record, evaluate_on.targets)[0])
        rows.append(
            CurveRow(
                probe=task.label,
                seed=task.seed,
                learning_rate=task.learning_rate,
                weight_decay=task.weight_decay,
                phase=task.phase,
                epoch=epoch,
                train_loss=total / len(examples),
                eval_accuracy=score,
            )
        )
        setting.told(rows[-1:])
        if not finite:
            break
    return rows


def kept_of(setting: AdaptationContext, examples: Examples) -> Keep:
    """What a record of the examples must keep for the metric that selects.

    Raises:
        IceprobeError: as `tasks.selecting.kept_for`.
    """
    outputs = setting.task.num_outputs(setting.manifest.dataset.classes)
    return kept_for(setting.task, setting.metric, outputs, examples.targets)


@torch.no_grad()
def predict(
    model: Adapted,
    task: Task,
    examples: Examples,
    keep: Keep,
    setting: AdaptationContext,
    micro: MicroBatch,
) -> Record:
    """What the task, with the scaling of the training, records of every image, for one member."""
    model.eval()
    found = []
    for inputs, targets in examples.batches(examples.in_turn(micro.size)):
        with autocast(setting.device, setting.forward_dtype):
            logits = model(inputs)
        outputs = scaled(logits.float(), task)[None]
        found.append(task.record(outputs, targets.to(setting.device), keep))
    return joined(found, task.summed)


def time_step(
    task: Training, setting: AdaptationContext, examples: Examples, micro: MicroBatch
) -> tuple[float, float]:
    """Seconds an image of training and of evaluation, by one real step of each after a warm-up.

    Only the size of micro-batches that memory allows is kept.
    """
    model = setting.model(task)
    count = images_per_step(setting.protocol, len(examples))
    (inputs, targets), *_ = examples.batches([np.arange(count)])
    targets = targets.to(setting.device)
    learning = setting.learning(examples)
    optimizer = build_optimizer("adamw", model.parameter_groups())
    model.train()
    seconds = math.inf
    for _ in range(2):
        began = _now(setting.device)
        backward(model, inputs, targets, micro, setting.forward_dtype, learning)
        optimizer.step()
        seconds = _now(setting.device) - began
    model.eval()
    began = _now(setting.device)
    with torch.no_grad(), autocast(setting.device, setting.forward_dtype):
        model(inputs.split(micro.size)[0])
    return seconds / count, (_now(setting.device) - began) / min(micro.size, count)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
