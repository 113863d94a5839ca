"""Linear probes at their optimum: `logistic.py` on stored vectors, its decay selected like a rate.

Only the held-out part is random: one fit serves all seeds. Decays are searched from strong to weak on
every fold, and the grid grows where the best one lies at its edge. The module is the ordinary `linear`:
standardisation is folded into its BatchNorm, or without one into weight and bias.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.logistic import DOUBLE, Problem, Solution, memory_bytes
from iceprobe.fitting.members import Group, make_groups
from iceprobe.fitting.stacked import Member
from iceprobe.machine.processes import world
from iceprobe.probes import parse_probe
from iceprobe.probes.inputs import input_width
from iceprobe.protocols.choosing import Choice, Record, choose
from iceprobe.protocols.grids import beyond
from iceprobe.protocols.heldout import Fold, Folds
from iceprobe.protocols.protocol import Protocol
from iceprobe.results.curves import CurveRow
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Arrays

# λ; half decades. On 500 to 6,000 images of the bundled encoders 1e-5 to 0.3 is best: a class token whose
# directions differ by orders of magnitude is read at 46% at 1e-5 and at 42% at 1e-3. The grid grows.
DECAYS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
LEAST, MOST = 1e-8, 1e3
GROWTHS = 6  # half decades on either side
# Tolerance while decays are selected: predictions there and at the optimum differ by 0.1 points at most.
SELECTING = 1e-4
BATCH = 4096  # rows read at once
TINY = 1e-12  # a decay of 0 has a logarithm too

log = logging.getLogger("iceprobe")


@dataclass(frozen=True)
class LinearFit:
    """A linear probe at its optimum."""

    group: Group  # of one member, which predicts and gives the module
    choice: Choice | None  # its decay; `None` where nothing could be held out
    decays: list[float]  # that were tried
    solution: Solution  # on all training rows
    rows: list[CurveRow]  # one a fold and decay, and one of the refit
    seconds: float  # that it took


def is_solved(label: str, protocol: Protocol, train: StoredSplit) -> bool:
    """Whether a probe is solved for its optimum: a linear one, on stored tokens.

    The search reads them many times; live tokens would need a pass of the backbone each time.
    """
    return protocol.solves_linear and not train.live and parse_probe(label).name == "linear"


def given_decays(protocol: Protocol) -> list[float] | None:
    """The caller's λ without 0, for which separable images have no optimum."""
    return [decay for decay in protocol.weight_decays or () if decay > 0] or None


def solver_bytes(label: str, context: FitContext, images: int) -> int:
    """Bytes that the search takes beside held tokens."""
    name = context.build(label).input
    return memory_bytes(images, input_width(context.shape, name), context.num_outputs)


def fit_linear(
    label: str,
    context: FitContext,
    seed: int,
    train: Feed,
    folds: Folds,
    feeds: Sequence[tuple[Feed, Feed]],
) -> LinearFit:
    """Select a decay on ``folds`` and fit all of ``train`` at it; ``seed`` only names the member.

    ``feeds`` are of each fold the examples to train on and the held-out ones; all read only its input.
    """
    began = time.monotonic()
    probe = _Probe(label, context, seed)
    given = given_decays(context.protocol)
    tried = list(DECAYS if given is None else given)
    paths = [_Path(probe, fold, *both) for fold, both in zip(folds.folds, feeds, strict=True)]
    choice, following = None, list(tried)
    while paths and following:
        for number, path in enumerate(paths, 1):
            path.solve(following)
            context.progress(f"select {label}", number, len(paths))
        choice = _choose(paths, train.targets, context)
        grows = given is None and choice is not None and choice.alone
        edge = beyond(tried, choice.weight_decay, LEAST, MOST) if choice and grows else None
        following = [edge] if edge is not None and len(tried) < len(DECAYS) + GROWTHS else []
        tried += following
    decay = sorted(tried)[len(tried) // 2] if choice is None else choice.weight_decay
    curves = [row for number, path in enumerate(paths) for row in path.rows(number)]
    del paths  # and the rows that they hold
    problem = probe.problem(train)
    solution = problem.solve(decay)
    if not solution.converged:
        log.warning(
            "%s: L-BFGS stopped after %d iterations before its optimum (gradient %.1e)",
            label, solution.iterations, solution.gradient,
        )  # fmt: skip
    context.progress(f"refit {label}", 1, 1)
    return LinearFit(
        probe.group(problem, [solution]),
        choice,
        tried,
        solution,
        [*curves, probe.row(solution, "refit")],
        time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Probe:
    """The probe that is solved for, and the seed of its member."""

    label: str
    context: FitContext
    seed: int

    def problem(self, feed: Feed) -> Problem:
        """The rows of ``feed`` in all stored views; where they are many the processes share them."""
        (name,) = feed.inputs
        shape, classes = self.context.shape, self.context.num_outputs
        count, width = len(feed) * feed.measured, input_width(shape, name)
        shared = world().size > 1 and count * width > DOUBLE
        mine = feed.part() if shared else feed

        def rows() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in mine.in_order(BATCH) if len(mine) else ():
                yield batch.inputs[name], batch.labels

        return Problem(rows, count, width, classes, self.context.device, shared)

    def group(self, problem: Problem, solutions: Sequence[Solution]) -> Group:
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

    def solve(self, decays: Sequence[float]) -> None:
        """Solve at each decay, from the strongest on, from the nearest solution that is known."""
        for decay in sorted(decays, reverse=True):
            start = min(
                self.solutions,
                key=lambda one: abs(math.log((one + TINY) / (decay + TINY))),
                default=None,
            )
            known = None if start is None else self.solutions[start]
            self.solutions[decay] = self.problem.solve(decay, known, SELECTING)
        group = self.probe.group(self.problem, [self.solutions[decay] for decay in decays])
        context, targets = self.probe.context, self.held_out.targets
        (record,) = predict_all([group], self.held_out, BATCH, context.task, "scores")
        scores = context.metric.needed_scores(Arrays(record), targets)
        self.scores |= zip(decays, scores, strict=True)

    def rows(self, fold: int) -> list[CurveRow]:
        metric, targets = self.probe.context.metric, self.held_out.targets
        return [
            self.probe.row(
                solution, "select", fold, float(metric.mean(self.scores[decay], targets))
            )
            for decay, solution in self.solutions.items()
        ]


def _choose(paths: Sequence[_Path], targets: np.ndarray, context: FitContext) -> Choice | None:
    """The rule of `protocols/choosing.py`, each decay evaluated once: at its optimum."""
    held_out = np.unique(np.concatenate([path.fold.held_out for path in paths]))
    counts = np.zeros(len(held_out), np.float32)
    sums = {decay: np.zeros(len(held_out), np.float32) for decay in paths[0].scores}
    for path in paths:
        columns = np.searchsorted(held_out, path.fold.held_out)
        counts[columns] += 1
        for decay, scores in path.scores.items():
            sums[decay][columns] += scores
    records = [Record(0.0, decay, [1], (total / counts)[None]) for decay, total in sums.items()]
    metric = context.metric
    return choose(records, metric.weights(targets[held_out]), context.protocol.errors, metric.sign)
