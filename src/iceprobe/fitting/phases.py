"""The phases of a protocol: train a crowd for some epochs, look at it after each, keep the best.

`heldout` has two (``select`` on nine tenths of the training split, ``refit`` on all of it) and one
look at the test split; `paper` has one, and looks at the reported split after every epoch.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.fitting.checkpoint import Checkpoint, Saved
from iceprobe.fitting.engine import Crowd, predict
from iceprobe.fitting.feed import Feed, split_batches
from iceprobe.fitting.members import Group, Member, Shape, make_groups
from iceprobe.fitting.protocols import Protocol, images_per_step
from iceprobe.fitting.whitening import whitening
from iceprobe.probes.probe import Probe
from iceprobe.probes.registry import VECTORS
from iceprobe.results.curves import CurveRow

Progress = Callable[[str, int, int], None]
SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass
class Setting:
    """What a phase shares with the others."""

    protocol: Protocol
    shape: Shape
    run_seed: int
    device: torch.device
    amp: torch.dtype
    checkpoint: Checkpoint
    progress: Progress


@dataclass
class Best:
    """Each member's best epoch on the reported split (`paper`)."""

    accuracy: np.ndarray
    epoch: np.ndarray
    top: Tensor
    probes: list[Probe]


@dataclass
class Phase:
    """One phase, as far as it has come; all of it goes into the checkpoint.

    Attributes:
        name: ``"select"``, ``"refit"`` or ``"paper"``.
        members: to train.
        stops: probe → epoch at which its members stop; the schedule keeps its full horizon.
        rows: one a member and epoch.
        seconds: of training and evaluation, over all sessions.
    """

    name: str
    members: list[Member]
    stops: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    rows: list[CurveRow] = field(default_factory=list)
    seconds: float = 0.0
    groups: list[Group] = field(default_factory=list)
    best: list[Best] = field(default_factory=list)


def run_phase(
    phase: Phase,
    setting: Setting,
    train: Feed,
    evaluate_on: Feed | None,
    *,
    keep_best: bool = False,
    before: list[dict[str, Any]] | None = None,
    saved: Saved | None = None,
) -> None:
    """Train ``phase`` to its end, from ``saved`` where it holds a part of it.

    Args:
        phase: with its members and stops.
        setting: shared with the other phases.
        train: the images to learn from.
        evaluate_on: the images to look at after each epoch.
        keep_best: keep each member as it was after its best epoch there.
        before: finished phases, as :func:`describe` gives them, for the checkpoint.
        saved: what :meth:`Checkpoint.load` gave.
    """
    protocol = setting.protocol
    batch_size = images_per_step(protocol, len(train))
    steps_an_epoch = len(split_batches(np.arange(len(train)), batch_size))
    shrinkage = protocol.whitening
    whitenings = {
        name: whitening(partial(_vectors, train, name, batch_size), shrinkage, train.copies)
        for name in train.inputs
        if name in VECTORS and shrinkage is not None
    }
    phase.groups = make_groups(phase.members, setting.shape, setting.device, whitenings)
    stops = [phase.stops.get(g.members[0].probe, protocol.epochs) for g in phase.groups]
    crowd = Crowd(
        phase.groups,
        protocol.optimizer,
        steps=protocol.epochs * steps_an_epoch,
        warmup=round(min(protocol.warmup_epochs, protocol.epochs / 2) * steps_an_epoch),
        stops=[stop * steps_an_epoch for stop in stops],
    )
    if saved is not None and saved.phase["name"] == phase.name:
        _restore(phase, crowd, setting, saved)

    total = max(stops) * steps_an_epoch
    began = last_saved = time.monotonic()
    while phase.epoch < max(stops):
        active = crowd.active
        sums = [torch.zeros(len(group), device=setting.device) for group in active]
        for batch in train.shuffled(batch_size, setting.run_seed, phase.epoch):
            for running, losses in zip(sums, crowd.train_step(batch), strict=True):
                running += losses * len(batch.labels)
            setting.progress(phase.name, crowd.step, total)
        phase.epoch += 1
        losses_of = {id(g): (s / len(train)).tolist() for g, s in zip(active, sums, strict=True)}
        _look(phase, setting, active, losses_of, evaluate_on, batch_size, keep_best)

        now = time.monotonic()
        phase.seconds, began = phase.seconds + now - began, now
        if now - last_saved > SECONDS_BETWEEN_CHECKPOINTS or phase.epoch == max(stops):
            tensors = crowd.state() | _best_state(phase)
            setting.checkpoint.save(Saved(tensors, describe(phase), before or []))
            last_saved = time.monotonic()


def _vectors(feed: Feed, name: str, batch_size: int) -> Iterator[Tensor]:
    # Patches stay unread.
    alone = Feed(feed.split, feed.rows, {name}, feed.device, feed.dtype, feed.views)
    return (batch.inputs[name] for batch in alone.in_order(batch_size))


def _look(
    phase: Phase,
    setting: Setting,
    groups: list[Group],
    losses: dict[int, list[float]],
    feed: Feed | None,
    batch_size: int,
    keep_best: bool,
) -> None:
    """Evaluate ``groups`` after an epoch: a row a member, and the best kept."""
    accuracies: list[np.ndarray | None] = [None] * len(groups)
    if feed is not None:
        top = min(5, setting.shape.num_classes) if keep_best else 1
        tops = predict(groups, feed.in_order(batch_size), top)
        right = [t[..., 0] == feed.labels.cpu() for t in tops]
        accuracies = [r.double().mean(1).numpy() for r in right]
        if keep_best:
            _keep_best(phase, groups, accuracies, tops)
    for group, accuracy in zip(groups, accuracies, strict=True):
        for g, member in enumerate(group.members):
            phase.rows.append(
                CurveRow(
                    probe=member.probe,
                    seed=member.seed,
                    learning_rate=member.learning_rate,
                    weight_decay=member.weight_decay,
                    phase=phase.name,
                    epoch=phase.epoch,
                    train_loss=losses[id(group)][g],
                    eval_accuracy=None if accuracy is None else float(accuracy[g]),
                )
            )


def _keep_best(
    phase: Phase, groups: list[Group], accuracies: list[Any], tops: list[Tensor]
) -> None:
    if not phase.best:
        phase.best = [
            Best(np.full(len(g), -1.0), np.zeros(len(g), int), t.clone(), [g.template] * len(g))
            for g, t in zip(groups, tops, strict=True)
        ]
    for best, group, accuracy, top in zip(phase.best, groups, accuracies, tops, strict=True):
        for g in np.flatnonzero(accuracy > best.accuracy):
            best.accuracy[g], best.epoch[g] = accuracy[g], phase.epoch
            best.top[g], best.probes[g] = top[g], group.probe(int(g))


def describe(phase: Phase) -> dict[str, Any]:
    """A phase as JSON, without its tensors."""
    return {
        "name": phase.name,
        "epoch": phase.epoch,
        "seconds": phase.seconds,
        "rows": [row.model_dump() for row in phase.rows],
        "best": [{"accuracy": b.accuracy.tolist(), "epoch": b.epoch.tolist()} for b in phase.best],
    }


def recall(description: dict[str, Any], members: list[Member]) -> Phase:
    """A finished phase from :func:`describe`'s JSON, without its tensors."""
    return Phase(
        description["name"],
        members,
        epoch=description["epoch"],
        rows=[CurveRow.model_validate(row) for row in description["rows"]],
        seconds=description["seconds"],
    )


def _best_state(phase: Phase) -> dict[str, Tensor]:
    state = {}
    for i, best in enumerate(phase.best):
        state[f"best.{i}.top"] = best.top
        for g, probe in enumerate(best.probes):
            state |= {f"best.{i}.{g}.{name}": t for name, t in probe.state_dict().items()}
    return state


def _restore(phase: Phase, crowd: Crowd, setting: Setting, saved: Saved) -> None:
    tensors, description = saved.tensors, saved.phase
    crowd.load_state(tensors)
    phase.epoch, phase.seconds = description["epoch"], description["seconds"]
    phase.rows = [CurveRow.model_validate(row) for row in description["rows"]]
    for i, numbers in enumerate(description["best"]):
        probes = []
        for g, member in enumerate(phase.groups[i].members):
            probe, prefix = setting.shape.build(member.probe), f"best.{i}.{g}."
            names = [n for n in tensors if n.startswith(prefix)]
            probe.load_state_dict({n.removeprefix(prefix): tensors[n] for n in names})
            probes.append(probe.to(setting.device).eval())
        accuracy, epoch = np.array(numbers["accuracy"]), np.array(numbers["epoch"])
        phase.best.append(Best(accuracy, epoch, tensors[f"best.{i}.top"].clone(), probes))
