"""One probe after its protocol: the fitted modules, what they predict, and how they were chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from iceprobe.fitting.linear import LinearFit
from iceprobe.fitting.logistic import Solution
from iceprobe.fitting.phase import Phase
from iceprobe.fitting.stacked import Stacked
from iceprobe.protocols.choosing import Choice
from iceprobe.protocols.grids import Grid, at_edge
from iceprobe.protocols.halving import RULE, rungs
from iceprobe.protocols.protocol import UNSELECTED, Protocol
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Diverged, EarlyStopping, Score, SelectedScore, Stopped


@dataclass(frozen=True)
class FittedProbe:
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
        last_epoch: the metric that selects at the last epoch, where another was chosen.
        seconds: this probe's share of the fit's wall time, by its members' multiply–adds.
        early_stopping: which settings stopped early, if some might.
        solution: the optimum, of a linear probe that was solved for.
        selected_score: held-out score that the choice was made by.
        edge: where the chosen rate, or decay of an optimum, is the lowest or highest tried.
    """

    label: str
    seeds: list[int]
    probes: Sequence[Any]
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
        group.members[0].probe,
        [member.seed for member in group.members],
        [group.probe(g) for g in range(len(group))],
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
    choice = one.choice
    return FittedProbe(
        member.probe,
        [member.seed],
        [one.group.probe(0)],
        predictions,
        {"weight_decay": member.weight_decay, "iterations": one.solution.iterations},
        selected_on if choice else UNSELECTED,
        Grid((), tuple(sorted(one.decays)), grows=False),
        choice.tried if choice else 1,
        choice.best_minus_median if choice else None,
        None,
        one.seconds,
        solution=one.solution,
        selected_score=choice.held_out if choice else None,
        edge=_edge(choice, one.decays, choice.weight_decay) if choice else None,
    )


def _edge(choice: Choice, tried: Sequence[float], chosen: float) -> str | None:
    """Where the chosen value lies at an edge; of settings equally good none points beyond it."""
    return at_edge(tried, chosen) if choice.alone else None


def diverged_members(labels: Sequence[str], phases: Iterable[Phase]) -> dict[str, list[Diverged]]:
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


def stopped_early(label: str, phases: Iterable[Phase], protocol: Protocol) -> EarlyStopping | None:
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
