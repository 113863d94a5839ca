"""`heldout` for targets of pixels: select on held-out images, fit again on all, read test once.

The learning rate is the one with the best primary metric (mean IoU, RMSE) after the last epoch, mean over
seeds, on a tenth of the training images; with it a probe is trained on all of them, on the same schedule.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import predict
from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.memory import cache_tokens
from iceprobe.fitting.patch_group import PatchGroup, PixelFeed
from iceprobe.fitting.phase import Phase
from iceprobe.fitting.phases import Course
from iceprobe.fitting.stacked import Member, by_probe, members_of
from iceprobe.fitting.whitening import whitening
from iceprobe.protocols.choosing import Choice, best_at_last_epoch
from iceprobe.protocols.protocol import evaluation_epochs, images_per_step, total_steps
from iceprobe.results.curves import CurveRow
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.pixels import PixelTask
from iceprobe.tasks.records import Arrays
from iceprobe.tasks.stratified import heldout_split
from iceprobe.tasks.task import Keep


@dataclass
class DenseContext(FitContext):
    """The context of a fit of dense probes; its task has learnt from the training pixels already."""

    @property
    def of_pixels(self) -> PixelTask:
        """The task, as one of pixels."""
        assert isinstance(self.task, PixelTask)
        return self.task

    def learning(self, train: Feed) -> PixelTask:
        return self.of_pixels

    def kept_for(self, held_out: Feed) -> Keep:
        return "scores"

    @property
    def warmup_epochs(self) -> float:
        return self.protocol.warmup_epochs

    def groups(
        self, members: Sequence[Member], train: Feed, batch_size: int
    ) -> Sequence[PatchGroup]:
        """A group a probe, in coordinates whitened on ``train``."""
        assert isinstance(train, PixelFeed)
        assert self.shape.grid is not None
        rows, columns = self.shape.grid
        measured = whitening(
            lambda: train.tokens(batch_size),
            self.protocol.whitening or 0.0,
            copies=rows * columns,
        )
        return [
            PatchGroup(
                mine, self.num_outputs, measured, (rows, columns), self.device, self.task.scaling
            )
            for mine in by_probe(members).values()
        ]


@dataclass(frozen=True)
class FittedDense:
    """One probe after the protocol: its members, one a seed, their record of the test pixels and its choice.

    ``rows`` and ``steps`` are of its selection, ``held_out`` counts the images of that.
    """

    group: PatchGroup
    record: Any  # an `Arrays`
    choice: Choice
    held_out: int
    rows: list[CurveRow]
    steps: int


def run_heldout(
    context: DenseContext,
    store: Store,
    labels: Sequence[str],
    *,
    seeds: Sequence[int],
    split: str,
    memory: int | None,
) -> list[FittedDense]:
    """Fit the probes called ``labels``.

    Raises:
        IceprobeError: if a probe has no learning rate with which it stays finite.
    """
    protocol, whole = context.protocol, copy.copy(store["train"])
    task = context.of_pixels
    whole.views = None  # maps are those of the evaluation view
    train, test, context.shuffle = cache_tokens(
        whole,
        store[split],
        {"patches", task.map},
        memory,
        "auto",
        batch_size=images_per_step(protocol, len(whole)),
        beside=0,
        evaluated=False,
    )

    def feed(of: StoredSplit, rows: np.ndarray) -> PixelFeed:
        return PixelFeed(of, task, rows, context.device, context.shuffle)

    fit_rows, held_rows = heldout_split(
        context.task.strata(train.labels),
        context.run_seed,
        protocol.held_out,
        store.groups("train"),
    )
    course = Course(context, None)
    points = [(rate, 0.0) for rate in protocol.learning_rates or ()]
    grid = members_of(dict.fromkeys(labels, points), seeds)
    select = Phase("select", grid, evaluations=evaluation_epochs(protocol))
    course.run(select, feed(train, fit_rows), feed(train, held_rows))
    curves = {label: [row for row in select.rows if row.probe == label] for label in labels}
    sign, worst = context.metric.sign, context.metric.worst
    choices = {label: best_at_last_epoch(rows, sign, worst) for label, rows in curves.items()}
    found = {label: choice for label, choice in choices.items() if choice is not None}
    _check([label for label in labels if label not in found])
    chosen = {label: [(choice.learning_rate, 0.0)] for label, choice in found.items()}
    members = members_of(chosen, seeds)
    refit = course.run(Phase("refit", members), feed(train, np.arange(len(train))), None)
    _check(list(dict.fromkeys(one.member.probe for one in refit.dropped)))
    reported = _reported(context, split, feed(test, np.arange(len(test))))
    records = [Arrays(one) for one in predict(refit.groups, reported, context.task)]
    steps = total_steps(protocol, len(fit_rows))
    fitted = []
    for group, record in zip(refit.groups, records, strict=True):
        assert isinstance(group, PatchGroup)
        label = group.label
        fitted.append(
            FittedDense(group, record, found[label], len(held_rows), curves[label], steps)
        )
    return fitted


def _reported(context: FitContext, stage: str, feed: PixelFeed) -> Iterator[Batch]:
    size, done = images_per_step(context.protocol, len(feed)), 0
    for batch in feed.in_order(size):
        yield batch
        done += len(batch.labels)
        context.progress(stage, done, len(feed))


def _check(lost: Sequence[str]) -> None:
    if lost:
        raise IceprobeError(f"{', '.join(lost)} diverged: give smaller --learning-rates")
