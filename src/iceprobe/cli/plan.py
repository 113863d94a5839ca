"""``iceprobe plan``: estimates of disk, memory, FLOPs and time of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from iceprobe.cli.arguments import resolve_arguments
from iceprobe.cli.campaign import cells
from iceprobe.cli.config import resolve
from iceprobe.cli.console import at_work, console
from iceprobe.cli.estimate import costs, estimate, refusals, rows, rows_of_tokens
from iceprobe.cli.paths import check_features
from iceprobe.cli.signature import Arguments, Given, options
from iceprobe.cli.sources import Sources
from iceprobe.cli.stages import check_fit, fitting_of
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import names_features
from iceprobe.protocols.protocol import check_splits, reported
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.settings import ON_PAPER, Planning, StoreRun

_COLUMNS = [Column("what", numeric=False), Column("how much", numeric=False, wraps=True)]


@options(Planning)
def plan(given: Given, arguments: Arguments = None) -> None:
    """Estimate what a run would cost: disk, memory, FLOPs, time. Nothing is run or written.

    Takes the options of run. The backbone is measured on a few images and the probes in a few
    training steps, for a few seconds each. On paper, for images or a machine that aren't there,
    numbers take the place of data and measurements.

    \b
    Examples:
      iceprobe plan --backbone bundled:mae-tiny --data bundled:fashion --probe ep32
      iceprobe plan --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds
      iceprobe plan config.yaml tokens=float32
      iceprobe plan "features:train.h5?test=test.h5&target=y" --probe ep32
      iceprobe plan --backbone timm:vit_base_patch16_224?pretrained=false --images 1.28M
        --classes 1000 --device-images-per-second 2500 --device-tflops 40 --disk-gb-per-second 5
        --dollars-per-hour 3 --dollars-per-tb-month 20
    """
    if arguments and names_features(arguments[0]):
        _plan_on_tokens(
            resolve(StoreRun, {**given, "store": arguments[0]}, overrides=arguments[1:])
        )
        return
    config = resolve_arguments(Planning, given, arguments)
    _check_paper(config)
    check_features(config.features, "--features")
    sources = Sources(config)
    refused = []
    for run in cells(sources.single_layers(), sources.probes):
        backbone = sources.backbone(run)
        dataset = sources.dataset(run) if config.images is None else config.images
        if config.images is None:
            sources.check(run)
        shape, kind = sources.shape(run), backbone.preprocessing.kind
        with at_work("measuring the pace of backbone and fit"):
            extraction, fitting = estimate(backbone, shape, dataset, run, measure_seconds=3.0)
        images = run.data[0] if config.images is None else f"{config.images:,} images"
        lines = [*rows(extraction, fitting, run, shape, kind), *costs(extraction, fitting, config)]
        title = f"{run.backbone[0]} on {images}"
        entry = {"backbone": run.backbone[0], "images": images, "extraction": extraction}
        console.print(
            _table(lines, title, {**entry, "fit": fitting}, refusals(extraction, fitting))
        )
        refused += refusals(extraction, fitting)
    if refused:
        raise IceprobeError(refused[0])


def _plan_on_tokens(config: StoreRun) -> None:
    """The cost of a fit on tokens in files, which aren't read for it."""
    import iceprobe
    from iceprobe.datasets.token_split import FeatureSet
    from iceprobe.store.features import form_of

    dataset = iceprobe.load_dataset(str(config.store))
    assert isinstance(dataset, FeatureSet)
    shape, dtype = form_of(dataset)
    tokens: Any = str(dtype).removeprefix("torch.")
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    refused: list[str] = []
    for run in cells(config):
        check_splits(dataset.splits, reported(fitting_of(run)), dataset.spec, folds=True)
        groups = dataset.groups("train", run.groups)
        targets = dataset.splits["train"].targets
        check_fit(run, shape, dataset.classes, targets, dataset.task, groups)
        fitting = iceprobe.plan_fit(shape, dataset, run.probe, fitting_of(run), tokens=tokens)
        lines = rows_of_tokens(sizes, fitting)
        title = f"{dataset.backbone} in {dataset.spec}"
        entry = {"store": dataset.spec, "examples": sizes, "extraction": None, "fit": fitting}
        console.print(_table(lines, title, entry, [*filter(None, [fitting.refusal])]))
        refused += filter(None, [fitting.refusal])
    if refused:
        raise IceprobeError(refused[0])


def _table(
    lines: Sequence[tuple[str, str]], title: str, entry: Mapping[str, Any], refused: Sequence[str]
) -> TerminalTable:
    """A row a number; for programs one entry: the plans of extraction and fit, and what they lack."""
    entries = [{**entry, "lines": dict(lines), "refused": refused}]
    return TerminalTable(_COLUMNS, lines, title, heads=False, name="plans", made_of=entries)


def _check_paper(config: Planning) -> None:
    """Require either a data set, or a number of images with its classes."""
    there = config.data != [ON_PAPER]
    if config.images is None and not there:
        raise IceprobeError("no data given: give --data VALUE, or --images 1.28M on paper")
    if config.images is not None and there:
        raise IceprobeError(
            f"--images {config.images} and --data {config.data[0]}: give one of the two"
        )
    if config.images is not None and config.classes is None:
        raise IceprobeError(f"--images {config.images} has no classes: give --classes 1000")
    if config.images is None and config.classes is not None:
        raise IceprobeError(
            f"--classes {config.classes}: {config.data[0]} has its own; it goes with --images"
        )
