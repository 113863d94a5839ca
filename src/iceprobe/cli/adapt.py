"""``iceprobe adapt``: backbones that change, beside frozen ones."""

import logging
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from iceprobe.adaptation.registry import pairs
from iceprobe.cli import options
from iceprobe.cli.arguments import Arguments, split_arguments
from iceprobe.cli.config import AdaptConfig, resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.cli.stages import show, show_finished, tell_duration, write_report
from iceprobe.core.errors import IceprobeError

if TYPE_CHECKING:
    from iceprobe.results import FittedResult

log = logging.getLogger("iceprobe")


def adapt(
    arguments: Arguments = None,
    backbone: options.Backbone = None,
    data: options.Data = None,
    adapt: options.Adapt = None,
    probe: options.AdaptProbe = None,
    limit: options.Limit = None,
    seeds: options.Seeds = None,
    epochs: options.AdaptEpochs = None,
    batch_size: options.AdaptBatchSize = None,
    learning_rates: options.AdaptLearningRates = None,
    weight_decays: options.AdaptWeightDecays = None,
    augmentation: options.AdaptAugmentation = None,
    amp: options.AdaptAmp = None,
    long: options.Long = None,
    checkpointing: options.Checkpointing = None,
    accumulate: options.Accumulate = None,
    output: options.Output = None,
    device: options.Device = None,
    memory: options.AdaptMemory = None,
    resume: options.Resume = True,
) -> None:
    """Adapt the backbone itself (LoRA, BitFit, LayerNorm, full), under any probe, and report.

    Every --adapt is trained with every --probe, each a training of its own through the backbone;
    "lora?rank=4 + ep12" brings its own probe. none is the frozen backbone, for comparison, under
    the settings of fit. A killed command goes on after the last training that was finished.

    \b
    Examples:
      iceprobe adapt --backbone bundled:mae-tiny --data bundled:fashion --adapt none --adapt lora
      iceprobe adapt --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds \\
        --adapt "lora?rank=8" --adapt "lora?rank=16&blocks=-1" --adapt bitfit --probe ep12
      iceprobe adapt … --adapt "full?layer_decay=0.75" --learning-rates 1e-3 --amp bfloat16
      iceprobe adapt … --adapt "lora?rank=4 + ep12?out_dim=48" --checkpointing --accumulate 4
      iceprobe adapt examples/adaptation.yaml seeds=1 output=runs/one-seed
    """
    values = {key: value for key, value in locals().items() if key in AdaptConfig.model_fields}
    file, overrides = split_arguments(arguments or [])
    execute(resolve(AdaptConfig, values, file, overrides), resume)


def execute(config: AdaptConfig, resume: bool = True) -> None:
    """Train what isn't trained yet of ``config``, then show the table and the report's path."""
    pairs(config.adapt, config.probe)  # a wrong name needn't wait for torch
    folder = RunFolder(config)
    if folder.state == "finished":
        show_finished(folder, lambda: {_identity(config)}, resume)
    else:
        show(_run(config, folder, resume), folder)


def _run(config: AdaptConfig, folder: RunFolder, resume: bool) -> list["FittedResult"]:
    import iceprobe

    command = shlex.join(["iceprobe", *sys.argv[1:]])
    with RunLog() as run_log:
        log.info("%s", command)
        with Bars() as progress:
            backbone = iceprobe.load_backbone(config.backbone)
            dataset = iceprobe.load_dataset(config.data)
            folder.create()
            run_log.write_to(folder.log)
            given = config.model_dump(exclude={"backbone", "data", "adapt", "probe", "long"})
            try:
                results = iceprobe.adapt(
                    backbone,
                    dataset,
                    config.adapt,
                    config.probe,
                    resume=resume,
                    progress=progress,
                    tell=partial(tell_duration, config),
                    command=command,
                    **given,
                )
            except IceprobeError:
                folder.abandon()
                raise
            log.info("results of %d probes", len(results))
            write_report(results, folder, progress)
            log.info("report %s", folder.report)
    return results


def _identity(config: AdaptConfig) -> str:
    """Of the store that the frozen backbone would make now: which images, which weights."""
    import iceprobe
    from iceprobe.adaptation.api import manifest_of
    from iceprobe.fitting.checks import check_device

    return manifest_of(
        iceprobe.load_backbone(config.backbone),
        iceprobe.load_dataset(config.data),
        split="test",
        limit=config.limit,
        device=check_device(config.device),
        amp=config.amp,
    ).identity
