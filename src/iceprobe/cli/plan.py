"""``iceprobe plan``: bytes on disk, memory, FLOPs and time of a run, which isn't begun."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from iceprobe.cli import options
from iceprobe.cli.arguments import Arguments, given, split_arguments
from iceprobe.cli.campaign import cells
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.cli.console import console
from iceprobe.cli.paths import check_place
from iceprobe.cli.stages import extraction_options, has_budget
from iceprobe.errors import IceprobeError

if TYPE_CHECKING:
    from iceprobe.backbones import Backbone
    from iceprobe.datasets import Dataset
    from iceprobe.store import Plan

BACKWARD = 3  # training costs this many forward passes: one forward, two products backward
# Of a bare product's speed, what a step reaches: measured on 2 cores with 630 queries, where 165
# of 240 GFLOP/s were reached; small fits reach less.
REACHED = 0.5


def plan(
    arguments: Arguments = None,
    backbone: options.Backbones = None,
    layers: options.Layers = None,
    data: options.Datasets = None,
    probe: options.Probe = None,
    budget: options.Budget = None,
    budget_flops: options.BudgetFlops = None,
    limit: options.Limit = None,
    shots: options.Shots = None,
    fraction: options.Fraction = None,
    protocol: options.Protocol = None,
    seeds: options.Seeds = None,
    replicates: options.Replicates = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rates: options.LearningRates = None,
    weight_decays: options.WeightDecays = None,
    forward_batch_size: options.ForwardBatchSize = None,
    amp: options.Amp = None,
    tokens: options.Tokens = None,
    on_bad_image: options.OnBadImage = None,
    output: options.Output = None,
    features: options.Features = None,
    device: options.Device = None,
    memory: options.Memory = None,
    workers: options.Workers = None,
) -> None:
    """Tell what a run would cost: disk, memory, FLOPs, time. Nothing is run or written.

    Takes the options of run. The backbone is measured on a few images, for a few seconds.

    \b
    Examples:
      iceprobe plan --backbone bundled:mae-tiny --data bundled:fashion --probe ep32
      iceprobe plan --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds
      iceprobe plan config.yaml tokens=float32
    """
    file, overrides = split_arguments(arguments or [])
    config = resolve(RunConfig, given(locals()), file, overrides)
    check_place(config.features, "--features")
    from iceprobe.cli.run import Sources

    sources = Sources(config)
    refused = []
    for run in cells(sources.single_layers()):
        backbone_, dataset = sources.backbone(run), sources.dataset(run)
        sources.check(run)
        extraction, fitting = estimate(backbone_, dataset, run, measure_seconds=3.0)
        table = Table(
            title=f"{run.backbone[0]} on {run.data[0]}", title_justify="left", show_header=False
        )
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in _rows(extraction, fitting, run):
            table.add_row(name, text)
        console.print(table, markup=False)
        if not extraction.fits_disk or not extraction.fits_memory:
            refused.append(_too_much(extraction))
    if refused:
        raise IceprobeError(refused[0])


@dataclass(frozen=True)
class FitCost:
    """What the fit will cost.

    Attributes:
        members: probes × settings × seeds, trained together.
        flops: of all passes, forward and backward.
        seconds: at half the speed of a bare product, measured now.
    """

    members: int
    flops: float
    seconds: float


def estimate(
    backbone: "Backbone", dataset: "Dataset", config: RunConfig, measure_seconds: float
) -> tuple["Plan", FitCost]:
    """The cost of extraction and of the fit.

    Raises:
        IceprobeError: for what ``extract`` would refuse.
    """
    import iceprobe

    settings = extraction_options(config)
    del settings["on_bad_image"]
    extraction = iceprobe.plan(
        backbone, dataset, config.features, measure_seconds=measure_seconds, **settings
    )
    images = extraction.images.get("train", 0)
    return extraction, _fit_cost(backbone, len(dataset.classes), images, config)


def print_estimate(backbone: "Backbone", dataset: "Dataset", config: RunConfig) -> None:
    """One line before a run begins."""
    extraction, fitting = estimate(backbone, dataset, config, measure_seconds=1.0)
    console.print(
        f"plan: {sum(extraction.images.values()):,} images, "
        f"{_bytes(extraction.bytes_to_write)} to write, "
        f"extraction {_about(extraction.seconds)}, "
        f"fit of {fitting.members:,} members {_about(fitting.seconds)}",
        markup=False,
        soft_wrap=True,
    )


def _fit_cost(backbone: "Backbone", num_classes: int, images: int, config: RunConfig) -> FitCost:
    from iceprobe import probes
    from iceprobe.fitting.protocols import for_images, get_protocol
    from iceprobe.probes import parse_probe

    protocol = get_protocol(config.protocol, epochs=config.epochs, min_steps=config.min_steps)
    rates = len(config.learning_rates or protocol.learning_rates)
    grid = rates * len(config.weight_decays or protocol.weight_decays)
    members, flops, seeds = 0, 0.0, config.replicates or config.seeds
    images = _images_learnt_from(config, images, num_classes)
    protocol = for_images(protocol, max(1, images))
    texts = list(config.probe)
    if has_budget(config):
        texts += probes.within_budget(
            backbone.dim,
            num_classes,
            backbone.num_tokens,
            parameters=config.budget,
            flops=config.budget_flops,
        )
    for text in texts:
        spec = parse_probe(text)
        if spec.name == "knn":
            continue
        probe = probes.build(
            spec,
            backbone.dim,
            num_classes,
            grid=backbone.grid,
            has_class=backbone.has_class,
            vectors=backbone.vectors,
        )
        # `heldout` refits one setting on everything after the grid has seen nine tenths of it.
        passes = grid * (1 - protocol.held_out) + (1 if protocol.held_out else 0)
        members += grid * seeds
        flops += (
            BACKWARD
            * probe.flops(backbone.num_tokens, backbone.num_prefix)
            * images
            * protocol.epochs
            * passes
            * seeds
        )
    return FitCost(members, flops, flops / (REACHED * _product_speed()))


def _images_learnt_from(config: RunConfig, images: int, num_classes: int) -> int:
    """Training images of a run: all of them, or a draw."""
    if config.shots:
        return min(images, config.shots[0] * num_classes)
    return round(images * config.fraction[0]) if config.fraction else images


def _product_speed() -> float:
    """FLOP/s of a float32 product of the size that a step makes, on the processor."""
    import torch

    a, b = torch.randn(4096, 256), torch.randn(256, 512)
    torch.mm(a, b)
    started = time.perf_counter()
    rounds = 5
    for _ in range(rounds):
        torch.mm(a, b)
    return rounds * 2 * 4096 * 256 * 512 / (time.perf_counter() - started)


def _rows(extraction: "Plan", fitting: FitCost, config: RunConfig) -> list[tuple[str, str]]:
    held = sum(extraction.patch_bytes.values())
    available = extraction.memory_available
    rate = extraction.images_per_second
    images = ", ".join(f"{name} {count:,}" for name, count in extraction.images.items())
    budget = f"budget {_bytes(config.memory)}, " if config.memory else ""
    free = f"{_bytes(available)} free" if available is not None else "free memory unknown"
    return [
        ("images", images),
        ("feature store", str(extraction.store)),
        (
            "disk",
            f"{_bytes(extraction.store_bytes)}, {_bytes(extraction.bytes_to_write)} still to write, "
            f"{_bytes(extraction.free_bytes)} free",
        ),
        ("memory, extraction", f"{_bytes(extraction.memory_bytes)}, {free}"),
        ("memory, to hold all patch tokens", f"{_bytes(held)}, {budget}streamed beyond it"),
        (
            "FLOPs, extraction",
            f"{_flops(extraction.flops)}, {_flops(extraction.flops_per_image)} an image",
        ),
        ("FLOPs, fit", f"{_flops(fitting.flops)}, {fitting.members:,} members"),
        (
            "time, extraction",
            f"{_about(extraction.seconds)} at {rate:,.0f} images/s"
            if rate
            else "nothing to extract",
        ),
        ("time, fit", f"{_about(fitting.seconds)} at half the speed of a bare product"),
    ]


def _too_much(extraction: "Plan") -> str:
    if not extraction.fits_disk:
        return (
            f"the disk of {extraction.store.parent} lacks "
            f"{_bytes(extraction.bytes_to_write - extraction.free_bytes)}: take another "
            "--features folder, a --limit, or probes that read no patches"
        )
    lacking = extraction.memory_bytes - (extraction.memory_available or 0)
    return f"memory lacks {_bytes(lacking)} for extraction: lower --forward-batch-size or --workers"


def _bytes(number: int) -> str:
    from rich.filesize import decimal

    return decimal(number)


def _flops(number: float) -> str:
    from iceprobe.results.tables import short

    return f"{short(number)}FLOP"


def _about(seconds: float) -> str:
    from iceprobe.results.tables import duration

    return f"about {duration(seconds)}" if seconds >= 1 else "under a second"
