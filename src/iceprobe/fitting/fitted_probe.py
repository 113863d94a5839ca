"""One probe after its protocol: the fitted modules, their predictions, and how they were chosen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.linear import LinearFit
from iceprobe.fitting.phase import Best, Phase
from iceprobe.fitting.pieces import Pieces
from iceprobe.fitting.solution import Solution
from iceprobe.fitting.stacked import Stacked
from iceprobe.protocols.choosing import Choice
from iceprobe.protocols.grids import Grid, at_edge
from iceprobe.protocols.halving import RULE, rungs
from iceprobe.protocols.protocol import UNSELECTED, Protocol, images_per_step
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Diverged, EarlyStopping, Score, SelectedScore, Stopped
from iceprobe.tasks.records import Arrays, Record, joined, of_members


@dataclass(frozen=True)
class FittedProbe:
    """One probe after its protocol."""

    label: str  # its canonical spec string
    seeds: list[int]  # those that were fitted to the end
    probes: Sequence[Any]  # fitted modules, one a seed
    predictions: Predictions  # on the reported split, one row a seed
    selected: dict[str, float | int | str]  # learning rate, weight decay and epoch
    selected_on: str  # the images they were chosen on
    grid: Grid  # settings that were tried
    settings_tried: int  # combinations of learning rate and weight decay
    # score of the best setting minus the median setting's, where it was chosen
    best_minus_median: float | None
    last_epoch: Score | None  # score at the last epoch, where another epoch was chosen
    seconds: float  # this probe's share of the fit's wall time, by its members' multiply–adds
    early_stopping: EarlyStopping | None = None  # which settings stopped early, if any could
    solution: Solution | None = None  # the optimum, of a linear probe that was solved for
    searched: Mapping[str, list[float]] = field(default_factory=dict)  # values of its C or alpha
    selected_score: SelectedScore | None = None  # held-out score that the choice was made by
    # "lowest" or "highest", if the chosen rate (decay of an optimum) is that
    edge: str | None = None


def refitted(
    group: Stacked,
    predictions: Predictions,
    choice: Choice,
    grid: Grid,
    *,
    selected_on: str,
    seconds: float,
    early_stopping: EarlyStopping | None,
) -> FittedProbe:
    """A probe at the setting that was chosen on held-out examples."""
    return FittedProbe(
        group.label,
        [member.seed for member in group.members],
        group.probes(),
        predictions,
        {
            "learning_rate": choice.learning_rate,
            "weight_decay": choice.weight_decay,
            "epoch": choice.epoch,
        },
        selected_on,
        grid,
        choice.tried,
        choice.best_minus_median,
        None,
        seconds,
        early_stopping,
        selected_score=choice.held_out,
        edge=_edge(choice, grid.learning_rates, choice.learning_rate),
    )


def at_optimum(one: LinearFit, predictions: Predictions, selected_on: str) -> FittedProbe:
    """A linear probe that was solved for, which is the same for every seed."""
    (member,) = one.group.members
    choice, key = one.choice, one.penalty.key
    selected: dict[str, float | int | str] = {key: one.value, "weight_decay": member.weight_decay}
    if one.solution.method == "lbfgs":
        selected["iterations"] = one.solution.iterations
    if choice is None:
        selected_on = f"nothing: {key}={one.value:g} is given" if one.penalty.given else UNSELECTED
    return FittedProbe(
        member.probe,
        [member.seed],
        [one.group.probe(0)],
        predictions,
        selected,
        selected_on,
        Grid((), tuple(sorted(map(one.penalty.decay, one.values))), grows=False),
        choice.tried if choice else 1,
        choice.best_minus_median if choice else None,
        None,
        one.seconds,
        solution=one.solution,
        searched={} if key == "weight_decay" else {key: sorted(one.values)},
        selected_score=choice.held_out if choice else None,
        edge=_edge(choice, one.values, one.value) if choice else None,
    )


def at_best_epoch(
    phase: Phase,
    group: Stacked,
    best: Best,
    context: FitContext,
    reported: Feed,
    *,
    grid: Grid,
    seconds: float,
) -> FittedProbe:
    """`paper`: each seed at its best epoch on the reported split, the last epoch beside it.

    The setting is the one with the best mean over seeds of their best epochs. As in
    :func:`iceprobe.protocols.choosing.choose`, a setting with more seeds left comes first.
    """
    sign, worst = context.metric.sign, context.metric.worst
    rows = [row for row in phase.rows if row.probe == group.label]
    peaks: dict[tuple[float, float], dict[int, float]] = {}
    for row in rows:
        value = worst if row.eval_accuracy is None else row.eval_accuracy
        if value is not None:
            seeds = peaks.setdefault((row.learning_rate, row.weight_decay), {})
            seeds[row.seed] = sign * max(sign * seeds.get(row.seed, value), sign * value)
    means = {point: float(np.mean(list(seeds.values()))) for point, seeds in peaks.items()}
    by_setting: dict[tuple[float, float], list[int]] = {}
    for g, member in enumerate(group.members):
        by_setting.setdefault(member.setting, []).append(g)
    chosen = max(by_setting, key=lambda point: (len(by_setting[point]), sign * means[point]))
    mine = by_setting[chosen]
    kept = [group.members[g].seed for g in mine]
    last = {
        row.seed: row.eval_accuracy or 0.0
        for row in rows
        if row.epoch == phase.epoch and (row.learning_rate, row.weight_decay) == chosen
    }
    epochs = [int(best.epoch[g]) for g in mine]
    probes = [best.probes[g] for g in mine]
    # Best epochs keep no logits, which are large: the probes of the chosen setting compute them again.
    record = _logits(probes, reported, context) | of_members(best.record, mine)
    return FittedProbe(
        group.label,
        kept,
        probes,
        Predictions.of(Arrays(record), reported.targets),
        {
            "learning_rate": chosen[0],
            "weight_decay": chosen[1],
            "epoch": epochs[0] if len(set(epochs)) == 1 else ", ".join(map(str, epochs)),
        },
        context.protocol.selected_on,
        grid,
        len(means),
        sign * (means[chosen] - float(np.median(list(means.values())))),
        Score.of(last[seed] for seed in kept),
        seconds,
        edge=at_edge(grid.learning_rates, chosen[0]),
    )


@torch.no_grad()
def _logits(probes: list[Any], reported: Feed, context: FitContext) -> Record:
    """The task's whole record, of modules of one probe."""
    size, task = images_per_step(context.protocol, len(reported)), context.task
    (name,) = {probe.input for probe in probes}
    parts = []
    for batch in reported.in_order(size):
        parts.append(task.record(logits_of(probes, batch.pieces(str(name))), batch.labels))
        del batch
    return joined(parts, task.summed)


@torch.no_grad()
def logits_of(probes: Sequence[Any], pieces: Pieces) -> Tensor:
    """Logits ``(G, B, K)`` of fitted modules, from the tokens that all of them read."""
    device, dtype = probes[0].classifier.weight.device.type, pieces.dtype
    narrow = dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(device, dtype if narrow else None, enabled=narrow):
        parts = pieces.each(lambda *piece: [p.pooling(*p.read_rows(*piece)) for p in probes])
        descriptors = [pieces.joined(of_probe) for of_probe in zip(*parts, strict=True)]
    return torch.stack([p.classify(y) for p, y in zip(probes, descriptors, strict=True)])


def _edge(choice: Choice, tried: Sequence[float], chosen: float) -> str | None:
    """Which edge of ``tried`` the chosen value lies at; none if another value is equally good."""
    return at_edge(tried, chosen) if choice.alone else None


def diverged_members(labels: Iterable[str], phases: Iterable[Phase]) -> dict[str, list[Diverged]]:
    """By probe, the members that were dropped because they were no longer finite."""
    found: dict[str, list[Diverged]] = {label: [] for label in labels}
    for phase in phases:
        for one in phase.dropped:
            if one.why == "diverged":
                member = asdict(one.member)
                probe = member.pop("probe")
                found[probe].append(Diverged(**member, phase=phase.stage, epoch=one.epoch))
    return found


def stopped_early(label: str, phases: Iterable[Phase], protocol: Protocol) -> EarlyStopping | None:
    """The rule under which settings of a probe stopped, and those that did."""
    if not protocol.halving:
        return None
    stopped: dict[tuple[float, float, int], list[int]] = {}
    for one in (dropped for phase in phases for dropped in phase.dropped):
        if one.member.probe == label and one.why == "beaten":
            stopped.setdefault((*one.member.setting, one.epoch), []).append(one.member.seed)
    return EarlyStopping(
        rule=RULE,
        rungs=rungs(protocol.epochs),
        stopped=[
            Stopped(learning_rate=rate, weight_decay=decay, seeds=seeds, epoch=epoch)
            for (rate, decay, epoch), seeds in stopped.items()
        ],
    )
