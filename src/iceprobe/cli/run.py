"""``iceprobe run``: from images to a report, each stage left out that is done already."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from iceprobe.cli.arguments import split_arguments
from iceprobe.cli.campaign import cells, run_campaign
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.signature import Arguments, Given, Resume, options
from iceprobe.cli.sources import Sources, run_single
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.processes import first
from iceprobe.probes import parse_probe
from iceprobe.settings import Run

if TYPE_CHECKING:
    pass


@options(Run)
def run(given: Given, arguments: Arguments = None, resume: Resume = True) -> None:
    """Extract tokens, fit probes on them, and write a report.

    A run that was killed goes on where it stopped when the same command is given again; a
    finished one is shown, unless backbone or images have changed since. The resolved configuration
    is saved as config.yaml in the run folder; with output=runs/AGAIN it is run again. Several
    backbones, data sets, layers or numbers of training images make a campaign: a run each, and one
    report across them.

    \b
    Examples:
      iceprobe run --backbone bundled:mae-tiny --data bundled:fashion --probe knn --probe ep8
      iceprobe run --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds
      iceprobe run --backbone bundled:mae-tiny --layers all --data bundled:fashion --probe linear
      iceprobe run --backbone timm:A --backbone timm:B --data cifar100?root=/data --shots 1,5,10
      iceprobe run --backbone timm:A --data folder:/data/birds --protocol paper --views 4
      iceprobe run --backbone timm:A --data folder:/data/birds --protocol paper --live
      iceprobe run config.yaml seeds=5 output=runs/five-seeds
      iceprobe run config.yaml --learning-rates 1e-3,1e-2 --output runs/two-rates
    """
    file, overrides = split_arguments(arguments or [])
    config = resolve(Run, given, file, overrides)
    execute(config, resume)


def execute(config: Run, resume: bool = True) -> None:
    """Run what isn't done yet of ``config``, then show the table and the report's path."""
    for text in config.probe:
        parse_probe(text)  # a wrong name needn't wait for torch
    if config.live and config.views:
        raise IceprobeError(f"--live with --views {config.views}: live images are new every epoch")
    if config.augmentation == "none" and not config.live:
        raise IceprobeError("--augmentation none is what is stored anyway: leave it out")
    sources = Sources(config)
    runs = cells(sources.single_layers())
    if len(runs) == 1:
        (run,) = runs
        run_single(sources, run, resume=resume)
    else:
        ahead = None
        if config.engine == "ray":
            ahead = partial(_on_ray, sources, resume=resume)
        run_campaign(
            config,
            runs,
            sources.store,
            sources.identities,
            sources.check,
            resume=resume,
            ahead=ahead,
        )
    first(sources.keep)


def _on_ray(sources: "Sources", runs: Sequence[Run], resume: bool) -> None:
    """Extract what ``runs`` read, a shard a task; then run them, each a task."""
    from iceprobe.cli.ray_cells import run_cells

    for run in runs:
        with Bars() as progress:
            sources.store(run, progress)
    run_cells(runs, resume)
