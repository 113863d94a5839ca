"""The two protocols as sequences of phases."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from iceprobe.fitting.best_epoch import at_best_epoch
from iceprobe.fitting.caching import cache_tokens
from iceprobe.fitting.checkpoint import Saved
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.fitted_probe import (
    FittedProbe,
    at_optimum,
    diverged_members,
    refitted,
    stopped_early,
)
from iceprobe.fitting.linear import fit_linear, is_solved, solver_bytes
from iceprobe.fitting.phase import Phase
from iceprobe.fitting.phases import Course
from iceprobe.fitting.stacked import Member
from iceprobe.fitting.step_memory import check_memory, step_memory
from iceprobe.fitting.tuning import grids_of, tune
from iceprobe.protocols.choosing import Choice
from iceprobe.protocols.heldout import folds_of
from iceprobe.protocols.protocol import UNSELECTED, images_per_step
from iceprobe.results.curves import CurveRow
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Diverged
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Arrays


def run_protocol(
    store: Store,
    labels: Sequence[str],
    context: FitContext,
    *,
    seeds: Sequence[int],
    split: str,
    memory: int | None,
    shuffle: str,
    saved: Saved | None,
) -> tuple[list[FittedProbe], list[CurveRow], dict[str, list[Diverged]]]:
    """Fit the probes called ``labels`` and read the reported split as the protocol allows.

    Returns:
        The probes of which a member got to the end, a row a member and epoch, and by probe the
        members that have diverged.
    """
    inputs = {label: context.build(label).input for label in labels}
    protocol, images = context.protocol, len(store["train"])
    solved = [
        label
        for label in labels
        if context.task.solves_linear and is_solved(label, protocol, store["train"])
    ]
    labels = [label for label in labels if label not in solved]
    grids = grids_of(context, labels, images)
    grid = [
        Member(label, rate, decay, seed)
        for label in labels
        for rate, decay in grids[label].points
        for seed in seeds
    ]
    stored = store["train"].patch_bytes // images
    counts = {label: len(grids[label].points) * len(seeds) for label in labels}
    step = step_memory(counts, context, store.num_tokens, store.num_prefix, images, stored)
    check_memory(step, len(grid), context.device)
    train, test, context.shuffle = cache_tokens(
        store["train"],
        store[split],
        set(inputs.values()),
        memory,
        shuffle if saved is None else saved.shuffle,
        batch_size=images_per_step(protocol, images),
        beside=max([step.least, *(solver_bytes(label, context, images) for label in solved)]),
        evaluated=protocol.held_out == 0,
    )

    def feed(
        of: StoredSplit,
        rows: np.ndarray,
        views: StoredSplit | None = None,
        only: Iterable[str] = labels,
    ) -> Feed:
        mine = {inputs[label] for label in only}
        return Feed(of, rows, mine, context.device, context.dtype, context.shuffle, views)

    everything = np.arange(len(train))
    reported = feed(test, np.arange(len(test)), only=inputs)
    share = _shares(context, labels, store.num_tokens)
    course = Course(context, saved)
    if protocol.held_out == 0:
        phase = Phase("paper", grid)
        course.run(phase, feed(train, everything, train.views), reported, keep_best=True)
        found = [
            at_best_epoch(phase, group, best, context, reported, grids, share)
            for group, best in zip(phase.groups, phase.best, strict=True)
        ]
        return found, phase.rows, diverged_members(labels, [phase])

    folds = folds_of(context.task.strata(train.labels), context.run_seed, protocol)
    pairs = [
        (feed(train, fold.train, train.views), feed(train, fold.held_out)) for fold in folds.folds
    ]
    choices: dict[str, Choice] = {}
    if labels:
        choices, grids = tune(course, grids, seeds, train.labels, folds, pairs)
    refit = Phase(
        "refit",
        [
            Member(label, choice.learning_rate, choice.weight_decay, seed)
            for label, choice in choices.items()
            for seed in seeds
        ],
        stops={label: choice.epoch for label, choice in choices.items()},
    )
    course.run(refit, feed(train, everything, train.views), None)
    rows = [row for phase in course.done for row in phase.rows]
    seconds = sum(phase.seconds for phase in course.done)
    diverged = diverged_members([*labels, *solved], course.done)
    linear = [
        fit_linear(label, context, seeds[0], partial(feed, only=[label]), train, folds)
        for label in solved
    ]
    groups = [*refit.groups, *(one.group for one in linear)]
    if not groups:
        return [], rows, diverged
    batch_size, task = images_per_step(protocol, len(train)), context.task
    predictions = [
        Predictions.of(Arrays(record), reported.targets)
        for record in predict_all(groups, reported, batch_size, task)
    ]
    fitted = []
    for group, predicted in zip(refit.groups, predictions, strict=False):
        label = group.members[0].probe
        fitted.append(
            refitted(
                group,
                predicted,
                choices[label],
                grids[label],
                selected_on=folds.description if pairs else UNSELECTED,
                seconds=share[label] * seconds,
                early_stopping=stopped_early(label, course.done, protocol) if pairs else None,
            )
        )
    for one, predicted in zip(linear, predictions[len(refit.groups) :], strict=True):
        rows += one.rows
        fitted.append(at_optimum(one, predicted, folds.description))
    return fitted, rows, diverged


def _shares(context: FitContext, labels: Sequence[str], num_tokens: int) -> dict[str, float]:
    """Fraction of the fit's multiply–adds that is each probe's."""
    flops = {label: context.build(label).flops(num_tokens) for label in labels}
    return {label: value / sum(flops.values()) for label, value in flops.items()}
