"""The phases of a protocol: train members for some epochs, evaluate after each, keep the best.

`heldout` selects in one phase for each fold of the training split, and again where a grid grows,
refits on all of it, and reads the test split once; `paper` has one phase, and evaluates on the
reported split after every epoch. Members that diverge and settings that are clearly beaten stop early.
"""

import itertools
import logging
import math
import time
from bisect import bisect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.fitting.checkpoint import Saved
from iceprobe.fitting.checks import check_parts
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import JointTrainer, predict_all
from iceprobe.fitting.feed import Feed, split_batches
from iceprobe.fitting.phase import (
    Best,
    Dropped,
    Phase,
    best_state,
    describe,
    remember,
    saved_best,
    scores_state,
)
from iceprobe.fitting.stacked import Member, Stacked
from iceprobe.machine.processes import world
from iceprobe.machine.signals import asked, saving_first, stop_if_asked
from iceprobe.protocols.halving import clearly_beaten
from iceprobe.protocols.protocol import images_per_step
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.records import Arrays, Record

log = logging.getLogger("iceprobe")
SECONDS_BETWEEN_CHECKPOINTS = 20.0


class Course:
    """The phases of a fit in their order; those that a checkpoint, ``saved``, holds aren't trained again."""

    def __init__(self, context: FitContext, saved: Saved | None):
        self.context, self.saved = context, saved
        self.done: list[Phase] = []

    def run(self, phase: Phase, train: Feed, evaluate_on: Feed | None, **how: Any) -> Phase:
        """``phase`` at its end; ``how`` as for :func:`run_phase`."""
        before, saved = len(self.done), self.saved
        if saved is not None and before < len(saved.before):
            remember(phase, saved.before[before], saved.tensors, before)
            self.context.told(phase.name, phase.rows)
        else:
            mine = saved if saved is not None and before == len(saved.before) else None
            run_phase(phase, self.context, train, evaluate_on, before=self.done, saved=mine, **how)
        self.done.append(phase)
        return phase


@saving_first()
def run_phase(
    phase: Phase,
    context: FitContext,
    train: Feed,
    evaluate_on: Feed | None,
    *,
    keep_best: bool = False,
    rungs: Collection[int] = (),
    before: Sequence[Phase] = (),
    saved: Saved | None = None,
) -> None:
    """Train ``phase`` to its end, from ``saved`` where it holds a part of it.

    When a signal asks it to stop, it saves the steps made so far, in the middle of an epoch as well,
    and stops.

    Args:
        phase: with its members and stops.
        context: shared with the other phases.
        train: the examples to train on.
        evaluate_on: the examples to evaluate on.
        keep_best: keep each member as it was after its best epoch there.
        rungs: epochs after which settings that are clearly beaten there stop.
        before: finished phases, for the checkpoint.
        saved: what :meth:`Checkpoint.load` gave, if it holds a part of this phase.
    """
    protocol = context.protocol
    batch_size = images_per_step(protocol, len(train))
    sizes = [len(batch) for batch in split_batches(np.arange(len(train)), batch_size)]
    check_parts(sizes)
    steps_an_epoch = len(sizes)
    if saved is not None:
        remember(phase, saved.phase, saved.tensors, len(before))
        context.told(phase.name, phase.rows)
    if not phase.going:
        return
    phase.groups = list(context.groups(phase.going, train, batch_size))
    stops = [phase.stops.get(g.label, protocol.epochs) for g in phase.groups]
    trainer = JointTrainer(
        phase.groups,
        protocol.optimizer,
        steps=protocol.epochs * steps_an_epoch,
        warmup=round(context.warmup_epochs * steps_an_epoch),
        stops=[stop * steps_an_epoch for stop in stops],
        task=context.learning(train),
    )
    if saved is not None:
        trainer.load_state(saved.tensors)
        phase.best = saved_best(phase.groups, saved.phase["best"], saved.tensors)

    def save(sums: Sequence[Tensor] = ()) -> None:
        tensors = trainer.state() | best_state(phase) | scores_state([*before, phase])
        tensors |= {f"losses.{i}": running for i, running in enumerate(sums)}
        finished = [describe(one) for one in before]
        context.checkpoint.save(Saved(tensors, describe(phase), finished, context.shuffle))

    weight = sum(train.weight(size) for size in sizes)
    total = max(phase.stops.get(m.probe, protocol.epochs) for m in phase.members) * steps_an_epoch
    began = last_saved = time.monotonic()
    while active := trainer.active:
        sums = [torch.zeros(len(group), device=context.device) for group in active]
        # Steps before the epoch was interrupted.
        taken = trainer.step - phase.epoch * steps_an_epoch
        if taken and saved is not None:
            sums = [saved.tensors[f"losses.{i}"].to(running) for i, running in enumerate(sums)]
        batches = train.shuffled(batch_size, context.run_seed, phase.epoch)
        for batch in itertools.islice(batches, taken, None):
            for running, here in zip(sums, trainer.train_step(batch), strict=True):
                running += here * train.weight(batch.images)
            del batch
            context.progress(phase.name, trainer.step, total)
            if asked() and trainer.step % steps_an_epoch:
                phase.seconds += time.monotonic() - began
                save(sums)
                stop_if_asked()
        world().align([t for group in active for t in group.state().values()])
        phase.epoch += 1
        losses = {
            member: loss
            for group, running in zip(active, sums, strict=True)
            for member, loss in zip(group.members, (running / weight).tolist(), strict=True)
        }
        logged = len(phase.rows)
        _drop_diverged(phase, trainer, active, losses)
        left = [group for group in active if group in trainer.groups]
        due = phase.evaluations is None or phase.epoch in phase.evaluations
        scores = evaluate(
            phase, context, left, losses, evaluate_on if due else None,
            batch_size=batch_size, keep_best=keep_best,
        )  # fmt: skip
        context.told(phase.name, phase.rows[logged:])
        if phase.epoch in rungs and evaluate_on is not None:
            _drop_beaten(phase, trainer, scores, evaluate_on, context.metric)

        now = time.monotonic()
        phase.seconds, began = phase.seconds + now - began, now
        if now - last_saved > SECONDS_BETWEEN_CHECKPOINTS or not trainer.active or asked():
            save()
            last_saved = time.monotonic()
        stop_if_asked()


def evaluate(
    phase: Phase,
    context: FitContext,
    groups: Sequence[Stacked],
    losses: Mapping[Member, float],
    feed: Feed | None,
    *,
    batch_size: int,
    keep_best: bool,
) -> dict[Member, NDArray[Any]]:
    """Evaluate ``groups`` on ``feed``, if there is one: a row a member, the scores or the best kept.

    Returns:
        Each member's scores of the examples, ``(n,)``.
    """
    scores: dict[Member, NDArray[Any]] = {}
    values: dict[Member, float] = {}
    if feed is not None and groups:
        keep = context.kept_for(feed)
        keep = "predictions" if keep_best and keep == "scores" else keep
        records = predict_all(groups, feed, batch_size, context.task, keep)
        targets, metric = feed.targets, context.metric
        for group, record in zip(groups, records, strict=True):
            found = metric.needed_scores(Arrays(record), targets)
            scores |= zip(group.members, found, strict=True)
            values |= zip(group.members, metric.mean(found, targets).tolist(), strict=True)
        if phase.evaluations and phase.epoch == phase.evaluations[-1]:
            for group, record in zip(groups, records, strict=True):
                phase.keep_tuned(group.members, context.task.tuned(record, targets))
        if keep_best:
            of_groups = [metric.sign * np.array([values[m] for m in g.members]) for g in groups]
            _keep_best(phase, groups, of_groups, records)
    evaluations = phase.evaluations
    number = phase.epoch - 1 if evaluations is None else bisect(evaluations, phase.epoch) - 1
    count = context.protocol.epochs if evaluations is None else len(evaluations)
    numbers = {member: g for g, member in enumerate(phase.members)}
    for member in (member for group in groups for member in group.members):
        if member in scores and not keep_best:
            phase.keep_scores(number, numbers[member], scores[member], count)
        phase.rows.append(phase.row(member, losses[member], values.get(member)))
    return scores


def _keep_best(
    phase: Phase,
    groups: Sequence[Stacked],
    scores: Sequence[NDArray[np.float64]],
    records: Sequence[Record],
) -> None:
    if not phase.best:
        phase.best = [
            Best(score, np.full(len(group), phase.epoch), record, group.probes())
            for group, score, record in zip(groups, scores, records, strict=True)
        ]
        return
    for best, group, score, record in zip(phase.best, groups, scores, records, strict=True):
        for g in np.flatnonzero(score > best.score):
            best.score[g], best.epoch[g] = score[g], phase.epoch
            best.probes[g] = group.probe(int(g))
            for name, tensor in record.items():
                best.record[name][g] = tensor[g]


def _drop_diverged(
    phase: Phase,
    trainer: JointTrainer,
    groups: Sequence[Stacked],
    losses: Mapping[Member, float],
) -> None:
    """Go on without the members whose loss or weights aren't finite; their last row says so."""
    diverged = [
        member
        for group in groups
        for member, finite in zip(group.members, group.finite().tolist(), strict=True)
        if not (finite and math.isfinite(losses[member]))
    ]
    for member in diverged:
        loss = math.nan if math.isfinite(losses[member]) else losses[member]
        phase.rows.append(phase.row(member, loss, None))
        log.warning(
            "%s, learning rate %g, weight decay %g, seed %d diverged in epoch %d of %s: dropped",
            member.probe, member.learning_rate, member.weight_decay, member.seed, phase.epoch,
            phase.name,
        )  # fmt: skip
    _drop(phase, trainer, diverged, "diverged")


def _drop_beaten(
    phase: Phase,
    trainer: JointTrainer,
    scores: Mapping[Member, NDArray[Any]],
    held_out: Feed,
    metric: Metric,
) -> None:
    """Go on without the settings that another one of their probe clearly beats.

    ``scores (n,)`` of a member are of the held-out examples; a seed that has diverged scores 0 on all.
    """
    weights, sign = metric.weights(held_out.targets), metric.sign
    for probe in dict.fromkeys(member.probe for member in scores):
        settings: dict[tuple[float, float], list[Member]] = {}
        for member in phase.members:
            if member.probe == probe:
                settings.setdefault(member.setting, []).append(member)
        running = [seeds for seeds in settings.values() if any(m in scores for m in seeds)]
        means = [
            sum(sign * 1.0 * scores[m] for m in seeds if m in scores) / len(seeds)
            for seeds in running
        ]
        lost = clearly_beaten(np.stack(means), weights, held_out.groups)
        beaten = [m for seeds, out in zip(running, lost, strict=True) if out for m in seeds]
        _drop(phase, trainer, [m for m in beaten if m in scores], "beaten")


def _drop(phase: Phase, trainer: JointTrainer, members: Sequence[Member], why: str) -> None:
    if not members:
        return
    phase.dropped += [Dropped(member, phase.epoch, why) for member in members]
    gone = set(members)
    kept = [[g for g, m in enumerate(group.members) if m not in gone] for group in trainer.groups]
    if phase.best:
        pairs = zip(phase.best, kept, strict=True)
        phase.best = [best.keep(mine) for best, mine in pairs if mine]
    trainer.keep(kept)
    phase.groups = trainer.groups
