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
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel

from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.cost.search import SearchPlan, plan_search
from iceprobe.cost.step_timer import TOKENS_AT_ONCE, Rehearsed, Step, Steps, rehearse
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.checks import DTYPES, check_device
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import tensors_read
from iceprobe.fitting.linear import DECAYS, given_decays
from iceprobe.fitting.members import Shape
from iceprobe.fitting.step_memory import StepMemory, check_memory, step_memory
from iceprobe.machine.disk_speed import read_speed
from iceprobe.machine.free_memory import available_memory
from iceprobe.probes import parse_probe, probe_label, within_budget
from iceprobe.probes.pooling import QueryPooling
from iceprobe.probes.probe import Probe
from iceprobe.protocols.grids import grid_of
from iceprobe.protocols.protocol import Protocol, for_images, get_protocol, images_per_step
from iceprobe.protocols.repeats import repeated
from iceprobe.store.format import Settings
from iceprobe.store.format import Shape as StoredShape
from iceprobe.store.layout import STORED, image_bytes, patch_bytes, token_layout

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


@checked
def plan_fit(
    backbone: "Backbone",
    dataset: Data | int,
    probes: Sequence[str],
    *,
    num_classes: int | None = None,
    budget: int | None = None,
    budget_flops: int | None = None,
    protocol: str = "heldout",
    seeds: int | None = None,
    replicates: int | None = None,
    shots: int | None = None,
    fraction: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    min_steps: int | None = None,
    halving: bool = False,
    coordinates: str | None = None,
    split: str = "test",
    memory: int | None = None,
    device: str | None = None,
    amp: str = "float32",
    limit: int | None = None,
    tokens: str = "float16",
    views: int = 0,
    root: str | Path = "features/",
    measure_seconds: float = 3.0,
    here: bool = True,
    bytes_per_second: float | None = None,
    flops_per_second: float | None = None,
) -> FitPlan:
    """What ``fit`` of ``probes`` on the tokens of ``backbone`` would cost; nothing is kept.

    k-NN learns nothing and is told apart, in ``search``; settings that ``halving`` would stop are counted
    to their end, and those that a grid grows by not at all. Classes are taken to be of equal size.

    Args:
        backbone: whose tokens they are; only their shape counts.
        dataset: or, on paper, only its number of training images; nothing is reported then.
        num_classes: on paper; a data set has its own.
        limit: images of each split, as :func:`iceprobe.extract` takes them.
        tokens: dtype in which they are stored.
        views: augmented views stored of each training image.
        root: folder of the feature stores.
        measure_seconds: how long to run training steps for, about.
        here: whether the fit is to run on this machine; its free memory is looked at only then.
        bytes_per_second: of the disk; measured by default where tokens don't fit into memory and
            the fit is to run here.
        flops_per_second: that a step reaches on its device, in place of running any.
            The rest as for :func:`iceprobe.fit`.

    Raises:
        IceprobeError: for what ``fit`` would refuse, classes that aren't told, or speeds that
            aren't positive. (A step that doesn't fit into memory is told in ``refusal``.)
    """
    for name, speed in (("bytes", bytes_per_second), ("flops", flops_per_second)):
        if speed is not None and not 0 < speed < math.inf:
            raise IceprobeError(f"{name}_per_second={speed}: give a number above 0")
    if isinstance(dataset, int):
        sizes = {"train": dataset}
        if num_classes is None:
            raise IceprobeError(f"{dataset} images without a data set: give num_classes as well")
    else:
        dataset = load_dataset(dataset)
        sizes = {name: len(part) for name, part in dataset.splits.items()}
        num_classes = len(dataset.classes)
    for name, count in (
        ("seeds", seeds),
        ("replicates", replicates),
        ("images", min(sizes.values())),
    ):
        if count is not None and count < 1:
            raise IceprobeError(f"{name}={count}: give at least 1")
    for name, dtype, known in (("amp", amp, DTYPES), ("tokens", tokens, STORED)):
        if dtype not in known:
            raise IceprobeError(unknown(f"dtype for {name}", dtype, known))
    sizes = {name: min(size, limit or size) for name, size in sizes.items()}
    images = _learnt_from(sizes.get("train", 0), num_classes, shots, fraction)
    reported = sizes.get(split, 0)
    low_shot = shots is not None or fraction is not None
    asked = get_protocol(
        protocol,
        epochs=epochs,
        batch_size=batch_size,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        min_steps=min_steps,
        halving=halving,
        coordinates=coordinates,
    )
    asked = for_images(asked, max(1, images))

    texts = list(probes)
    if budget is not None or budget_flops is not None:
        texts += within_budget(
            backbone.dim, num_classes, backbone.num_tokens, parameters=budget, flops=budget_flops
        )
    labels = dict.fromkeys(probe_label(parse_probe(text)) for text in texts)
    trained = [label for label in labels if parse_probe(label).name != "knn"]
    seeds, replicates = repeated(
        seeds, replicates, trained=len(trained), held_out=asked.held_out, low_shot=low_shot
    )
    seeds = seeds if replicates is None else 1
    widths = [
        backbone.vectors.get(parse_probe(label).options.get("input", ""), backbone.dim)
        for label in labels
        if label not in trained
    ]
    banks = _searched(asked, images, reported, num_classes) * (replicates or 1)
    search = None
    if widths and images:
        search = plan_search(
            [(bank, queries, width) for width in widths for bank, queries in banks],
            device=check_device(device),
            flops_per_second=flops_per_second,
            measure_seconds=min(measure_seconds, 1.0),
        )
    shape = Shape(
        backbone.dim,
        num_classes,
        backbone.grid,
        backbone.has_class,
        backbone.pooled_class,
        backbone.vectors,
    )
    solved = [
        one
        for one in trained
        if asked.solves_linear and parse_probe(one).name == "linear" and images
    ]
    solving = sum(_solving_flops(asked, shape, label, images) for label in solved)
    solving_seconds = solving / (flops_per_second or product_speed(check_device(device)))
    trained = [one for one in trained if one not in solved]
    if not trained or not images:
        return FitPlan(
            members=len(solved), repetitions=replicates or 1, images=images, phases=[],
            flops=(replicates or 1) * solving, held=None, bytes_per_second=None,
            solving=solving_seconds, search=search,
            basis="linear probes are solved for" if solved else "nothing is trained",
        )  # fmt: skip

    built = [shape.build(label) for label in trained]
    grids = {
        label: grid_of(asked, label, probe.num_parameters()["total"])
        for label, probe in zip(trained, built, strict=True)
    }
    points = [len(grid.points) for grid in grids.values()]
    phases = phases_of(asked, points, seeds, images, reported, num_classes)
    stored = StoredShape.of(backbone)
    settings = Settings(tokens=tokens)  # type: ignore[arg-type]  # one of STORED
    layout = token_layout(stored, settings)
    each = patch_bytes(layout)
    read = image_bytes(layout, [*tensors_read({probe.input for probe in built}), "scales"])
    members = {label: seeds * count for label, count in zip(trained, points, strict=True)}
    context = FitContext(
        asked,
        shape,
        run_seed=0,
        device=check_device(device if flops_per_second is None else "cpu"),
        amp=DTYPES[amp],
        checkpoint=Checkpoint(None, ""),
        progress=lambda stage, done, total: None,
    )
    step = step_memory(members, context, stored.num_tokens, stored.num_prefix, images, each)
    held = None
    if any(probe.input.endswith("patches") for probe in built):
        looked_at = reported if asked.held_out == 0 else 0  # after every epoch
        needed = step.least + read * ((1 + views) * images + looked_at)
        held = _held(needed, memory, here)
    if held is not False:
        bytes_per_second = None
    elif bytes_per_second is None and here:
        bytes_per_second = read_speed(Path(root))

    batch, refusal = images_per_step(asked, images), None
    if flops_per_second is not None:
        one, grid = (
            _step(built, [seeds * count for count in counts], batch, backbone, flops_per_second)
            for counts in ([1] * len(built), points)
        )
        steps, basis = Rehearsed(one, grid, 0, 0), f"at {flops_per_second / 1e12:g} TFLOP/s"
    else:
        run = Steps(
            grids,
            seeds,
            asked,
            shape=shape,
            stored=stored,
            settings=settings,
            device=context.device,
            amp=context.amp,
        )
        refusal = _refusal(step, sum(members.values()), context) if here else None
        if refusal is None:
            most = max(2, TOKENS_AT_ONCE // (4 * stored.num_tokens * stored.dim))
            steps = rehearse(run, max(points), batch, most, measure_seconds)
            basis = _told(steps, max(points), batch, here)
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
        flops=(replicates or 1)
        * (sum(_flops(phase, built, backbone) for phase in phases) + solving),
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


def _solving_flops(protocol: Protocol, shape: Shape, label: str, images: int) -> float:
    """Of a linear probe's path of decays on every part, and of its refit: three products a look."""
    width = shape.vectors.get(shape.build(label).input, shape.dim)
    parts = protocol.folds * protocol.repeats if images < protocol.folds_below else 1
    decays = len(given_decays(protocol) or DECAYS)
    return (parts * decays + 1) * LOOKS * 6.0 * images * width * shape.num_classes


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
    probes: Sequence[Probe], each: Sequence[int], batch: int, backbone: "Backbone", speed: float
) -> Step:
    """Seconds of a step of so many members of every probe, by their FLOPs."""
    train, look = (
        batch * sum(n * f(probe, backbone) for n, probe in zip(each, probes, strict=True)) / speed
        for f in (_training_flops, _forward_flops)
    )
    return Step(train, look)


def _flops(phase: Phase, probes: Sequence[Probe], backbone: "Backbone") -> float:
    return phase.all_epochs * sum(
        members * phase.learnt * _training_flops(probe, backbone)
        + members * phase.looked_at * _forward_flops(probe, backbone)
        for members, probe in zip(phase.each, probes, strict=True)
    )


def _forward_flops(probe: Probe, backbone: "Backbone") -> int:
    return probe.flops(backbone.num_tokens, backbone.num_prefix)


def _training_flops(probe: Probe, backbone: "Backbone") -> int:
    """Of one image: forward, by weight and by input backward.

    Tokens are frozen: where queries meet them directly, no product by input is made.
    """
    forward = _forward_flops(probe, backbone)
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
