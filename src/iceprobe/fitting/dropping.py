"""Members that end before their schedule does: those that diverged, and settings clearly beaten."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.phase import Dropped, Phase
from iceprobe.fitting.stacked import Member, Stacked
from iceprobe.protocols.halving import clearly_beaten

log = logging.getLogger("iceprobe")


def drop_diverged(
    phase: Phase,
    trainer: JointTrainer,
    groups: Sequence[Stacked],
    losses: Mapping[Member, float],
) -> None:
    """Go on without the members whose loss or weights aren't finite; their last row says so."""
    finite = {
        member
        for group in groups
        for member, fine in zip(group.members, group.finite().tolist(), strict=True)
        if fine and math.isfinite(losses[member])
    }
    diverged = [m for group in groups for m in group.members if m not in finite]
    for member in diverged:
        loss = math.nan if math.isfinite(losses[member]) else losses[member]
        phase.rows.append(phase.row(member, loss, None))
        log.warning(
            "%s, learning rate %g, weight decay %g, seed %d diverged in epoch %d of %s: dropped",
            member.probe, member.learning_rate, member.weight_decay, member.seed, phase.epoch,
            phase.name,
        )  # fmt: skip
    _drop(phase, trainer, diverged, "diverged")


def drop_beaten(
    phase: Phase,
    trainer: JointTrainer,
    scores: Mapping[Member, NDArray[Any]],
    weights: NDArray[np.float64],
    sign: int = 1,
) -> None:
    """Go on without the settings that another of their probe clearly beats.

    A seed that has diverged scores nowhere.

    Args:
        phase: after an evaluation.
        trainer: of its groups.
        scores: of each member on each held-out example, ``(n,)``.
        weights: of the examples.
        sign: of the metric, −1 where less is better.
    """
    for probe in dict.fromkeys(member.probe for member in scores):
        settings: dict[tuple[float, float], list[Member]] = {}
        for member in phase.members:
            if member.probe == probe:
                point = (member.learning_rate, member.weight_decay)
                settings.setdefault(point, []).append(member)
        running = [seeds for seeds in settings.values() if any(m in scores for m in seeds)]
        means = [
            sum(sign * 1.0 * scores[m] for m in seeds if m in scores) / len(seeds)
            for seeds in running
        ]
        lost = clearly_beaten(np.stack(means), weights)
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
