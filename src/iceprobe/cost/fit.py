"""What a fit will cost, before it is begun, and whether a feature store pays for itself.

    seconds = Σ_phases epochs · max(learnt / B · train + looked at / B · look, read / disk) + solving

A phase has its members: all of the grid to select, one setting to refit. Its batches of B images
cost a training step or a look; tokens beyond the memory are read while the members learn. Linear probes
are solved for (`linear.py`): passes over the vectors, at the speed of a matrix product. Live,
without a store, every image read is a forward pass of the backbone on the same device instead:

    cached = extraction + seconds        live = Σ_phases (steps + images / images per second)
"""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.cost.search import SearchPlan, plan_search
from iceprobe.cost.step_timer import TOKENS_AT_ONCE, Rehearsed, Step, Steps, rehearse
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.checks import DTYPES, check_device
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import tensors_read
from iceprobe.fitting.linear import DECAYS, given_decays
from iceprobe.fitting.step_memory import StepMemory, check_memory, step_memory
from iceprobe.machine.disk_speed import read_speed
from iceprobe.machine.free_memory import available_memory
from iceprobe.probes import parse_probe, probe_label, within_budget
from iceprobe.probes.pooling import QueryPooling
from iceprobe.probes.probe import Probe, build_for
from iceprobe.protocols.grids import grid_of
from iceprobe.protocols.protocol import Protocol, for_images, images_per_step, protocol_of
from iceprobe.protocols.repeats import repeated
from iceprobe.settings import FitPlanning
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.layout import image_bytes, patch_bytes, token_layout
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

LOOKS = 40  # at all rows, of a search for an optimum: on the bundled sets 12 to 110 iterations
PRODUCT = ((2048, 192), (192, 16))


class Phase(BaseModel):
    """A phase of the protocol, in one repetition.

    Attributes:
        name: ``"select"``, ``"refit"``, ``"paper"`` or, the last look, ``"report"``.
        members: that learn together.
        settings: of the grid among them, of the probe that has most.
        each: members of each probe, in their order.
        epochs: at most; a refit stops at the epoch that was selected.
        learnt, looked_at: images of an epoch, to train on and to evaluate on.
        times: that it is run, once for each held-out part.
        step_seconds: of its epochs, tokens at hand.
        seconds: of its epochs, with reading where that takes longer.
    """

    name: str
    members: int
    settings: int
    each: list[int]
    epochs: int
    learnt: int
    looked_at: int
    times: int = 1
    step_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """Images read in all its epochs."""
        return self.all_epochs * (self.learnt + self.looked_at)

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
        basis: where a step's seconds come from, in words.
        refusal: why it can't be run on this machine; seconds are 0 then.
    """

    members: int
    repetitions: int
    images: int
    phases: list[Phase]
    flops: float
    held: bool | None
    bytes_per_second: float | None
    solving: float = 0.0
    search: SearchPlan | None = None
    basis: str
    refusal: str | None = None

    @property
    def seconds(self) -> float:
        """Of the whole fit on stored tokens."""
        return self.repetitions * (sum(phase.seconds for phase in self.phases) + self.solving)

    @property
    def epochs(self) -> int:
        """That members learn for, all phases and repetitions."""
        return self.repetitions * sum(phase.all_epochs for phase in self.phases if phase.learnt)

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch of all members, its look included, on stored tokens."""
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
        """The first epoch by whose end extraction and cached epochs have taken no longer than live
        ones; ``None`` if an epoch is no shorter for the store."""
        saved = self.live_epoch_seconds(images_per_second) - self.epoch_seconds
        if saved <= 0:
            return None
        return max(1, math.ceil(extraction_seconds / saved - 1e-9))


@takes(FitPlanning)
def plan_fit(
    backbone: "Backbone | TokenShape",
    dataset: Data | int,
    probes: Sequence[str],
    *,
    call: FitPlanning,
) -> FitPlan:
    """What ``fit`` of ``probes`` on the tokens of ``backbone`` would cost; nothing is kept.

    k-NN learns nothing and is told apart, in ``search``; settings that ``halving`` would stop are counted
    to their end, and those that a grid grows by not at all. Classes are taken to be of equal size.

    Args:
        backbone: whose tokens they are, or the shape of them alone.
        dataset: or, on paper, only its number of training images; nothing is reported then.
        call: settings or options as of :func:`iceprobe.fit`, with ``num_classes`` on paper, where a data
            set would have its own; ``limit``, ``tokens``, ``views`` and ``features`` of the extraction;
            ``here``, whether the fit is to run on this machine, whose free memory is looked at only then;
            and how it is measured: ``measure_seconds`` of training steps, about, ``bytes_per_second`` of the
            disk (measured by default where tokens don't fit into memory), or ``flops_per_second`` that a
            step reaches on its device, in place of running any.

    Raises:
        IceprobeError: for what ``fit`` would refuse, classes that aren't told, or speeds that
            aren't positive. (A step that doesn't fit into memory is told in ``refusal``.)
    """
    if isinstance(dataset, int):
        sizes, num_classes = {"train": dataset}, call.num_classes or 0
        if call.num_classes is None:
            raise IceprobeError(f"{dataset} images without a data set: give num_classes as well")
    else:
        dataset = load_dataset(dataset)
        sizes = {name: len(part) for name, part in dataset.splits.items()}
        num_classes = len(dataset.classes)
    if (images := min(sizes.values())) < 1:
        raise IceprobeError(f"images={images}: give at least 1")
    sizes = {name: min(size, call.limit or size) for name, size in sizes.items()}
    images = _learnt_from(sizes.get("train", 0), num_classes, call.shots, call.fraction)
    reported = sizes.get(call.split, 0)
    low_shot = call.shots is not None or call.fraction is not None
    asked = protocol_of(call)
    asked = for_images(asked, max(1, images))

    shape = backbone if isinstance(backbone, TokenShape) else backbone.shape
    texts = list(probes)
    if call.budget is not None or call.budget_flops is not None:
        texts += within_budget(
            shape.dim,
            num_classes,
            shape.num_tokens,
            parameters=call.budget,
            flops=call.budget_flops,
        )
    labels = dict.fromkeys(probe_label(parse_probe(text)) for text in texts)
    trained = [label for label in labels if parse_probe(label).name != "knn"]
    seeds, replicates = repeated(
        call.seeds,
        call.replicates,
        trained=len(trained),
        held_out=asked.held_out,
        low_shot=low_shot,
    )
    seeds = seeds if replicates is None else 1
    widths = [
        shape.vectors.get(parse_probe(label).options.get("input", ""), shape.dim)
        for label in labels
        if label not in trained
    ]
    banks = _searched(asked, images, reported, num_classes) * (replicates or 1)
    search = None
    if widths and images:
        search = plan_search(
            [(bank, queries, width) for width in widths for bank, queries in banks],
            device=check_device(call.device),
            flops_per_second=call.flops_per_second,
            measure_seconds=min(call.measure_seconds, 1.0),
        )
    solved = [
        one
        for one in trained
        if asked.solves_linear and parse_probe(one).name == "linear" and images
    ]
    solving = sum(_solving_flops(asked, shape, num_classes, label, images) for label in solved)
    solving_seconds = solving / (call.flops_per_second or product_speed(check_device(call.device)))
    trained = [one for one in trained if one not in solved]
    if not trained or not images:
        return FitPlan(
            members=len(solved), repetitions=replicates or 1, images=images, phases=[],
            flops=(replicates or 1) * solving, held=None, bytes_per_second=None,
            solving=solving_seconds, search=search,
            basis="linear probes are solved for" if solved else "nothing is trained",
        )  # fmt: skip

    built = [build_for(shape, label, num_classes) for label in trained]
    grids = {
        label: grid_of(asked, label, probe.num_parameters()["total"])
        for label, probe in zip(trained, built, strict=True)
    }
    points = [len(grid.points) for grid in grids.values()]
    phases = phases_of(asked, points, seeds, images, reported, num_classes)
    settings = ExtractionSettings(tokens=call.tokens)
    layout = token_layout(shape, settings)
    each = patch_bytes(layout)
    read = image_bytes(layout, [*tensors_read({probe.input for probe in built}), "scales"])
    members = {label: seeds * count for label, count in zip(trained, points, strict=True)}
    context = FitContext(
        asked,
        shape,
        num_classes,
        run_seed=0,
        device=check_device(call.device if call.flops_per_second is None else "cpu"),
        amp=DTYPES[call.fit_dtype],
        checkpoint=Checkpoint(None, ""),
        progress=lambda stage, done, total: None,
    )
    step = step_memory(members, context, shape.num_tokens, shape.num_prefix, images, each)
    held = None
    if any(probe.input.endswith("patches") for probe in built):
        looked_at = reported if asked.held_out == 0 else 0  # after every epoch
        needed = step.least + read * ((1 + call.views) * images + looked_at)
        held = _held(needed, call.memory, call.here)
    bytes_per_second = call.bytes_per_second
    if held is not False:
        bytes_per_second = None
    elif bytes_per_second is None and call.here:
        bytes_per_second = read_speed(call.features)

    batch, refusal = images_per_step(asked, images), None
    if call.flops_per_second is not None:
        one, grid = (
            _step(built, [seeds * count for count in counts], batch, shape, call.flops_per_second)
            for counts in ([1] * len(built), points)
        )
        steps, basis = Rehearsed(one, grid, 0, 0), f"at {call.flops_per_second / 1e12:g} TFLOP/s"
    else:
        run = Steps(
            grids,
            seeds,
            asked,
            shape=shape,
            num_classes=num_classes,
            settings=settings,
            device=context.device,
            amp=context.amp,
        )
        refusal = _refusal(step, sum(members.values()), context) if call.here else None
        if refusal is None:
            most = max(2, TOKENS_AT_ONCE // (4 * shape.num_tokens * shape.dim))
            steps = rehearse(run, max(points), batch, most, call.measure_seconds)
            basis = _told(steps, max(points), batch, call.here)
        else:
            steps, basis = Rehearsed(Step(0, 0), Step(0, 0), 0, 0), "not run"
    if any(grid.grows for grid in grids.values()):
        basis += "; a grid whose best rate lies at its edge grows, which isn't counted"
    if asked.halving:
        basis += "; at most: settings that stop early are counted to their end"
    phases = [_costed(phase, steps, batch, each, bytes_per_second) for phase in phases]
    return FitPlan(
        members=phases[0].members + len(solved),
        repetitions=replicates or 1,
        images=images,
        phases=phases,
        flops=(replicates or 1) * (sum(_flops(phase, built, shape) for phase in phases) + solving),
        held=held,
        bytes_per_second=bytes_per_second,
        solving=solving_seconds,
        search=search,
        basis=basis,
        refusal=refusal,
    )


def phases_of(
    protocol: Protocol,
    points: Sequence[int],
    seeds: int,
    images: int,
    reported: int,
    num_classes: int,
) -> list[Phase]:
    """The phases of a protocol on ``images`` of classes of equal size, without their seconds.

    Args:
        points: settings of each probe's grid.
    """

    def phase(
        name: str,
        settings: Sequence[int],
        epochs: int,
        learnt: int,
        looked_at: int,
        seeds: int = seeds,
        times: int = 1,
    ) -> Phase:
        return Phase(
            name=name,
            members=seeds * sum(settings),
            settings=max(settings),
            each=[seeds * count for count in settings],
            times=times,
            epochs=epochs,
            learnt=learnt,
            looked_at=looked_at,
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


def _solving_flops(
    protocol: Protocol, shape: TokenShape, num_classes: int, label: str, images: int
) -> float:
    """Of a linear probe's path of decays on every part, and of its refit: three products a look."""
    width = shape.vectors.get(build_for(shape, label, num_classes).input, shape.dim)
    parts = protocol.folds * protocol.repeats if images < protocol.folds_below else 1
    decays = len(given_decays(protocol) or DECAYS)
    return (parts * decays + 1) * LOOKS * 6.0 * images * width * num_classes


def product_speed(device: torch.device, seconds: float = 0.05) -> float:
    """FLOPs a second of a product as the search for an optimum makes them, in float64."""
    left, right = (torch.ones(*size, dtype=torch.float64, device=device) for size in PRODUCT)
    done, began = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - began < seconds:
        float((left @ right)[0, 0])
        done += 1
    return done * 2.0 * left.numel() * right.shape[1] / (time.perf_counter() - began)


def _searched(
    protocol: Protocol, images: int, reported: int, num_classes: int
) -> list[tuple[int, int]]:
    """k-NN's (bank, queries): a search to select on held-out images, and one to report."""
    phases = phases_of(protocol, [1], 1, images, reported, num_classes)
    select = [(p.learnt, p.looked_at) for p in phases if p.name == "select" for _ in range(p.times)]
    return [*select, (images, reported)] if reported else select


def _learnt_from(images: int, num_classes: int, shots: int | None, fraction: float | None) -> int:
    """Training images of one repetition: all of them, or a draw."""
    if shots is not None:
        return min(images, shots * num_classes)
    return images if fraction is None else round(images * fraction)


def _held(needed: int, memory: int | None, here: bool) -> bool:
    """Whether so many bytes, tokens and a step, are held, as the fit decides it.

    Of another machine only a budget that was given tells; without one tokens are streamed.
    """
    if memory is None:
        memory = (available_memory() or 0) // 2 if here else 0
    return needed <= memory


def _refusal(step: StepMemory, members: int, context: FitContext) -> str | None:
    """What the fit itself would say against a step that memory doesn't hold."""
    try:
        check_memory(step, members, context.device)
    except IceprobeError as error:
        return str(error)
    return None


def _costed(
    phase: Phase, steps: Rehearsed, batch: int, image_bytes: int, bytes_per_second: float | None
) -> Phase:
    """With its seconds. A last batch that isn't full counts by its images."""
    step = steps.one if phase.settings == 1 else steps.grid
    at_hand = (phase.learnt * step.train + phase.looked_at * step.look) / batch
    read = (phase.learnt + phase.looked_at) * image_bytes
    epoch = max(at_hand, read / bytes_per_second) if bytes_per_second else at_hand
    return phase.model_copy(
        update={
            "step_seconds": phase.all_epochs * at_hand,
            "seconds": phase.all_epochs * epoch,
        }
    )


def _step(
    probes: Sequence[Probe], each: Sequence[int], batch: int, shape: TokenShape, speed: float
) -> Step:
    """Seconds of a step of so many members of every probe, by their FLOPs."""
    train, look = (
        batch * sum(n * f(probe, shape) for n, probe in zip(each, probes, strict=True)) / speed
        for f in (_training_flops, _forward_flops)
    )
    return Step(train, look)


def _flops(phase: Phase, probes: Sequence[Probe], shape: TokenShape) -> float:
    return phase.all_epochs * sum(
        members * phase.learnt * _training_flops(probe, shape)
        + members * phase.looked_at * _forward_flops(probe, shape)
        for members, probe in zip(phase.each, probes, strict=True)
    )


def _forward_flops(probe: Probe, shape: TokenShape) -> int:
    return probe.flops(shape.num_tokens, shape.num_prefix)


def _training_flops(probe: Probe, shape: TokenShape) -> int:
    """Of one image: forward, by weight and by input backward.

    Tokens are frozen: where queries meet them directly, no product by input is made.
    """
    forward = _forward_flops(probe, shape)
    meeting = forward - probe.flops(0) if isinstance(probe.pooling, QueryPooling) else 0
    return 3 * forward - meeting


def _told(steps: Rehearsed, settings: int, images: int, here: bool) -> str:
    """Where measured seconds come from."""
    scaled = [
        f"{some:,} of {all_:,} {what}"
        for some, all_, what in (
            (steps.settings, settings, "settings"),
            (steps.images, images, "images a step"),
        )
        if some < all_
    ]
    place = "measured here" if here else "at the speed of this machine, measured"
    return f"{place} on {' and '.join(scaled)}, scaled" if scaled else place
