"""The search for each probe's setting: its grid on every fold, grown where it has to be."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.phase import Phase
from iceprobe.fitting.phases import Course
from iceprobe.fitting.stacked import Member
from iceprobe.protocols.choosing import Choice, Record, choose
from iceprobe.protocols.grids import Grid, beyond, grid_of
from iceprobe.protocols.halving import rungs
from iceprobe.protocols.heldout import Folds
from iceprobe.protocols.protocol import Protocol, evaluation_epochs, images_per_step

log = logging.getLogger("iceprobe")


def tune(
    course: Course,
    grids: Mapping[str, Grid],
    seeds: Sequence[int],
    targets: np.ndarray,
    folds: Folds,
    feeds: Sequence[tuple[Feed, Feed]],
) -> tuple[dict[str, Choice], dict[str, Grid]]:
    """Choose a setting of every probe on what is held out, and grow the grids that want it.

    Each fold is a phase. Of one fold every seed is a member of each setting; of several they take
    turns, a seed a fold: what folds vary is more than what seeds do.

    Args:
        course: of the fit; the phases are added.
        grids: of each probe.
        seeds: initialisations.
        targets: ``(n, …)`` of the training examples.
        folds: to select on.
        feeds: of each fold the examples to train on and the held-out ones.

    Returns:
        The choice of each probe that has a member left, and what was tried of each probe.
    """
    context, protocol = course.context, course.context.protocol
    tried = dict(grids)
    if not feeds:
        return {label: middle(grid, protocol.epochs) for label, grid in grids.items()}, tried
    asked = {label: grid.points for label, grid in grids.items()}
    phases: list[Phase] = []
    for growth in range(2 * protocol.growths + 1):
        for number, (train, held_out) in enumerate(feeds):
            turn = seeds if len(feeds) == 1 else [seeds[number % len(seeds)]]
            members = [
                Member(label, rate, decay, seed)
                for label, points in asked.items()
                for rate, decay in points
                for seed in turn
            ]
            name = "select" + (f" {number + 1}/{len(feeds)}" if len(feeds) > 1 else "")
            stops = rungs(protocol.epochs) if protocol.halving else []
            phase = Phase(
                name + (f" +{growth}" if growth else ""),
                members,
                fold=number,
                evaluations=sorted({*evaluation_epochs(protocol), *stops}),
            )
            phases.append(course.run(phase, train, held_out, rungs=[] if growth else stops))
        choices = _choices(phases, tried, targets, folds, context)
        asked = {}
        for label, choice in choices.items():
            rate = _following(grids[label], tried[label], choice, protocol.growths)
            if rate is None:
                continue
            log.info(
                "%s: the best learning rate, %g, lies at the edge of what was tried (%s): %g as well",
                label, choice.learning_rate,
                ", ".join(f"{one:g}" for one in sorted(tried[label].learning_rates)), rate,
            )  # fmt: skip
            rates = (*tried[label].learning_rates, rate)
            tried[label] = replace(tried[label], learning_rates=rates)
            asked[label] = [(rate, choice.weight_decay)]
        if not asked:
            break
    return choices, tried


def _following(first: Grid, tried: Grid, choice: Choice, most: int) -> float | None:
    """The rate to be tried beyond the chosen one, if that lies at the edge and the grid may grow.

    Of settings that are equally good none says where a better one lies.
    """
    if not (first.grows and choice.alone):
        return None
    rate = beyond(tried.learning_rates, choice.learning_rate)
    if rate is None:
        return None
    up = rate > max(first.learning_rates)
    grown = [
        one
        for one in tried.learning_rates
        if (one > max(first.learning_rates) if up else one < min(first.learning_rates))
    ]
    return rate if len(grown) < most else None


def _choices(
    phases: Sequence[Phase],
    tried: Mapping[str, Grid],
    targets: np.ndarray,
    folds: Folds,
    context: FitContext,
) -> dict[str, Choice]:
    """The rule of `protocols/choosing.py` for every probe that has a member left."""
    held_out = np.unique(np.concatenate([fold.held_out for fold in folds.folds]))
    weights, sign = context.metric.weights(targets[held_out]), context.metric.sign
    errors = context.protocol.errors
    found = {
        label: choose(records(label, phases, folds, held_out), weights, errors, sign)
        for label in tried
    }
    return {label: choice for label, choice in found.items() if choice is not None}


def records(
    label: str, phases: Sequence[Phase], folds: Folds, held_out: np.ndarray
) -> list[Record]:
    """What each setting of a probe scored on the held-out examples, of all folds together.

    Args:
        label: of the probe.
        phases: of selection.
        folds: that they selected on, by the number of a phase's fold.
        held_out: ``(n,)`` the rows held out in some fold, sorted.
    """
    sums: dict[tuple[float, float], np.ndarray] = {}
    counts: dict[tuple[float, float], np.ndarray] = {}
    lost: dict[tuple[float, float], list[bool]] = {}
    last: dict[tuple[float, float], int] = {}
    for phase in phases:
        rows = folds.folds[phase.fold].held_out
        columns = np.searchsorted(held_out, rows)
        ends = {one.member: one for one in phase.dropped}
        for number, member in enumerate(phase.members):
            if member.probe != label or phase.evaluations is None:
                continue
            point = (member.learning_rate, member.weight_decay)
            if point not in sums:
                sums[point] = np.zeros((len(phase.evaluations), len(held_out)), np.float32)
                counts[point] = np.zeros(len(held_out), np.float32)
                lost[point], last[point] = [], phase.evaluations[-1]
            sums[point][:, columns] += phase.scores_of(number, len(rows))
            counts[point][columns] += 1
            end = ends.get(member)
            lost[point].append(end is not None and end.why == "diverged")
            if end is not None and end.why == "beaten":
                last[point] = min(last[point], end.epoch)
    epochs = phases[0].evaluations or []
    return [
        Record(
            *point,
            epochs=[epoch for epoch in epochs if epoch <= last[point]],
            scores=(sums[point] / counts[point])[: sum(epoch <= last[point] for epoch in epochs)],
            lost=any(lost[point]),
            gone=all(lost[point]),
            ended=last[point] < epochs[-1],
        )
        for point in sums
    ]


def middle(grid: Grid, epochs: int) -> Choice:
    """The middle of the grid and the last epoch, where no image can be held out to choose by."""
    rates, decays = sorted(grid.learning_rates), sorted(grid.weight_decays)
    rate, decay = rates[len(rates) // 2], decays[len(decays) // 2]
    return Choice(rate, decay, epochs, tried=1, best_minus_median=None)


def grids_of(context: FitContext, labels: Sequence[str], num_images: int) -> dict[str, Grid]:
    """The grid of each probe, with the peak rates that its members train at."""
    grids = {}
    for label in labels:
        parameters = context.build(label).num_parameters()["total"]
        grid = grid_of(context.protocol, label, parameters)
        peaks = [peak_rate(context.protocol, rate, num_images) for rate in grid.learning_rates]
        grids[label] = replace(grid, learning_rates=tuple(peaks))
    return grids


def peak_rate(protocol: Protocol, rate: float, num_images: int) -> float:
    """Peak learning rate: of LARS's grid, per 256 images and so scaled by the images per step."""
    if protocol.optimizer == "lars":
        return rate * images_per_step(protocol, num_images) / 256
    return rate
