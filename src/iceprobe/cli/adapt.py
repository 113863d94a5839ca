"""``iceprobe adapt``: backbones that change, beside frozen ones."""

import logging
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from iceprobe.adaptation.registry import pairs
from iceprobe.cli.arguments import split_arguments
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.cli.signature import Arguments, Given, Resume, options
from iceprobe.cli.stages import print_duration, show, show_finished, write_report
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.settings import Adaptation, AdaptRun

if TYPE_CHECKING:
    from iceprobe.results import FittedResult

log = logging.getLogger("iceprobe")


@options(AdaptRun)
def adapt(given: Given, arguments: Arguments = None, resume: Resume = True) -> None:
    """Adapt the backbone itself (LoRA, BitFit, LayerNorm, full), under any probe, and report.

    Every --adapt is trained with every --probe, each a training of its own through the backbone;
    "lora?rank=4 + ep12" brings its own probe. none is the frozen backbone, for comparison, under
    the settings of fit. A killed command goes on after the last training that was finished.

    \b
    Examples:
      iceprobe adapt --backbone bundled:mae-tiny --data bundled:fashion --adapt none --adapt lora
      iceprobe adapt --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds \\
        --adapt "lora?rank=8" --adapt "lora?rank=16&blocks=-1" --adapt bitfit --probe ep12
      iceprobe adapt … --adapt "full?layer_decay=0.75" --learning-rates 1e-3 --forward-dtype bfloat16
      iceprobe adapt … --adapt "lora?rank=4 + ep12?out_dim=48" --checkpointing --accumulate 4
      iceprobe adapt examples/adaptation.yaml seeds=1 output=runs/one-seed
    """
    file, overrides = split_arguments(arguments or [])
    execute(resolve(AdaptRun, given, file, overrides), resume)


def execute(config: AdaptRun, resume: bool = True) -> None:
    """Train what isn't trained yet of ``config``, then show the table and the report's path."""
    pairs(config.adapt, config.probe)  # a wrong name needn't wait for torch
    folder = RunFolder(config)
    if folder.state == "finished":
        show_finished(folder, lambda: {_identity(config)}, resume)
    else:
        show(_run(config, folder, resume), folder)


def _run(config: AdaptRun, folder: RunFolder, resume: bool) -> list["FittedResult"]:
    import iceprobe

    command = shlex.join(["iceprobe", *sys.argv[1:]])
    with RunLog() as run_log:
        log.info("%s", command)
        with Bars() as progress:
            backbone = iceprobe.load_backbone(config.backbone)
            dataset = iceprobe.load_dataset(config.data)
            folder.create()
            run_log.write_to(folder.log)
            try:
                results = iceprobe.adapt(
                    backbone,
                    dataset,
                    config.adapt,
                    config.probe,
                    part_of(config, Adaptation),
                    output=config.output,
                    resume=resume,
                    progress=progress,
                    on_estimate=partial(print_duration, config),
                    command=command,
                )
            except IceprobeError:
                folder.abandon()
                raise
            log.info("results of %d probes", len(results))
            write_report(results, folder, progress)
            log.info("report %s", folder.report)
    return results


def _identity(config: AdaptRun) -> str:
    """Of the store that the frozen backbone would make now: which images, which weights."""
    import iceprobe
    from iceprobe.adaptation.api import manifest_of
    from iceprobe.fitting.checks import check_device

    return manifest_of(
        iceprobe.load_backbone(config.backbone),
        iceprobe.load_dataset(config.data),
        config,
        check_device(config.device),
    ).identity
