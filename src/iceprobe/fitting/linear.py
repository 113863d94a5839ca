"""Linear probes at their optimum, on stored vectors: `linear`, `logreg` and `ridge`.

    penalties.py    the values that are tried: of λ, C or alpha
    losses.py       what is solved for, by the task
    logistic.py     its optimum by L-BFGS          ridge.py   in closed form

The value is selected like a rate. Only the held-out part is random: one fit serves all seeds. Values are
searched from strong to weak on every fold, and some grids grow where the best one lies at an edge. The
module is an ordinary probe: standardisation is folded into its BatchNorm, or without one into weight and
bias.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iceprobe.fitting import logistic, ridge
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.logistic import Problem
from iceprobe.fitting.losses import SOLVED, SearchedLoss, SquaredLoss, solver_loss
from iceprobe.fitting.members import Group, make_groups
from iceprobe.fitting.penalties import Penalty, penalty_of
from iceprobe.fitting.ridge import RidgeProblem
from iceprobe.fitting.solution import Solution
from iceprobe.fitting.stacked import Member
from iceprobe.fitting.standardised import DOUBLE
from iceprobe.machine.processes import world
from iceprobe.probes.inputs import input_width
from iceprobe.protocols.choosing import Choice, Record, choose
from iceprobe.protocols.heldout import Fold, Folds
from iceprobe.results.curves import CurveRow
from iceprobe.tasks.records import Arrays

# Tolerance while decays are selected: predictions there and at the optimum differ by 0.1 points at most.
SELECTING = 1e-4
BATCH = 4096  # rows read at once

log = logging.getLogger("iceprobe")


@dataclass(frozen=True)
class LinearFit:
    """A linear probe at its optimum."""

    group: Group  # of one member, which predicts and gives the module
    choice: Choice | None  # its decay; `None` where nothing could be held out, or it is given
    penalty: Penalty  # what was searched
    values: list[float]  # that were tried
    value: float  # the chosen one
    solution: Solution  # on all training rows
    rows: list[CurveRow]  # one a fold and value, and one of the refit
    seconds: float  # that it took
    tuned: dict[str, np.ndarray]  # what the task tuned on held-out examples

    @property
    def label(self) -> str:
        """Of the probe."""
        return self.group.label


def solver_bytes(label: str, context: FitContext, images: int) -> int:
    """Bytes that the search takes beside held tokens."""
    width, outputs = input_width(context.shape, context.build(label).input), context.num_outputs
    kind = SOLVED[context.task.solver or ""]
    if not kind.searched:
        return ridge.memory_bytes(width, outputs)
    return logistic.memory_bytes(images, width, outputs, kind.copies)


def fit_linear(
    label: str,
    context: FitContext,
    seed: int,
    train: Feed,
    folds: Folds,
    feeds: Sequence[tuple[Feed, Feed]],
) -> LinearFit:
    """Select a strength of the penalty on ``folds`` and fit all of ``train`` at it.

    Args:
        label: of the probe.
        context: of the fit.
        seed: names the member, and does nothing else.
        train: the examples to learn from; all feeds read only the probe's input.
        folds: to select on.
        feeds: of each fold the examples to train on and the held-out ones.
    """
    began = time.monotonic()
    penalty = penalty_of(label, context.protocol, len(train) * train.measured)
    probe = _Probe(label, context, seed, penalty)
    tried = list(penalty.values)
    on = [] if penalty.given else list(zip(folds.folds, feeds, strict=True))
    paths = [_Path(probe, fold, *both) for fold, both in on]
    choice, following = None, list(tried)
    by_decay: dict[float, float] = {}
    while paths and following:
        by_decay |= {penalty.decay(value): value for value in following}
        for number, path in enumerate(paths, 1):
            path.solve([penalty.decay(value) for value in following])
            context.progress(f"select {label}", number, len(paths))
        choice = _choose(paths, context, folds)
        following = []
        if choice is not None:
            following = penalty.following(tried, by_decay[choice.weight_decay], choice.alone)
        tried += following
    value = sorted(tried)[len(tried) // 2]
    if choice is not None:
        value = by_decay[choice.weight_decay]
    tuned = _tuned(paths, penalty.decay(value))
    curves = [row for number, path in enumerate(paths) for row in path.rows(number)]
    del paths  # and the rows that they hold
    problem = probe.problem(train)
    solution = problem.solve(penalty.decay(value))
    if not solution.converged:
        log.warning(
            "%s: L-BFGS stopped after %d iterations before its optimum (gradient %.1e)",
            label, solution.iterations, solution.gradient,
        )  # fmt: skip
    context.progress(f"refit {label}", 1, 1)
    return LinearFit(
        probe.group(problem, [solution]),
        choice,
        penalty,
        tried,
        value,
        solution,
        [*curves, probe.row(solution, "refit")],
        time.monotonic() - began,
        tuned,
    )


def _tuned(paths: Sequence["_Path"], decay: float) -> dict[str, np.ndarray]:
    """What the task tuned on held-out examples at a decay, the mean over folds."""
    parts = [path.tuned[decay] for path in paths]
    return {name: np.mean([part[name] for part in parts], 0) for name in (parts or [{}])[0]}


@dataclass(frozen=True)
class _Probe:
    """The probe that is solved for, and the seed of its member."""

    label: str
    context: FitContext
    seed: int
    penalty: Penalty

    def problem(self, feed: Feed) -> Problem | RidgeProblem:
        """The rows of ``feed`` in all stored views; where they are many the processes share them."""
        (name,) = feed.inputs
        context = self.context
        count, width = len(feed) * feed.measured, input_width(context.shape, name)
        shared = world().size > 1 and count * width > DOUBLE
        mine = feed.part() if shared else feed

        def rows() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in mine.in_order(BATCH) if len(mine) else ():
                yield batch.inputs[name], batch.labels

        weights = context.learning(feed).weights
        loss = solver_loss(context.task.solver or "", feed.targets, context.num_outputs, weights)
        stretch = self.penalty.stretch(loss, count)
        if isinstance(loss, SquaredLoss):
            return RidgeProblem(rows, count, width, loss, context.device, shared, stretch)
        assert isinstance(loss, SearchedLoss)
        return Problem(rows, count, width, loss, context.device, shared, stretch)

    def group(self, problem: Problem | RidgeProblem, solutions: Sequence[Solution]) -> Group:
        """Solutions as members of an ordinary group: W x̂ + b folded into the probe's own parameters."""
        members = [Member(self.label, 0.0, one.decay, self.seed) for one in solutions]
        context = self.context
        (group,) = make_groups(members, context.shape, context.num_outputs, context.device)
        if group.norm is not None:
            scale = (problem.variance + group.norm.eps).sqrt() * problem.inverse
            biases = [one.bias for one in solutions]
        else:
            scale = problem.inverse
            biases = [one.bias - (one.weight * scale) @ problem.mean for one in solutions]
        with torch.no_grad():
            weights = torch.stack([one.weight * scale for one in solutions])
            group.parameters["classifier.weight"].copy_(weights)
            group.parameters["classifier.bias"].copy_(torch.stack(biases))
            group.running_mean.copy_(problem.mean.expand_as(group.running_mean))
            group.running_var.copy_(problem.variance.expand_as(group.running_var))
        return group

    def row(
        self, solution: Solution, phase: str, fold: int = 0, accuracy: float | None = None
    ) -> CurveRow:
        return CurveRow(
            probe=self.label,
            seed=self.seed,
            learning_rate=0.0,
            weight_decay=solution.decay,
            phase=phase,
            epoch=1,
            train_loss=solution.loss,
            eval_accuracy=accuracy,
            fold=fold,
        )


class _Path:
    """The path of decays on one fold, and the scores of each on its held-out images."""

    def __init__(self, probe: _Probe, fold: Fold, train: Feed, held_out: Feed):
        self.probe, self.fold, self.held_out = probe, fold, held_out
        self.problem = probe.problem(train)
        self.solutions: dict[float, Solution] = {}
        self.scores: dict[float, np.ndarray] = {}
        self.tuned: dict[float, dict[str, np.ndarray]] = {}

    def solve(self, decays: Sequence[float]) -> None:
        """Solve at each decay, from the nearest solution that is known."""
        self.solutions |= self.problem.path(decays, self.solutions, SELECTING)
        group = self.probe.group(self.problem, [self.solutions[decay] for decay in decays])
        context, targets = self.probe.context, self.held_out.targets
        (record,) = predict_all(
            [group], self.held_out, BATCH, context.task, context.kept_for(self.held_out)
        )
        scores = context.metric.needed_scores(Arrays(record), targets)
        self.scores |= zip(decays, scores, strict=True)
        tuned = {n: t.numpy() for n, t in context.task.tuned(record, targets).items()}
        for number, decay in enumerate(decays):
            self.tuned[decay] = {name: values[number] for name, values in tuned.items()}

    def rows(self, fold: int) -> list[CurveRow]:
        metric, targets = self.probe.context.metric, self.held_out.targets
        return [
            self.probe.row(
                solution, "select", fold, float(metric.mean(self.scores[decay], targets))
            )
            for decay, solution in self.solutions.items()
        ]


def _choose(paths: Sequence[_Path], context: FitContext, folds: Folds) -> Choice | None:
    """The rule of `protocols/choosing.py`, each decay evaluated once: at its optimum."""
    everywhere = np.concatenate([path.fold.held_out for path in paths])
    held_out, first = np.unique(everywhere, return_index=True)
    targets = np.concatenate([path.held_out.targets for path in paths])[first]
    counts = np.zeros(len(held_out), np.float32)
    sums = {decay: np.zeros(len(held_out), np.float32) for decay in paths[0].scores}
    for path in paths:
        columns = np.searchsorted(held_out, path.fold.held_out)
        counts[columns] += 1
        for decay, scores in path.scores.items():
            sums[decay][columns] += scores
    records = [Record(0.0, decay, [1], (total / counts)[None]) for decay, total in sums.items()]
    metric, errors = context.metric, context.protocol.errors
    groups = folds.groups_of(held_out)
    return choose(records, metric.weights(targets), errors, metric.sign, groups)
