"""``iceprobe run``: from images to a report; finished stages are skipped."""

from functools import partial

from iceprobe.cli.arguments import resolve_arguments
from iceprobe.cli.campaign import cells, run_cells
from iceprobe.cli.signature import Arguments, Given, Resume, options
from iceprobe.cli.sources import Sources
from iceprobe.core.errors import IceprobeError
from iceprobe.loggers import parse_logger
from iceprobe.machine.processes import first
from iceprobe.probes import parse_probe
from iceprobe.probes.inputs import names_layers
from iceprobe.settings import Run


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
    execute(resolve_arguments(Run, given, arguments), resume)


def execute(config: Run, resume: bool = True) -> None:
    """Run the unfinished part of ``config``, then show the table and the report's path."""
    for text in config.probe:
        parse_probe(text)  # a wrong name is reported before torch is imported
    for text in config.log:
        parse_logger(text)
    if config.live and config.views:
        raise IceprobeError(f"--live with --views {config.views}: live images are new every epoch")
    if config.augmentation == "none" and not config.live:
        raise IceprobeError("--augmentation none is what is stored anyway: leave it out")
    named = [text for text in config.probe if names_layers(text)]
    if config.live and named:
        raise IceprobeError(
            f"--live with probe {named[0]!r}: layers= reads stored tokens, use --cached"
        )
    sources = Sources(config)
    runs = cells(sources.single_layers(), sources.probes)
    ahead = None
    if config.engine == "ray":
        from iceprobe.cli.ray_cells import run_on_ray

        ahead = partial(run_on_ray, sources, resume=resume)
    run_cells(config, runs, sources, resume=resume, ahead=ahead)
    first(sources.keep)
