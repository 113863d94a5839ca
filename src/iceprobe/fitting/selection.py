"""The two protocols as sequences of phases, and the search for each probe's setting.

heldout   select on each fold, where the best rate lies at an edge of its grid again ─▶ refit ─▶ report
paper     one phase; each seed at its best epoch on the reported split
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from iceprobe.fitting.checkpoint import Saved
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed, tensors_read
from iceprobe.fitting.fitted_probe import (
    FittedProbe,
    at_best_epoch,
    at_optimum,
    diverged_members,
    refitted,
    stopped_early,
)
from iceprobe.fitting.linear import LinearFit, fit_linear, solver_bytes
from iceprobe.fitting.memory import cache_tokens, check_memory, cutting_of, step_memory
from iceprobe.fitting.penalties import is_solved
from iceprobe.fitting.phase import Dropped, Phase, tuned_at
from iceprobe.fitting.phases import Course
from iceprobe.fitting.stacked import members_of
from iceprobe.protocols.choosing import Choice, Record, choose
from iceprobe.protocols.grids import Grid, beyond, grid_of
from iceprobe.protocols.halving import rungs
from iceprobe.protocols.heldout import Fold, Folds, folds_of
from iceprobe.protocols.protocol import UNSELECTED, Protocol, evaluation_epochs, images_per_step
from iceprobe.results.curves import CurveRow
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Diverged
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Arrays

log = logging.getLogger("iceprobe")


def run_protocol(
    store: Store,
    grids: Mapping[str, Grid],
    context: FitContext,
    *,
    seeds: Sequence[int],
    split: str,
    memory: int | None,
    shuffle: str,
    saved: Saved | None,
) -> tuple[list[FittedProbe], list[CurveRow], dict[str, list[Diverged]]]:
    """Fit the probes that ``grids`` names and read the reported split as the protocol allows.

    Returns:
        The probes of which a member reached the end, a row a member and epoch, and by probe the
        members that have diverged.
    """
    inputs = {label: context.build(label).input for label in grids}
    tensors = tensors_read(set(inputs.values()))
    train, test = (store[name].reading(tensors) for name in ("train", split))
    protocol, task, images = context.protocol, context.task, len(train)
    solved = [label for label in grids if is_solved(label, protocol, task.solver, train.live)]
    grids = {label: grid for label, grid in grids.items() if label not in solved}
    grid = members_of({label: one.points for label, one in grids.items()}, seeds)
    stored = train.patch_bytes // images
    counts = {label: len(one.points) * len(seeds) for label, one in grids.items()}
    step = step_memory(counts, context, images, stored)
    check_memory(step, len(grid), context.device)
    context.cutting = cutting_of(step, context, memory)
    train, test, context.shuffle = cache_tokens(
        train,
        test,
        set(inputs.values()),
        memory,
        shuffle if saved is None else saved.shuffle,
        batch_size=images_per_step(protocol, images),
        beside=max(
            [step.within(memory), *(solver_bytes(label, context, images) for label in solved)]
        ),
        evaluated=protocol.held_out == 0,
    )

    all_groups = store.groups("train")

    def feed(of: StoredSplit, rows: np.ndarray, views: StoredSplit | None = None) -> Feed:
        read = {inputs[label] for label in grids}
        groups = all_groups if of is train else None
        found = Feed(
            of, rows, read, context.device, context.dtype, context.shuffle, views, groups
        )  # fmt: skip
        return found.in_pieces(context.cutting, context.draw_tokens)

    whole = partial(feed, train, np.arange(len(train)), train.views)
    reported = feed(test, np.arange(len(test))).reading(set(inputs.values()))
    flops = {label: context.build(label).flops(store.num_tokens) for label in grids}
    share = {label: value / sum(flops.values()) for label, value in flops.items()}  # of the time
    course = Course(context, saved)
    if protocol.held_out == 0:
        phase = course.run(Phase("paper", grid), whole(), reported, keep_best=True)
        found = [
            at_best_epoch(
                phase, group, best, context, reported,
                grid=grids[group.label], seconds=share[group.label] * phase.seconds,
            )
            for group, best in zip(phase.groups, phase.best, strict=True)
        ]  # fmt: skip
        everything = Fold(np.arange(len(train)), np.arange(len(test)))
        on = Folds([everything], protocol.selected_on)
        linear = _optima(solved, inputs, context, seeds[0], whole(), on, [(whole(), reported)])
        for one in linear:
            read = reported.reading({inputs[one.label]})
            (record,) = predict_all([one.group], read, images_per_step(protocol, len(train)), task)
            predicted = Predictions.of(Arrays(record), reported.targets)
            best = at_optimum(one, predicted, f"the reported split (best {one.penalty.key})")
            found.append(replace(best, selected_score=None))  # it isn't held out
        rows = [*phase.rows, *(row for one in linear for row in one.rows)]
        return found, rows, diverged_members([*grids, *solved], [phase])

    strata = task.strata(train.targets)
    folds = folds_of(strata, context.run_seed, protocol, all_groups)
    pairs = [
        (feed(train, fold.train, train.views), feed(train, fold.held_out)) for fold in folds.folds
    ]
    choices: dict[str, Choice] = {}
    if grids:
        choices, grids = tune(course, grids, seeds, train.labels, folds, pairs)
    points = {label: [(one.learning_rate, one.weight_decay)] for label, one in choices.items()}
    stops = {label: choice.epoch for label, choice in choices.items()}
    refit = course.run(Phase("refit", members_of(points, seeds), stops=stops), whole(), None)
    rows = [row for phase in course.done for row in phase.rows]
    seconds = sum(phase.seconds for phase in course.done)
    diverged = diverged_members([*grids, *solved], course.done)
    linear = _optima(solved, inputs, context, seeds[0], whole(), folds, pairs)
    groups = [*refit.groups, *(one.group for one in linear)]
    if not groups:
        return [], rows, diverged
    tuned = [
        tuned_at(course.done, group.label, points[group.label][0]) for group in refit.groups
    ] + [one.tuned for one in linear]
    predictions = [
        Predictions.of(Arrays(record), reported.targets).tuned_to(mine)
        for record, mine in zip(
            predict_all(groups, reported, images_per_step(protocol, len(train)), task),
            tuned,
            strict=True,
        )
    ]
    fitted = [
        refitted(
            group,
            predicted,
            choices[group.label],
            grids[group.label],
            selected_on=folds.description if pairs else UNSELECTED,
            seconds=share[group.label] * seconds,
            early_stopping=stopped_early(group.label, course.done, protocol) if pairs else None,
        )
        for group, predicted in zip(refit.groups, predictions, strict=False)
    ]
    for one, predicted in zip(linear, predictions[len(refit.groups) :], strict=True):
        rows += one.rows
        fitted.append(at_optimum(one, predicted, folds.description))
    return fitted, rows, diverged


def _optima(
    labels: Sequence[str],
    inputs: Mapping[str, str],
    context: FitContext,
    seed: int,
    train: Feed,
    folds: Folds,
    feeds: Sequence[tuple[Feed, Feed]],
) -> list[LinearFit]:
    """Probes that are solved for, each of its input; arguments as of `fit_linear`."""
    found = []
    for label in labels:
        read = {inputs[label]}
        mine = [(fit.reading(read), held.reading(read)) for fit, held in feeds]
        one = fit_linear(label, context, seed, train.reading(read), folds, mine)
        for phase, fold in dict.fromkeys((row.phase, row.fold) for row in one.rows):
            rows = [row for row in one.rows if (row.phase, row.fold) == (phase, fold)]
            of = f"{phase} {fold + 1}/{len(mine)}" if phase == "select" and len(mine) > 1 else phase
            context.told(of, rows, once=f"{of} {label}")
        found.append(one)
    return found


def grids_of(protocol: Protocol, parameters: Mapping[str, int], images: int) -> dict[str, Grid]:
    """The grid of each probe, by label as its number of ``parameters``, with peak learning rates."""
    grids = {}
    for label, count in parameters.items():
        grid = grid_of(protocol, label, count)
        peaks = tuple(peak_rate(protocol, rate, images) for rate in grid.learning_rates)
        grids[label] = replace(grid, learning_rates=peaks)
    return grids


def peak_rate(protocol: Protocol, rate: float, num_images: int) -> float:
    """Peak learning rate: a rate of LARS's grid is per 256 images, so it scales with images per step."""
    if protocol.optimizer == "lars":
        return rate * images_per_step(protocol, num_images) / 256
    return rate


def tune(
    course: Course,
    grids: Mapping[str, Grid],
    seeds: Sequence[int],
    targets: np.ndarray,
    folds: Folds,
    feeds: Sequence[tuple[Feed, Feed]],
) -> tuple[dict[str, Choice], dict[str, Grid]]:
    """Choose a setting of every probe on the held-out examples; grow grids chosen at their edge.

    Each fold is a phase. With one fold every setting has a member of each seed; with several the seeds
    take turns, one a fold: folds vary more than seeds do.

    Args:
        course: runs the phases.
        grids: of each probe.
        seeds: initialisations.
        targets: ``(n, …)`` of the training examples.
        folds: to select on.
        feeds: of each fold the examples to train on and the held-out ones.

    Returns:
        The choice of each probe that has a member left, and the grid that was tried of each probe.
    """
    context, protocol = course.context, course.context.protocol
    tried = dict(grids)
    if not feeds:
        return {label: _middle(grid, protocol.epochs) for label, grid in grids.items()}, tried
    held_out = np.unique(np.concatenate([fold.held_out for fold in folds.folds]))
    weights, sign = context.metric.weights(targets[held_out]), context.metric.sign
    groups = folds.groups_of(held_out)
    stops = rungs(protocol.epochs) if protocol.halving else []
    evaluations = sorted({*evaluation_epochs(protocol), *stops})
    asked = {label: grid.points for label, grid in grids.items()}
    phases: list[Phase] = []
    for growth in range(2 * protocol.growths + 1):
        for number, (train, on) in enumerate(feeds):
            turn = seeds if len(feeds) == 1 else [seeds[number % len(seeds)]]
            name = "select" + (f" {number + 1}/{len(feeds)}" if len(feeds) > 1 else "")
            name += f" +{growth}" if growth else ""
            phase = Phase(name, members_of(asked, turn), fold=number, evaluations=evaluations)
            phases.append(course.run(phase, train, on, rungs=[] if growth else stops))
        chosen = {
            label: choose(
                records(label, phases, folds, held_out), weights, protocol.errors, sign, groups
            )
            for label in tried
        }
        choices = {label: choice for label, choice in chosen.items() if choice is not None}
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


def _middle(grid: Grid, epochs: int) -> Choice:
    """The middle of the grid and the last epoch, where no image can be held out to choose by."""
    rates, decays = sorted(grid.learning_rates), sorted(grid.weight_decays)
    rate, decay = rates[len(rates) // 2], decays[len(decays) // 2]
    return Choice(rate, decay, epochs, tried=1, best_minus_median=None)


def _following(first: Grid, tried: Grid, choice: Choice, most: int) -> float | None:
    """The rate to try beyond the chosen one, if that lies at the edge and the grid may grow.

    If several settings are equally good, none of them says where a better one lies.
    """
    rate = beyond(tried.learning_rates, choice.learning_rate)
    if rate is None or not (first.grows and choice.alone):
        return None
    lowest, highest = min(first.learning_rates), max(first.learning_rates)
    grown = sum(one > highest if rate > highest else one < lowest for one in tried.learning_rates)
    return rate if grown < most else None


def records(
    label: str, phases: Sequence[Phase], folds: Folds, held_out: np.ndarray
) -> list[Record]:
    """The scores of each setting of a probe, of all ``folds`` together.

    They are of ``held_out (n,)``, the sorted rows that are held out in some fold.
    """
    members: dict[tuple[float, float], list[tuple[Phase, int, Dropped | None]]] = {}
    for phase in phases:
        ends = {one.member: one for one in phase.dropped}
        for number, member in enumerate(phase.members):
            if member.probe == label:
                mine = members.setdefault(member.setting, [])
                mine.append((phase, number, ends.get(member)))
    epochs, found = phases[0].evaluations or [], []
    for setting, mine in members.items():
        sums = np.zeros((len(epochs), len(held_out)), np.float32)
        counts = np.zeros(len(held_out), np.float32)
        for phase, number, _ in mine:
            rows = folds.folds[phase.fold].held_out
            columns = np.searchsorted(held_out, rows)
            sums[:, columns] += phase.scores_of(number, len(rows))
            counts[columns] += 1
        lost = [end is not None and end.why == "diverged" for *_, end in mine]
        beaten = [end.epoch for *_, end in mine if end is not None and end.why == "beaten"]
        last = min([epochs[-1], *beaten])
        until = [epoch for epoch in epochs if epoch <= last]
        found.append(
            Record(
                *setting,
                epochs=until,
                scores=(sums / counts)[: len(until)],
                lost=any(lost),
                gone=all(lost),
                ended=last < epochs[-1],
            )
        )
    return found
