"""The phases of a protocol: train members for some epochs, evaluate after each, keep the best.

`heldout` selects in one phase for each fold of the training split, and again where a grid grows,
refits on all of it, and reads the test split once; `paper` has one phase, and evaluates on the
reported split after every epoch.
"""

import itertools
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.fitting.checkpoint import Saved
from iceprobe.fitting.checks import check_parts
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.dropping import drop_beaten, drop_diverged
from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.evaluation import evaluate
from iceprobe.fitting.feed import Feed, split_batches
from iceprobe.fitting.phase import (
    Phase,
    best_state,
    describe,
    remember,
    saved_best,
    scores_state,
)
from iceprobe.machine.processes import world
from iceprobe.machine.signals import asked, saving_first, stop_if_asked
from iceprobe.protocols.protocol import images_per_step

SECONDS_BETWEEN_CHECKPOINTS = 20.0


class Course:
    """The phases of a fit in their order; those that a checkpoint holds aren't trained again.

    Args:
        context: that they share.
        saved: what :meth:`Checkpoint.load` gave.
    """

    def __init__(self, context: FitContext, saved: Saved | None):
        self.context, self.saved = context, saved
        self.done: list[Phase] = []

    def run(self, phase: Phase, train: Feed, evaluate_on: Feed | None, **how: Any) -> Phase:
        """``phase`` at its end; ``how`` as for :func:`run_phase`."""
        before, saved = len(self.done), self.saved
        if saved is not None and before < len(saved.before):
            remember(phase, saved.before[before], saved.tensors, before)
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

    Asked to stop by a signal, it saves what its steps have made so far, in the middle of an epoch
    as well, and stops.

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
    if not phase.going:
        return
    phase.groups = list(context.groups(phase.going, train, batch_size))
    stops = [phase.stops.get(g.members[0].probe, protocol.epochs) for g in phase.groups]
    trainer = JointTrainer(
        phase.groups,
        protocol.optimizer,
        steps=protocol.epochs * steps_an_epoch,
        warmup=round(context.warmup_epochs * steps_an_epoch),
        stops=[stop * steps_an_epoch for stop in stops],
        task=context.task,
    )
    if saved is not None:
        _restore(phase, trainer, saved)

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
        taken = (
            trainer.step - phase.epoch * steps_an_epoch
        )  # steps of this epoch before it was stopped
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
        drop_diverged(phase, trainer, active, losses)
        left = [group for group in active if group in trainer.groups]
        due = phase.evaluations is None or phase.epoch in phase.evaluations
        scores = evaluate(
            phase, context, left, losses, evaluate_on if due else None,
            batch_size=batch_size, keep_best=keep_best,
        )  # fmt: skip
        if phase.epoch in rungs and evaluate_on is not None:
            weights = context.metric.weights(evaluate_on.targets)
            drop_beaten(phase, trainer, scores, weights, context.metric.sign)

        now = time.monotonic()
        phase.seconds, began = phase.seconds + now - began, now
        if now - last_saved > SECONDS_BETWEEN_CHECKPOINTS or not trainer.active or asked():
            save()
            last_saved = time.monotonic()
        stop_if_asked()


def _restore(phase: Phase, trainer: JointTrainer, saved: Saved) -> None:
    trainer.load_state(saved.tensors)
    phase.best = [
        saved_best(numbers, saved.tensors, i, [group.probe(g) for g in range(len(group))])
        for i, (group, numbers) in enumerate(zip(phase.groups, saved.phase["best"], strict=False))
    ]
