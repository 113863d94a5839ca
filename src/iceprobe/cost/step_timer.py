"""Seconds of a training step on this machine, from running a few real ones on random tokens.

    seconds(members) ≈ seconds(few) + (members − few) · slope

The groups, the batches and the thread that reads them ahead are those of a fit; only the tokens are
noise. If whole steps don't fit into the time given, fewer settings of the grid or fewer images are run,
and a straight line through two sizes gives the rest: a step has a constant cost (optimiser, launching)
and a cost in proportion to its members and its images.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import JointTrainer, predict
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.stacked import members_of
from iceprobe.fitting.whitening import Whitening
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.inputs import input_width, is_vector
from iceprobe.protocols.grids import Grid
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.layout import token_layout
from iceprobe.store.split import StoredSplit, memory_split
from iceprobe.tasks.classification import Classification
from iceprobe.tokens import TokenShape

FEW_IMAGES = 16
TOKENS_AT_ONCE = 2**30  # bytes of a measured batch in float32, at most
POOL_BYTES = 2**26  # of the noise that batches are gathered from: more than a cache holds
MOST_ROWS = 4096
BATCHES = 8  # an epoch of the timed steps


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of one batch: a training step, and an evaluation."""

    train: float
    evaluate: float


@dataclass(frozen=True)
class StepTimes:
    """Steps of a fit."""

    one: StepSeconds  # with one setting of the grid, all seeds
    grid: StepSeconds  # with all settings
    settings: int  # how many of them were run
    images: int  # of a batch that was run


#: Settings of the grid, images of a batch, seconds to spend → their step.
Runner = Callable[[int, int, float], StepSeconds]


def time_steps(run: Runner, settings: int, images: int, most: int, seconds: float) -> StepTimes:
    """Steps of ``images`` with one and with all ``settings``, in about ``seconds``.

    Args:
        run: runs steps of a size; see :data:`Runner`.
        settings: of the grid.
        images: of a batch.
        most: images that a timed batch may have.
        seconds: to spend; a warm-up step, one that counts and an evaluation are run in any case.
    """
    few = min(FEW_IMAGES, images, most)
    least = run(1, few, seconds / 10)
    rounds = 2 * least.train + least.evaluate  # what a run takes at least
    room = int(few * 0.3 * seconds / rounds)  # images, were every step's seconds its images'
    size = min(images, most, max(few, room))
    one = least if size == few else run(1, size, 0.2 * seconds)
    rounds = 2 * one.train + one.evaluate
    count = min(settings, max(1, int(0.6 * seconds / rounds)))
    some = one if count == 1 else run(count, size, 0.6 * seconds)
    grid = line((1, one), (count, some), settings)
    if size < images:  # the grid's step grows with the images as that of one setting does
        larger = line((few, least), (size, one), images)
        grid = StepSeconds(
            grid.train * larger.train / one.train,
            grid.evaluate * larger.evaluate / one.evaluate,
        )
        one = larger
    return StepTimes(one, grid, count, size)


def line(a: tuple[int, StepSeconds], b: tuple[int, StepSeconds], at: int) -> StepSeconds:
    """The step at size ``at`` on the line through ``a`` and ``b``, never a falling one.

    If both have the same size, seconds are in proportion to it.
    """
    (x, first), (y, second) = a, b

    def seconds(f: float, s: float) -> float:
        return s * at / y if x == y else s + max(0.0, s - f) * (at - y) / (y - x)

    return StepSeconds(seconds(first.train, second.train), seconds(first.evaluate, second.evaluate))


class RealSteps:
    """Runs real steps of a fit on random tokens of a store with ``settings``: a :data:`Runner`."""

    def __init__(
        self,
        grids: Mapping[str, Grid],
        seeds: int,
        context: FitContext,
        settings: ExtractionSettings,
    ):
        self.grids, self.seeds, self.context = grids, seeds, context
        self.inputs = {context.build(label).input for label in grids}
        patches = not all(map(is_vector, self.inputs))
        self.split = noise(context.shape, settings.model_copy(update={"patches": patches}))

    def __call__(self, settings: int, images: int, seconds: float) -> StepSeconds:
        points = {label: grid.points[:settings] for label, grid in self.grids.items()}
        context = self.context
        groups = make_groups(
            members_of(points, range(self.seeds)),
            context.shape,
            context.num_outputs,
            context.device,
            self._whitenings(),
            self._coordinates(),
        )
        trainer = JointTrainer(groups, context.protocol.optimizer, steps=1_000_000, warmup=1)
        rows = np.resize(np.arange(len(self.split)), BATCHES * images)
        feed = Feed(self.split, rows, self.inputs, context.device, context.dtype)
        train = self._train(trainer, feed, images, seconds)
        batches = [next(feed.in_order(images))]
        began = self._now()
        predict(groups, batches, Classification(), "scores")
        return StepSeconds(train, self._now() - began)

    def _train(self, trainer: JointTrainer, feed: Feed, images: int, seconds: float) -> float:
        """Mean seconds of a step after a first one."""
        steps, began = -1, 0.0
        while True:
            for batch in feed.shuffled(images, 0, steps + 1):
                trainer.train_step(batch)
                steps += 1
                now = self._now()
                if steps == 0:
                    began = now
                elif now - began >= seconds:
                    return (now - began) / steps

    def _whitenings(self) -> dict[str, Whitening]:
        """Whitening that changes nothing and costs as much as any."""
        shape = self.context.shape
        if self.context.protocol.whitening is None:
            return {}
        widths = {name: input_width(shape, name) for name in self.inputs if is_vector(name)}
        return {
            name: Whitening(torch.zeros(width), torch.ones(width), torch.eye(width))
            for name, width in widths.items()
        }

    def _coordinates(self) -> dict[str, Coordinates]:
        """Likewise."""
        if self.context.protocol.coordinates == "raw":
            return {}
        found = {}
        for name in (name for name in self.inputs if not is_vector(name)):
            width = input_width(self.context.shape, name)
            zero, one = torch.zeros(width), torch.ones(width)
            found[name] = Coordinates(zero, one, 1.0, zero, one)
        return found

    def _now(self) -> float:
        if self.context.device.type == "cuda":
            torch.cuda.synchronize(self.context.device)
        return time.perf_counter()


def noise(shape: TokenShape, settings: ExtractionSettings) -> StoredSplit:
    """A split of random tokens in memory, with as many images as `POOL_BYTES` hold, all of mean length."""
    layout = token_layout(shape.even(), settings)
    each = sum(dtype.itemsize * torch.Size(size).numel() for dtype, size in layout.values())
    images = max(2, min(MOST_ROWS, POOL_BYTES // each))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(1, *size, generator=generator).to(dtype).repeat(images, *[1] * len(size))
        for name, (dtype, size) in layout.items()
    }
    number = torch.arange(images)
    return memory_split({**tensors, "label": torch.zeros_like(number), "index": number}, shape)
