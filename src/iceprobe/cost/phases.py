"""The phases of a fit and what they cost.

    seconds = Σ_phases epochs · max(trained on / B · train + evaluated on / B · evaluate, read / disk) + solving

A phase has its members: all of the grid to select, one setting to refit. A batch of B images costs a training
step, or an evaluation; tokens beyond the memory are read while members train. Linear probes are solved for
(`fitting/linear.py`): passes over the vectors, at the speed of a matrix product. Live, without a store, every
image read is a forward pass of the backbone on the same device instead:

    cached = extraction + seconds        live = Σ_phases (steps + images / images per second)
"""

import math
from collections.abc import Sequence

from pydantic import BaseModel

from iceprobe.cost.search import SearchPlan
from iceprobe.fitting.penalties import penalty_of
from iceprobe.probes.inputs import input_of
from iceprobe.probes.pooling import QueryPooling
from iceprobe.probes.probe import Probe
from iceprobe.protocols.protocol import Protocol
from iceprobe.tokens import TokenShape

PASSES = 40  # over all rows, of a search for an optimum: on the bundled sets 12 to 110 iterations


class PhaseCost(BaseModel):
    """A phase of the protocol, in one repetition.

    Attributes:
        name: ``"select"``, ``"refit"``, ``"paper"`` or, the last evaluation, ``"report"``.
        members: trained together.
        settings: of the grid among them, of the probe that has most.
        each: members of each probe, in their order.
        epochs: at most; a refit stops at the epoch that was selected.
        trained_on, evaluated_on: images of an epoch, to train on and to evaluate on.
        times: number of runs, one for each held-out part.
        step_seconds: of its epochs, with tokens in memory.
        seconds: of its epochs, with reading if that takes longer.
    """

    name: str
    members: int
    settings: int
    each: list[int]
    epochs: int
    trained_on: int
    evaluated_on: int
    times: int = 1
    step_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """Images read in all its epochs."""
        return self.all_epochs * (self.trained_on + self.evaluated_on)

    @property
    def all_epochs(self) -> int:
        """Of all times."""
        return self.times * self.epochs


class FitPlan(BaseModel):
    """What a fit will cost.

    Attributes:
        members: trained together: probes × settings × seeds.
        repetitions: complete ones, of which the others are the sum.
        images: it learns from, in one repetition.
        phases: in order.
        flops: of all passes, forward and backward.
        held: whether patch tokens are held in memory; ``None`` where no probe reads them.
        bytes_per_second: of the disk they are streamed from; ``None`` where they aren't, or it
            isn't known, and reading is not counted.
        solving: seconds for linear probes at their optimum, of one repetition; ``seconds`` counts them.
        search: k-NN's part, all repetitions, which ``seconds`` and ``flops`` don't count; ``None``
            where it isn't asked for.
        prediction_bytes: of ``predictions.safetensors``: what the task records of the reported images. Until a fit with
            replicates ends it takes as much again.
        basis: where a step's seconds come from, in words.
        refusal: why it can't be run on this machine; seconds are 0 then.
    """

    members: int
    repetitions: int
    images: int
    phases: list[PhaseCost]
    flops: float
    held: bool | None
    bytes_per_second: float | None
    solving: float = 0.0
    search: SearchPlan | None = None
    prediction_bytes: int = 0
    basis: str
    refusal: str | None = None

    @property
    def seconds(self) -> float:
        """Of the whole fit on stored tokens."""
        return self.repetitions * (sum(phase.seconds for phase in self.phases) + self.solving)

    @property
    def epochs(self) -> int:
        """That members learn for, all phases and repetitions."""
        return self.repetitions * sum(phase.all_epochs for phase in self.phases if phase.trained_on)

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch of all members with its evaluation, on stored tokens."""
        return self.phases[0].seconds / self.phases[0].all_epochs if self.phases else 0.0

    def live_epoch_seconds(self, images_per_second: float) -> float:
        """The same with a forward pass of the backbone for each image, and no store."""
        if not self.phases:
            return 0.0
        first = self.phases[0]
        return (first.step_seconds + first.images / images_per_second) / first.all_epochs

    def live_seconds(self, images_per_second: float) -> float:
        """Of the whole fit without a store."""
        steps = sum(phase.step_seconds for phase in self.phases)
        images = sum(phase.images for phase in self.phases)
        return self.repetitions * (steps + images / images_per_second)

    def pays_from(self, extraction_seconds: float, images_per_second: float) -> int | None:
        """The number of epochs from which extraction and cached epochs take no longer than live ones;
        ``None`` if the store makes no epoch shorter."""
        saved = self.live_epoch_seconds(images_per_second) - self.epoch_seconds
        if saved <= 0:
            return None
        return max(1, math.ceil(extraction_seconds / saved - 1e-9))


def phases_of(
    protocol: Protocol,
    points: Sequence[int],
    seeds: int,
    images: int,
    reported: int,
    num_classes: int,
) -> list[PhaseCost]:
    """The phases of a protocol on ``images`` of classes of equal size, without their seconds.

    Args:
        points: settings of each probe's grid.
    """

    def phase(
        name: str,
        settings: Sequence[int],
        epochs: int,
        trained_on: int,
        evaluated_on: int,
        seeds: int = seeds,
        times: int = 1,
    ) -> PhaseCost:
        return PhaseCost(
            name=name,
            members=seeds * sum(settings),
            settings=max(settings),
            each=[seeds * count for count in settings],
            times=times,
            epochs=epochs,
            trained_on=trained_on,
            evaluated_on=evaluated_on,
        )

    epochs = protocol.epochs
    if protocol.held_out == 0:
        return [phase("paper", points, epochs, images, reported)]
    each = images // num_classes
    if each < 2:
        select = []
    elif images < protocol.folds_below:
        held, times = images // protocol.folds, protocol.folds * protocol.repeats
        select = [phase("select", points, epochs, images - held, held, seeds=1, times=times)]
    else:
        held = num_classes * max(1, round(protocol.held_out * images / num_classes))
        select = [phase("select", points, epochs, images - held, held)]
    one = [1] * len(points)
    return [*select, phase("refit", one, epochs, images, 0), phase("report", one, 1, 0, reported)]


def solving_flops(
    protocol: Protocol,
    shape: TokenShape,
    num_classes: int,
    label: str,
    images: int,
    searched: bool = True,
) -> float:
    """Of a linear probe's path of decays on every part, and of its refit.

    A search makes three products a pass; in closed form (``searched`` is false) a part takes the products of the
    vectors with themselves and with the targets, and their decomposition.
    """
    width = input_of(shape, label).width(shape)
    penalty = penalty_of(label, protocol, images)
    parts = protocol.folds * protocol.repeats if images < protocol.folds_below else 1
    parts = 0 if penalty.given else parts
    if not searched:
        return (parts + 1) * (2.0 * images * width * (width + num_classes) + 10.0 * width**3)
    return (parts * len(penalty.values) + 1) * PASSES * 6.0 * images * width * num_classes


def phase_flops(phase: PhaseCost, probes: Sequence[Probe], shape: TokenShape) -> float:
    return phase.all_epochs * sum(
        members * phase.trained_on * training_flops(probe, shape)
        + members * phase.evaluated_on * forward_flops(probe, shape)
        for members, probe in zip(phase.each, probes, strict=True)
    )


def forward_flops(probe: Probe, shape: TokenShape) -> int:
    return probe.flops(shape.num_tokens, shape.num_prefix)


def training_flops(probe: Probe, shape: TokenShape) -> int:
    """Of one image: forward, by weight and by input backward.

    Tokens are frozen: their products with queries have no backward pass by input.
    """
    forward = forward_flops(probe, shape)
    of_queries = forward - probe.flops(0) if isinstance(probe.pooling, QueryPooling) else 0
    return 3 * forward - of_queries
