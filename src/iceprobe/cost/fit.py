"""What a fit will cost before it begins, and whether a feature store pays for itself (`cost/phases.py`)."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.cost.phases import (
    FitPlan,
    PhaseCost,
    forward_flops,
    phase_flops,
    phases_of,
    solving_flops,
    training_flops,
)
from iceprobe.cost.search import plan_search
from iceprobe.cost.step_timer import TOKENS_AT_ONCE, RealSteps, StepSeconds, StepTimes, time_steps
from iceprobe.datasets import load_dataset
from iceprobe.datasets.base import Data
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.checks import check_device
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import tensors_read
from iceprobe.fitting.losses import SOLVED
from iceprobe.fitting.memory import StepMemory, check_memory, step_memory
from iceprobe.fitting.penalties import check_solved, is_solved
from iceprobe.machine.disk_speed import read_speed
from iceprobe.machine.free_memory import available_memory
from iceprobe.probes import parse_probe, probe_label
from iceprobe.probes.budget import budgeted
from iceprobe.probes.inputs import input_of, names_layers
from iceprobe.probes.probe import Probe, build_for
from iceprobe.protocols.grids import grid_of
from iceprobe.protocols.protocol import (
    Protocol,
    for_images,
    images_per_step,
    protocol_of,
    repeated,
    total_steps,
)
from iceprobe.settings import FitPlanning, Fitting
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.layout import (
    DTYPES,
    image_bytes,
    layout_read,
    patch_bytes,
    patch_tensors,
    token_layout,
)
from iceprobe.store.reader import Store
from iceprobe.tasks.registry import pooled_task
from iceprobe.tasks.task import Task
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

PRODUCT = ((2048, 192), (192, 16))
MANY_STEPS = 2000  # below it nothing is measured: a step takes far less than a minute
MOMENT = 0.3  # seconds of timed steps


@takes(FitPlanning)
def plan_fit(
    backbone: "Backbone | TokenShape",
    dataset: Data | int,
    probes: Sequence[str],
    *,
    call: FitPlanning,
) -> FitPlan:
    """What ``fit`` of ``probes`` on the tokens of ``backbone`` would cost; nothing is kept.

    k-NN trains nothing and is counted by itself, in ``search``. Settings that ``halving`` would stop are counted
    to their end; those that a grid grows by aren't counted. Classes are taken to be of equal size.

    Args:
        backbone: whose tokens they are, or the shape of them alone.
        dataset: or, on paper, its number of training images alone; nothing is reported then.
        settings: or options as keywords, as of :func:`iceprobe.fit`, with ``num_classes`` on paper, where a data
            set would have its own; ``limit``, ``tokens``, ``views`` and ``features`` of the extraction;
            ``here``, whether the fit is to run on this machine, whose free memory counts only then;
            and how it is measured: ``measure_seconds`` of training steps, about, ``bytes_per_second`` of the
            disk (measured by default where tokens don't fit into memory), or ``flops_per_second`` that a
            step reaches on its device, instead of a measurement.

    Raises:
        IceprobeError: for what ``fit`` would refuse, or images without a number of classes. (A step that
            doesn't fit into memory isn't an error: ``refusal`` says so.)
    """
    if isinstance(dataset, int):
        sizes, num_classes = {"train": dataset}, call.num_classes or 0
        task = pooled_task(call.task or "classification")
        if call.num_classes is None:
            raise IceprobeError(f"{dataset} images without a data set: give num_classes as well")
    else:
        dataset = load_dataset(dataset)
        sizes = {name: len(part) for name, part in dataset.splits.items()}
        num_classes, task = len(dataset.classes), pooled_task(call.task or dataset.task)
    if (images := min(sizes.values())) < 1:
        raise IceprobeError(f"images={images}: give at least 1")
    sizes = {name: min(size, call.limit or size) for name, size in sizes.items()}
    images = _training_images(sizes.get("train", 0), num_classes, call.shots, call.fraction)
    reported = sizes.get(call.split, 0)
    low_shot = call.shots is not None or call.fraction is not None
    asked = for_images(protocol_of(call), max(1, images))

    together = any(map(names_layers, probes))
    if isinstance(backbone, TokenShape):
        shape = backbone
    else:
        shape = backbone.joined_shape if together else backbone.shape
    texts = [*probes, *budgeted(shape, num_classes, call)]
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
    widths = [input_of(shape, one).width(shape) for one in labels if one not in trained]
    banks = _searches(asked, images, reported, num_classes) * (replicates or 1)
    search = None
    if widths and images:
        search = plan_search(
            [(bank, queries, width) for width in widths for bank, queries in banks],
            device=check_device(call.device),
            flops_per_second=call.flops_per_second,
            measure_seconds=min(call.measure_seconds, 1.0),
        )
    for label in trained:
        check_solved(label, task.name, live=False)
    solved = [
        one for one in trained if images > 0 and is_solved(one, asked, task.solver, live=False)
    ]
    searched = task.solver is None or SOLVED[task.solver].searched
    solving = sum(
        solving_flops(asked, shape, num_classes, label, images, searched) for label in solved
    )
    solving_seconds = solving / (call.flops_per_second or product_speed(check_device(call.device)))
    trained = [one for one in trained if one not in solved]
    replicated = replicates or 1
    rows = replicated * (len(widths) + len(solved) + seeds * len(trained))
    predicted = rows * reported * record_bytes(task, num_classes)
    if not trained or not images:
        return FitPlan(
            members=len(solved), repetitions=replicated, images=images, phases=[],
            flops=replicated * solving, held=None, bytes_per_second=None,
            solving=solving_seconds, search=search, prediction_bytes=predicted,
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
    tensors = tensors_read({probe.input for probe in built})
    layout = layout_read(token_layout(shape, settings), tensors)
    each = patch_bytes(layout, shape.num_tokens)
    read = image_bytes(layout, {*tensors, *patch_tensors(layout)}, shape.num_tokens)
    members = {label: seeds * count for label, count in zip(trained, points, strict=True)}
    context = FitContext(
        asked,
        shape,
        num_classes,
        run_seed=0,
        device=check_device(call.device if call.flops_per_second is None else "cpu"),
        dtype=DTYPES[call.fit_dtype],
        checkpoint=Checkpoint(None, ""),
        progress=lambda stage, done, total: None,
        max_tokens=call.max_tokens,
    )
    step = step_memory(members, context, images, each)
    held = None
    if any(probe.read.of_tokens for probe in built):
        evaluated_on = reported if asked.held_out == 0 else 0  # after every epoch
        needed = step.least + read * ((1 + call.views) * images + evaluated_on)
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
        steps, basis = StepTimes(one, grid, 0, 0), f"at {call.flops_per_second / 1e12:g} TFLOP/s"
    else:
        run = RealSteps(grids, seeds, context, settings)
        refusal = _refusal(step, sum(members.values()), context) if call.here else None
        if refusal is None:
            largest = max(probe.read.count(shape) * probe.read.width(shape) for probe in built)
            most = max(2, TOKENS_AT_ONCE // (4 * largest))
            steps = time_steps(run, max(points), batch, most, call.measure_seconds)
            basis = _basis(steps, max(points), batch, call.here)
        else:
            steps, basis = StepTimes(StepSeconds(0, 0), StepSeconds(0, 0), 0, 0), "not run"
    if any(grid.grows for grid in grids.values()):
        basis += "; a grid whose best rate lies at its edge grows, which isn't counted"
    if asked.halving:
        basis += "; at most: settings that stop early are counted to their end"
    phases = [_costed(phase, steps, batch, each, bytes_per_second) for phase in phases]
    return FitPlan(
        members=phases[0].members + len(solved),
        repetitions=replicated,
        images=images,
        phases=phases,
        flops=replicated * (sum(phase_flops(phase, built, shape) for phase in phases) + solving),
        held=held,
        bytes_per_second=bytes_per_second,
        solving=solving_seconds,
        search=search,
        prediction_bytes=predicted,
        basis=basis,
        refusal=refusal,
    )


def record_bytes(task: Task, outputs: int) -> int:
    """What a task keeps of one example's prediction by one member."""
    target = torch.zeros(1, *task.target_shape(outputs), dtype=getattr(torch, task.target_dtype))
    record = task.record(torch.zeros(1, 1, outputs), target)
    return sum(tensor.nbytes for tensor in record.values())


def expected_seconds(store: Store, probes: Sequence[str], settings: Fitting) -> float:
    """Seconds that a fit takes, about, before it begins; 0 if it has few steps: nothing is measured then.

    (A zero too many in ``--epochs`` asks for years.)
    """
    images, protocol = len(store["train"]), protocol_of(settings)
    if total_steps(for_images(protocol, images), images) < MANY_STEPS:
        return 0.0
    manifest = store.manifest
    return plan_fit(
        manifest.shape,
        images,
        probes,
        settings.model_copy(
            update={"budget": None, "budget_flops": None, "memory": None, "task": store.task}
        ),
        num_classes=len(store.classes),
        tokens=manifest.settings.tokens,
        measure_seconds=MOMENT,
        here=False,
    ).seconds


def product_speed(device: torch.device, seconds: float = 0.05) -> float:
    """FLOPs a second of a product as the search for an optimum makes them, in float64."""
    left, right = (torch.ones(*size, dtype=torch.float64, device=device) for size in PRODUCT)
    done, began = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - began < seconds:
        float((left @ right)[0, 0])
        done += 1
    return done * 2.0 * left.numel() * right.shape[1] / (time.perf_counter() - began)


def _searches(
    protocol: Protocol, images: int, reported: int, num_classes: int
) -> list[tuple[int, int]]:
    """k-NN's (bank, queries) of each search: on held-out images, and on reported ones."""
    phases = phases_of(protocol, [1], 1, images, reported, num_classes)
    select = [
        (p.trained_on, p.evaluated_on) for p in phases if p.name == "select" for _ in range(p.times)
    ]
    return [*select, (images, reported)] if reported else select


def _training_images(
    images: int, num_classes: int, shots: int | None, fraction: float | None
) -> int:
    """Training images of one repetition: all of them, or a draw."""
    if shots is not None:
        return min(images, shots * num_classes)
    return images if fraction is None else round(images * fraction)


def _held(needed: int, memory: int | None, here: bool) -> bool:
    """Whether so many bytes, tokens and a step, fit into the budget, as in the fit.

    On another machine they do only in a budget that was given.
    """
    if memory is None:
        memory = (available_memory() or 0) // 2 if here else 0
    return needed <= memory


def _refusal(step: StepMemory, members: int, context: FitContext) -> str | None:
    """The fit's own error, if memory doesn't hold a step."""
    try:
        check_memory(step, members, context.device)
    except IceprobeError as error:
        return str(error)
    return None


def _costed(
    phase: PhaseCost, steps: StepTimes, batch: int, image_bytes: int, bytes_per_second: float | None
) -> PhaseCost:
    """With its seconds. A last batch that isn't full counts by its images."""
    step = steps.one if phase.settings == 1 else steps.grid
    at_hand = (phase.trained_on * step.train + phase.evaluated_on * step.evaluate) / batch
    read = (phase.trained_on + phase.evaluated_on) * image_bytes
    epoch = max(at_hand, read / bytes_per_second) if bytes_per_second else at_hand
    step_seconds, seconds = phase.all_epochs * at_hand, phase.all_epochs * epoch
    return phase.model_copy(update={"step_seconds": step_seconds, "seconds": seconds})


def _step(
    probes: Sequence[Probe], each: Sequence[int], batch: int, shape: TokenShape, speed: float
) -> StepSeconds:
    """Seconds of a step with ``each`` members of the probes, by their FLOPs."""
    train, look = (
        batch * sum(n * f(probe, shape) for n, probe in zip(each, probes, strict=True)) / speed
        for f in (training_flops, forward_flops)
    )
    return StepSeconds(train, look)


def _basis(steps: StepTimes, settings: int, images: int, here: bool) -> str:
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
