"""`heldout` for trainings that pass the backbone at every step.

As for frozen probes, a stratified tenth of train, in whole groups where there are any, selects learning
rate and weight decay by the task's metric at the last epoch, the selected setting is trained again on all of train, and the test split is read once. But
only the first seed selects, for all seeds; and with a grid of one setting nothing is held out.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.adaptation.coordinates import published
from iceprobe.adaptation.examples import Examples
from iceprobe.adaptation.finished import Finished, Trainings
from iceprobe.adaptation.steps import MicroBatch
from iceprobe.adaptation.training import (
    AdaptationContext,
    Training,
    kept_of,
    predict,
    time_step,
    train,
)
from iceprobe.backbones.kinds import plural
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import duration
from iceprobe.fitting.api import file_name
from iceprobe.probes.probe import Probe
from iceprobe.protocols.choosing import Choice, best_at_last_epoch
from iceprobe.results.curves import CurveRow
from iceprobe.results.predictions import Predictions
from iceprobe.tasks.records import Arrays
from iceprobe.tasks.stratified import heldout_split

log = logging.getLogger("iceprobe")

SELECTED_ON = "held-out 10% of train, first seed"
SELECTED_ON_GROUPS = "held-out 10% of train in whole groups, first seed"
UNSELECTED = "nothing: one setting, its last epoch"
Stepped = Callable[[int], None]


@dataclass(frozen=True)
class AdaptedFit:
    """The outcome of one adaptation with one probe; lists have one entry a seed."""

    adaptation: str
    probe: str
    probes: list[Probe]
    adapters: list[str]
    counts: dict[str, int]
    predictions: Predictions
    choice: Choice
    selected_on: str
    rows: list[CurveRow]
    seconds: float


class AdaptationRun:
    """All trainings of one run.

    Args:
        setting: shared by the trainings.
        examples: to learn from.
        reported: to report on.
        seeds: initialisations.
        trainings: those that are already finished.
        folder: of the run.
        groups: ``(n,)`` of the examples to learn from, which are held out whole; None: all are independent.
    """

    def __init__(
        self,
        setting: AdaptationContext,
        examples: Examples,
        reported: Examples,
        *,
        seeds: Sequence[int],
        trainings: Trainings,
        folder: Path,
        groups: NDArray[np.int64] | None = None,
    ):
        self.setting, self.examples, self.reported = setting, examples, reported
        self.seeds, self.trainings, self.folder = seeds, trainings, folder
        strata, share = setting.task.strata(examples.targets), setting.protocol.held_out
        learn, held = heldout_split(strata, setting.run_seed, share, groups)
        self._selected_on = SELECTED_ON if groups is None else SELECTED_ON_GROUPS
        self._learn, self._held = examples.take(learn), examples.take(held)
        self._micro: dict[str, MicroBatch] = {}

    def candidates(self, adaptation: str, probe: str) -> list[Training]:
        """The grid, with the first seed.

        Raises:
            IceprobeError: if the grid has several settings and no example can be held out, or the metric
                isn't defined for those that are.
        """
        protocol = self.setting.protocol
        tasks = [
            Training(adaptation, probe, rate, decay, self.seeds[0], "select")
            for rate, decay in product(protocol.learning_rates or (), protocol.weight_decays or ())
        ]
        if len(tasks) > 1 and not len(self._held):
            kinds = plural(self.examples.preprocessing.kind)
            raise IceprobeError(
                f"{len(self.examples)} training {kinds} leave none to hold out: give one of "
                f"--learning-rates, or a class two or more {kinds}"
            )
        if len(tasks) > 1:
            kept_of(self.setting, self._held)
        return tasks

    def steps(self, pair: tuple[str, str]) -> int:
        """Most examples that pass the backbone in the trainings of ``pair``."""
        epochs, grid = self.setting.protocol.epochs, self.candidates(*pair)
        selecting = len(grid) * len(self._learn) if len(grid) > 1 else 0
        return epochs * (selecting + len(self.seeds) * len(self.examples))

    def time_step(self, pair: tuple[str, str]) -> float:
        """Estimated seconds of the unfinished trainings of ``pair``, from one step."""
        grid = self.candidates(*pair)
        selecting, refits = self._unfinished(grid)
        if not selecting and not refits:
            return 0.0
        training, evaluation = time_step(
            grid[0], self.setting, self.examples, self._micro_of(grid[0])
        )
        epochs = self.setting.protocol.epochs
        trained = epochs * (selecting * len(self._learn) + refits * len(self.examples))
        evaluated = epochs * selecting * len(self._held) + refits * len(self.reported)
        return training * trained + evaluation * evaluated

    def _unfinished(self, grid: list[Training]) -> tuple[int, int]:
        """How many trainings of the selection remain, and at most how many refits."""
        done = [self.trainings.load(task) for task in grid] if len(grid) > 1 else []
        selecting = sum(one is None for one in done)
        if selecting:
            return selecting, len(self.seeds)
        choice = self._choice(grid, [row for one in done if one for row in one.rows])
        refits = self._refits(grid[0], choice)
        return 0, sum(self.trainings.load(task) is None for task in refits)

    def _refits(self, first: Training, choice: Choice) -> list[Training]:
        """One training a seed, at the selected setting."""
        rate, decay = choice.learning_rate, choice.weight_decay
        refit = replace(first, learning_rate=rate, weight_decay=decay, phase="refit")
        return [replace(refit, seed=seed) for seed in self.seeds]

    def _choice(self, grid: list[Training], rows: list[CurveRow]) -> Choice:
        only, epochs = grid[0], self.setting.protocol.epochs
        if len(grid) == 1:
            return Choice(only.learning_rate, only.weight_decay, epochs, 1, None)
        metric = self.setting.metric
        choice = best_at_last_epoch(rows, metric.sign, metric.worst)
        if choice is None:
            raise IceprobeError(
                f"{only.label} diverged at every learning rate: give smaller --learning-rates"
            )
        return choice

    def run(self, pair: tuple[str, str], stepped: Stepped) -> AdaptedFit:
        """Select, train again with every seed, and read the reported split once.

        Args:
            pair: adaptation and probe.
            stepped: called with the number of examples after each step and each skipped training.

        Raises:
            IceprobeError: if memory doesn't suffice, or no training stays finite.
        """
        grid = self.candidates(*pair)
        selected = [self._training(task, stepped) for task in grid] if len(grid) > 1 else []
        rows = [row for done in selected for row in done.rows]
        choice = self._choice(grid, rows)
        refits = self._refits(grid[0], choice)
        fits = [self._training(task, stepped) for task in refits]
        records = [done.record for done in fits]
        record = {name: torch.cat([one[name] for one in records]) for name in records[0]}
        return AdaptedFit(
            *pair,
            probes=[self._probe(task, done) for task, done in zip(refits, fits, strict=True)],
            adapters=[self._adapter(task) for task in refits],
            counts=fits[0].counts,
            predictions=Predictions.of(Arrays(record), self.reported.targets),
            choice=choice,
            selected_on=self._selected_on if len(grid) > 1 else UNSELECTED,
            rows=rows + [row for done in fits for row in done.rows],
            seconds=sum(done.seconds for done in [*selected, *fits]),
        )

    def _training(self, task: Training, stepped: Stepped) -> Finished:
        selecting = task.phase == "select"
        examples = self._learn if selecting else self.examples
        whole = self.setting.protocol.epochs * len(examples)
        if (done := self.trainings.load(task)) is not None:
            stepped(whole)
            self.setting.told(done.rows)
            return done
        began, model, seen = time.monotonic(), self.setting.model(task), 0

        def step(count: int) -> None:
            nonlocal seen
            seen += count
            stepped(count)

        micro = self._micro_of(task)
        evaluate_on = self._held if selecting else None
        rows = train(model, task, self.setting, examples, evaluate_on, micro, step)
        record: Mapping[str, Tensor] = {}
        probe: Mapping[str, Tensor] = {}
        if not selecting:
            learned = self.setting.learning(examples)
            record = predict(model, learned, self.reported, "everything", self.setting, micro)
            probe = published(model.probe, learned.scaling)
            self._keep(model.save, self.folder / self._adapter(task))
        stepped(whole - seen)  # left out by an early end
        seconds = time.monotonic() - began
        done = Finished(rows, seconds, model.num_parameters(), record, probe)
        self.trainings.save(task, done)
        log.info(
            "%s, %s at %g, seed %d: %s",
            task.label, task.phase, task.learning_rate, task.seed, duration(done.seconds),
        )  # fmt: skip
        return done

    def _micro_of(self, task: Training) -> MicroBatch:
        """Shared by the trainings of a pair: a size that didn't fit isn't tried again."""
        return self._micro.setdefault(task.label, MicroBatch(self.setting.micro_batch))

    def _probe(self, task: Training, done: Finished) -> Probe:
        probe = self.setting.build(task.probe)
        probe.load_state_dict(done.probe)
        return probe.eval()

    @staticmethod
    def _adapter(task: Training) -> str:
        return f"adapters/{file_name(task.label)}-seed{task.seed}"

    @staticmethod
    def _keep(save: Callable[[Path], None], folder: Path) -> None:
        """Save the whole folder or nothing, even if the process is killed."""
        temporary = folder.with_name(f".{folder.name}.partial")
        for left in (temporary, folder):
            shutil.rmtree(left, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        temporary.rename(folder)
