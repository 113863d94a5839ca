"""The two protocols as sequences of phases, and how each chooses what it reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.laying_out import lay_out
from iceprobe.fitting.linear import LinearFit, fit_linear, is_solved, solver_bytes
from iceprobe.fitting.logistic import Solution
from iceprobe.fitting.members import Group, Member
from iceprobe.fitting.phases import Best, Course, Phase, Saved, Setting
from iceprobe.fitting.step_memory import check_memory, step_memory
from iceprobe.fitting.tuning import grids_of, tune
from iceprobe.probes.probe import Probe
from iceprobe.protocols.choosing import Choice
from iceprobe.protocols.grids import Grid, at_edge
from iceprobe.protocols.halving import RULE, rungs
from iceprobe.protocols.heldout import Parts, parts_of
from iceprobe.protocols.protocol import UNSELECTED, Protocol, images_per_step
from iceprobe.results.curves import CurveRow
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Diverged, EarlyStopping, Score, SelectedScore, Stopped
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit


@dataclass(frozen=True)
class Fitted:
    """One probe after its protocol.

    Attributes:
        label: its canonical spec string.
        seeds: those that were fitted to the end.
        probes: fitted modules, one a seed.
        predictions: on the reported split, one row a seed.
        selected: learning rate, weight decay and epoch.
        selected_on: what they were chosen on.
        grid: what was tried.
        settings_tried: combinations of learning rate and weight decay.
        best_minus_median: how far the best setting lies above the median one where it was chosen.
        last_epoch: top-1 at the last epoch, where another was chosen.
        seconds: this probe's share of the fit's wall time, by its members' multiply–adds.
        early_stopping: which settings stopped early, if some might.
        solution: the optimum, of a linear probe that was solved for.
        selected_score: held-out accuracy that the choice was made by.
        edge: where the chosen rate, or decay of an optimum, is the lowest or highest tried.
    """

    label: str
    seeds: list[int]
    probes: list[Probe]
    predictions: Predictions
    selected: dict[str, float | int | str]
    selected_on: str
    grid: Grid
    settings_tried: int
    best_minus_median: float | None
    last_epoch: Score | None
    seconds: float
    early_stopping: EarlyStopping | None = None
    solution: Solution | None = None
    selected_score: SelectedScore | None = None
    edge: str | None = None


def run_protocol(
    store: Store,
    labels: Sequence[str],
    setting: Setting,
    *,
    seeds: Sequence[int],
    split: str,
    memory: int | None,
    shuffle: str,
    saved: Saved | None,
) -> tuple[list[Fitted], list[CurveRow], dict[str, list[Diverged]]]:
    """Fit the probes called ``labels`` and read the reported split as the protocol allows.

    Returns:
        The probes of which a member got to the end, a row a member and epoch, and by probe the
        members that have diverged.
    """
    inputs = {label: setting.build(label).input for label in labels}
    protocol, images = setting.protocol, len(store["train"])
    solved = [label for label in labels if is_solved(label, protocol, store["train"])]
    labels = [label for label in labels if label not in solved]
    grids = grids_of(setting, labels, images)
    grid = [
        Member(label, rate, decay, seed)
        for label in labels
        for rate, decay in grids[label].points
        for seed in seeds
    ]
    stored = store["train"].patch_bytes // images
    counts = {label: len(grids[label].points) * len(seeds) for label in labels}
    step = step_memory(counts, setting, store.num_tokens, store.num_prefix, images, stored)
    check_memory(step, len(grid), setting.device)
    train, test, setting.shuffle = lay_out(
        store["train"],
        store[split],
        set(inputs.values()),
        memory,
        shuffle,
        batch_size=images_per_step(protocol, images),
        beside=max([step.least, *(solver_bytes(label, setting, images) for label in solved)]),
        looks=protocol.held_out == 0,
        before=saved.shuffle if saved is not None else None,
    )

    def feed(
        of: StoredSplit,
        rows: np.ndarray,
        views: StoredSplit | None = None,
        only: Iterable[str] = labels,
    ) -> Feed:
        mine = {inputs[label] for label in only}
        return Feed(of, rows, mine, setting.device, setting.amp, setting.shuffle, views)

    everything = np.arange(len(train))
    reported = feed(test, np.arange(len(test)), only=inputs)
    share = _shares(setting, labels, store.num_tokens)
    course = Course(setting, saved)
    if protocol.held_out == 0:
        phase = Phase("paper", grid)
        course.run(phase, feed(train, everything, train.views), reported, keep_best=True)
        best = [
            _best_epoch(phase, group, best, setting, reported, grids, share)
            for group, best in zip(phase.groups, phase.best, strict=True)
        ]
        return best, phase.rows, _diverged(labels, [phase])

    parts = parts_of(train.labels, setting.run_seed, protocol)
    pairs = [(feed(train, p.learn, train.views), feed(train, p.held)) for p in parts.parts]
    choices, grids = tune(course, grids, seeds, train.labels, parts, pairs) if labels else ({}, {})
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
    diverged = _diverged([*labels, *solved], course.done)
    linear = [
        fit_linear(label, setting, seeds[0], partial(feed, only=[label]), train, parts)
        for label in solved
    ]
    groups = [*refit.groups, *(one.group for one in linear)]
    if not groups:
        return [], rows, diverged
    tops = predict_all(
        groups,
        reported,
        images_per_step(protocol, len(train)),
        min(5, setting.num_classes),
    )
    fitted = []
    for group, top in zip(refit.groups, tops, strict=False):
        label = group.members[0].probe
        choice = choices[label]
        fitted.append(
            Fitted(
                label,
                [member.seed for member in group.members],
                [group.probe(g) for g in range(len(group))],
                _predictions(top.numpy(), reported, setting.num_classes),
                {
                    "learning_rate": choice.learning_rate,
                    "weight_decay": choice.weight_decay,
                    "epoch": choice.epoch,
                },
                parts.told if pairs else UNSELECTED,
                grids[label],
                choice.tried,
                choice.best_minus_median,
                None,
                share[label] * seconds,
                _early_stopping(label, course.done, protocol) if pairs else None,
                selected_score=choice.held,
                edge=_edge(choice, grids[label].learning_rates, choice.learning_rate),
            )
        )
    for one, top in zip(linear, tops[len(refit.groups) :], strict=True):
        rows += one.rows
        fitted.append(_at_optimum(one, top.numpy(), reported, setting, parts))
    return fitted, rows, diverged


def _at_optimum(
    one: LinearFit, top: np.ndarray, reported: Feed, setting: Setting, parts: Parts
) -> Fitted:
    """A linear probe, which is the same for every seed."""
    (member,) = one.group.members
    choice = one.choice
    return Fitted(
        member.probe,
        [member.seed],
        [one.group.probe(0)],
        _predictions(top, reported, setting.num_classes),
        {"weight_decay": member.weight_decay, "iterations": one.solution.iterations},
        parts.told if choice else UNSELECTED,
        Grid((), tuple(sorted(one.decays)), grows=False),
        choice.tried if choice else 1,
        choice.best_minus_median if choice else None,
        None,
        one.seconds,
        solution=one.solution,
        selected_score=choice.held if choice else None,
        edge=_edge(choice, one.decays, choice.weight_decay) if choice else None,
    )


def _edge(choice: Choice, tried: Sequence[float], chosen: float) -> str | None:
    """Where the chosen value lies at an edge; of settings equally good none points beyond it."""
    return at_edge(tried, chosen) if choice.alone else None


def _diverged(labels: Sequence[str], phases: Iterable[Phase]) -> dict[str, list[Diverged]]:
    """By probe, the members that were dropped because they were no longer finite."""
    found: dict[str, list[Diverged]] = {label: [] for label in labels}
    for phase in phases:
        for one in phase.dropped:
            if one.why == "diverged":
                m = one.member
                found[m.probe].append(
                    Diverged(
                        learning_rate=m.learning_rate,
                        weight_decay=m.weight_decay,
                        seed=m.seed,
                        phase=phase.stage,
                        epoch=one.epoch,
                    )
                )
    return found


def _early_stopping(
    label: str, phases: Iterable[Phase], protocol: Protocol
) -> EarlyStopping | None:
    """The rule under which settings of a probe stopped, and those that did."""
    if not protocol.halving:
        return None
    stopped: dict[tuple[float, float, int], list[int]] = {}
    for one in (dropped for phase in phases for dropped in phase.dropped):
        if one.member.probe == label and one.why == "beaten":
            point = (one.member.learning_rate, one.member.weight_decay, one.epoch)
            stopped.setdefault(point, []).append(one.member.seed)
    return EarlyStopping(
        rule=RULE,
        rungs=rungs(protocol.epochs),
        stopped=[
            Stopped(learning_rate=rate, weight_decay=decay, seeds=seeds, epoch=epoch)
            for (rate, decay, epoch), seeds in stopped.items()
        ],
    )


def _best_epoch(
    phase: Phase,
    group: Group,
    best: Best,
    setting: Setting,
    reported: Feed,
    grids: dict[str, Grid],
    share: dict[str, float],
) -> Fitted:
    """`paper`: each seed at its best epoch on the reported split, the last epoch beside it.

    As in :func:`choose`, a setting whose seeds are all there goes before one that has lost some.
    """
    label = group.members[0].probe
    rows = [row for row in phase.rows if row.probe == label]
    peaks: dict[tuple[float, float], dict[int, float]] = {}
    for row in rows:
        seeds = peaks.setdefault((row.learning_rate, row.weight_decay), {})
        seeds[row.seed] = max(seeds.get(row.seed, 0.0), row.eval_accuracy or 0.0)
    means = {point: float(np.mean(list(seeds.values()))) for point, seeds in peaks.items()}
    by_setting: dict[tuple[float, float], list[int]] = {}
    for g, member in enumerate(group.members):
        by_setting.setdefault((member.learning_rate, member.weight_decay), []).append(g)
    chosen = max(by_setting, key=lambda point: (len(by_setting[point]), means[point]))
    mine = by_setting[chosen]
    kept = [group.members[g].seed for g in mine]
    last = {
        row.seed: row.eval_accuracy or 0.0
        for row in rows
        if row.epoch == phase.epoch and (row.learning_rate, row.weight_decay) == chosen
    }
    epochs = [int(best.epoch[g]) for g in mine]
    return Fitted(
        label,
        kept,
        [best.probes[g] for g in mine],
        _predictions(best.top[mine].numpy(), reported, setting.num_classes),
        {
            "learning_rate": chosen[0],
            "weight_decay": chosen[1],
            "epoch": epochs[0] if len(set(epochs)) == 1 else ", ".join(map(str, epochs)),
        },
        setting.protocol.selected_on,
        grids[label],
        len(means),
        means[chosen] - float(np.median(list(means.values()))),
        Score.of(last[seed] for seed in kept),
        share[label] * phase.seconds,
        edge=at_edge(grids[label].learning_rates, chosen[0]),
    )


def _predictions(top: np.ndarray, reported: Feed, num_classes: int) -> Predictions:
    """From the best classes ``(S, n, top)`` of every image, best first."""
    labels = reported.labels.cpu().numpy()
    top5 = (top == labels[None, :, None]).any(-1) if num_classes > 5 else None
    return Predictions(labels, top[..., 0], top5)


def _shares(setting: Setting, labels: Sequence[str], num_tokens: int) -> dict[str, float]:
    """Fraction of the fit's multiply–adds that is each probe's."""
    flops = {label: setting.build(label).flops(num_tokens) for label in labels}
    return {label: value / sum(flops.values()) for label, value in flops.items()}
