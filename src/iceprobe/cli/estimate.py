"""The cost of a run, estimated from short measurements: a line of `run`, a table of `plan`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.filesize import decimal

import iceprobe
from iceprobe.backbones.kinds import plural, singular
from iceprobe.cli.console import say
from iceprobe.cli.stages import check_fit, extraction_of, fitting_of
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import an, duration
from iceprobe.settings import Planning, Run

if TYPE_CHECKING:
    from iceprobe.backbones import Backbone
    from iceprobe.cost import FitPlan, Plan
    from iceprobe.cost.search import SearchPlan
    from iceprobe.datasets import Dataset
    from iceprobe.tokens import TokenShape


def estimate(
    backbone: "Backbone",
    shape: "TokenShape",
    dataset: "Dataset | int",
    config: Run,
    measure_seconds: float,
) -> tuple["Plan", "FitPlan"]:
    """The cost of extraction and of the fit, each measured for about ``measure_seconds``.

    ``shape`` is of the tokens of ``backbone``, side by side where it reads several layers.

    Raises:
        IceprobeError: for what ``extract`` or ``fit`` would refuse.
    """
    import numpy as np

    paper = config if isinstance(config, Planning) else None
    classes = (paper and paper.classes) or 0
    if isinstance(dataset, int):
        # Only draws read labels: as many as they need, since 10⁹ labels take 8 GB.
        labels = np.arange(min(dataset, classes * max(config.shots or [1]))) % classes
        check_fit(config, shape, [str(c) for c in range(classes)], labels, "classification")
    rate = paper.device_images_per_second if paper else None
    speed = paper.device_tflops if paper else None
    disk = paper.disk_gb_per_second if paper else None
    extraction = iceprobe.plan(
        backbone,
        dataset,
        None if config.live else config.features,
        extraction_of(config),
        measure_seconds=measure_seconds,
        images_per_second=rate,
    )
    fitting = iceprobe.plan_fit(
        shape if (tokens := extraction.tokens_per_image) is None else shape.of_mean(tokens),
        dataset,
        config.probe,
        fitting_of(config),
        num_classes=classes or None,
        limit=config.limit,
        tokens=config.tokens,
        views=config.views,
        features=config.features,
        measure_seconds=measure_seconds,
        here=rate is None and speed is None,
        bytes_per_second=disk and disk * 1e9,
        flops_per_second=speed and speed * 1e12,
    )
    return extraction, fitting


def print_estimate(
    backbone: "Backbone", shape: "TokenShape", dataset: "Dataset", config: Run
) -> None:
    """Print one line before a run begins.

    Raises:
        IceprobeError: for a fit that needs more memory than there is.
    """
    extraction, fitting = estimate(backbone, shape, dataset, config, measure_seconds=0.7)
    if fitting.refusal:
        raise IceprobeError(fitting.refusal)
    examples = plural(backbone.preprocessing.kind)
    planned = f"plan: {sum(extraction.images.values()):,} {examples}"
    members = f"fit of {fitting.members:,} members"
    if config.live:
        seconds = fitting.live_seconds(extraction.images_per_second)
        say(f"{planned}, {members} live, {_about(seconds)}")
        return
    views = f"those of train in {1 + config.views} views, " if config.views else ""
    say(
        f"{planned}, {views}{decimal(extraction.bytes_to_write)} to write, "
        f"extraction {_about(extraction.seconds)}, {members} {_about(fitting.seconds)}"
    )


def rows(
    extraction: "Plan", fitting: "FitPlan", config: Run, shape: "TokenShape", kind: str
) -> list[tuple[str, str]]:
    """The rows of the table: a name, and the number with what it depends on; examples are of ``kind``.

    Tokens of ``shape`` that differ in their number can't be live, so nothing is said of that.
    """
    rate = extraction.images_per_second
    views = {"train": f" in {1 + config.views} views"} if config.views else {}
    counts = extraction.images.items()
    counted = ", ".join(f"{name} {count:,}{views.get(name, '')}" for name, count in counts)
    disk = f"{decimal(extraction.store_bytes)}, {decimal(extraction.bytes_to_write)} still to write"
    memory = decimal(extraction.memory_bytes)
    here = extraction.free_bytes is not None or extraction.memory_available is not None
    if extraction.free_bytes is not None:
        free = extraction.memory_available
        disk += f", {decimal(extraction.free_bytes)} free"
        memory += f", {decimal(free)} free" if free is not None else ", free memory unknown"
    held = decimal(sum(extraction.patch_bytes.values()))
    budget = f", budget {decimal(config.memory)}" if config.memory else ""
    noun, whole = singular(kind), _flops(extraction.flops)
    passes = f"{whole}, {_flops(extraction.flops_per_image)} {an(noun)}"
    pace = (
        f"{_about(extraction.seconds)} at {rate:,.4g} {noun}s/s" if rate else "nothing to extract"
    )
    found = [
        (plural(kind), counted),
        ("disk", disk),
        ("memory, extraction", memory),
        ("memory, to hold all patch tokens", f"{held}{budget}, streamed beyond it"),
        ("FLOPs, extraction", passes),
        ("FLOPs, fit", f"{_flops(fitting.flops)}, {fitting.members:,} members"),
        ("time, extraction", pace),
    ]
    if fitting.prediction_bytes:
        found.insert(2, ("disk, predictions", decimal(fitting.prediction_bytes)))
    if here:
        found.insert(1, ("feature store", str(extraction.store)))
    return [*found, *times_of_fit(fitting, None if shape.ragged else extraction)]


def rows_of_tokens(sizes: Mapping[str, int], fitting: "FitPlan") -> list[tuple[str, str]]:
    """The same of a fit on tokens that are there already; ``sizes`` are examples by split."""
    found = [
        ("examples", ", ".join(f"{name} {count:,}" for name, count in sizes.items())),
        ("FLOPs, fit", f"{_flops(fitting.flops)}, {fitting.members:,} members"),
    ]
    if fitting.prediction_bytes:
        found.insert(1, ("disk, predictions", decimal(fitting.prediction_bytes)))
    return [*found, *times_of_fit(fitting)]


def times_of_fit(fitting: "FitPlan", extraction: "Plan | None" = None) -> list[tuple[str, str]]:
    """Rows on the time of a fit, and on whether stored tokens pay, where a backbone makes them."""
    found, rate = [], extraction.images_per_second if extraction else None
    if fitting.search:
        found.append(("time, k-NN", _searching(fitting.search)))
    if fitting.solving:
        alone = _about(fitting.repetitions * fitting.solving)
        found.append(("time, linear", f"{alone}, solved for its optimum; in the fit's"))
    if fitting.refusal or not fitting.phases:
        none = _about(fitting.seconds) if fitting.solving else "no probe is trained"
        return [*found, ("time, fit", "not run" if fitting.refusal else none)]
    found.append(("time, an epoch cached", f"{_about(fitting.epoch_seconds)}, {_reading(fitting)}"))
    if rate:
        live = fitting.live_epoch_seconds(rate)
        found.append(("time, an epoch live", f"{_about(live)}, the backbone in every epoch"))
    epochs = ", ".join(
        f"{phase.name} {f'{phase.times} × ' if phase.times > 1 else ''}{phase.epochs} × "
        f"{phase.members:,} members"
        for phase in fitting.phases
        if phase.trained_on
    )
    times = f"{fitting.repetitions} × " if fitting.repetitions > 1 else ""
    fit = f"{_about(fitting.seconds)}, {times}{epochs}; steps {fitting.basis}"
    found.append(("time, fit", fit))
    if extraction and rate:
        found.append(("cheaper", verdict(extraction.seconds, fitting, rate)))
    return found


def costs(extraction: "Plan", fitting: "FitPlan", config: Planning) -> list[tuple[str, str]]:
    """The same in money, at prices that the user gives."""
    found = []
    if (hourly := config.dollars_per_hour) is not None:
        stages = {"extraction": extraction.seconds, "fit": fitting.seconds}
        if fitting.search:
            stages["k-NN"] = fitting.search.seconds
        found += [
            (f"cost, {name}", f"{_dollars(seconds / 3600 * hourly)} at ${hourly:g} an hour")
            for name, seconds in stages.items()
        ]
    if (monthly := config.dollars_per_tb_month) is not None:
        price = _dollars(extraction.store_bytes / 1e12 * monthly)
        found.append(("cost, store", f"{price} a month at ${monthly:g} a terabyte"))
    return found


def verdict(extraction_seconds: float, fitting: "FitPlan", images_per_second: float) -> str:
    """One sentence: whether stored tokens or the live backbone take less time over the whole fit."""
    cached = extraction_seconds + fitting.seconds
    live = fitting.live_seconds(images_per_second)
    once, later = duration(extraction_seconds), duration(fitting.epoch_seconds)
    ways = [
        (cached, f"cached ({once} once, then {later}"),
        (live, f"live ({duration(fitting.live_epoch_seconds(images_per_second))}"),
    ]
    (least, better), (most, worse) = sorted(ways, key=lambda way: way[0])
    first, epochs = fitting.pays_from(extraction_seconds, images_per_second), fitting.epochs
    if first is None:
        pays = "reading the store takes longer than the backbone, so it never pays for itself"
    elif first <= epochs:
        pays = f"the store pays for itself from epoch {first:,} of {epochs:,} on"
    else:
        pays = f"the store would pay for itself from epoch {first:,} on and there are {epochs:,}"
    return f"{better} an epoch) takes {duration(least)}, {worse} an epoch) {duration(most)}: {pays}"


def refusals(extraction: "Plan", fitting: "FitPlan") -> list[str]:
    """What this machine lacks."""
    found = []
    if extraction.free_bytes is not None and not extraction.fits_disk:
        found.append(
            f"the disk of {extraction.store.parent} lacks "
            f"{decimal(extraction.bytes_to_write - extraction.free_bytes)}: take another "
            "--features folder, a --limit, or probes that read no patches"
        )
    if not extraction.fits_memory:
        lacking = extraction.memory_bytes - (extraction.memory_available or 0)
        found.append(
            f"memory lacks {decimal(lacking)} for extraction: lower --forward-batch-size or "
            "--workers"
        )
    return [*found, *filter(None, [fitting.refusal])]


def _searching(search: "SearchPlan") -> str:
    return (
        f"{_about(search.seconds)}, {search.comparisons:,} comparisons, {_flops(search.flops)}, "
        f"{decimal(search.memory_bytes)} beside the vectors"
    )


def _reading(fitting: "FitPlan") -> str:
    if fitting.held is None:
        return "no patch tokens are read"
    if fitting.held:
        return "tokens held in memory"
    if fitting.bytes_per_second is None:
        return "reading not counted: give --disk-gb-per-second"
    return f"tokens streamed at {decimal(round(fitting.bytes_per_second))}/s"


def _flops(number: float) -> str:
    from iceprobe.results.tables import short

    return f"{short(number)}FLOP"


def _dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:.2g}"


def _about(seconds: float) -> str:
    return f"about {duration(seconds)}" if seconds >= 1 else "under a second"
