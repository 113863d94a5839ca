"""``iceprobe adapt``: fine-tuned backbones beside frozen ones."""

from collections.abc import Callable
from functools import partial

import iceprobe
from iceprobe.adaptation.registry import pairs
from iceprobe.cli.arguments import resolve_arguments
from iceprobe.cli.console import Bars
from iceprobe.cli.folder import RunFolder
from iceprobe.cli.signature import Arguments, Given, Resume, options
from iceprobe.cli.stages import print_duration, show, show_finished, write_run
from iceprobe.core.options import part_of
from iceprobe.loggers import parse_logger
from iceprobe.results import FittedResult
from iceprobe.settings import Adaptation, AdaptRun


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
      iceprobe adapt --backbone transformers:facebook/hubert-base-ls960 --data audio:/data/calls …
      iceprobe adapt examples/adaptation.yaml seeds=1 output=runs/one-seed
    """
    execute(resolve_arguments(AdaptRun, given, arguments), resume)


def execute(config: AdaptRun, resume: bool = True) -> None:
    """Run the unfinished trainings of ``config``, then show the table and the report's path."""
    pairs(config.adapt, config.probe)  # a wrong name is reported before torch is imported
    for text in config.log:
        parse_logger(text)
    folder = RunFolder(config)
    if folder.state == "finished":
        show_finished(folder, lambda: {_identity(config)}, resume)
        return

    def prepare(_: Bars) -> Callable[..., list[FittedResult]]:
        return partial(
            iceprobe.adapt,
            iceprobe.load_backbone(config.backbone),
            iceprobe.load_dataset(config.data),
            config.adapt,
            config.probe,
            part_of(config, Adaptation),
            on_estimate=partial(print_duration, config),
        )

    show(write_run(folder, prepare, resume=resume), folder)


def _identity(config: AdaptRun) -> str:
    """Identity of the store that the frozen backbone would make now: which images, which weights."""
    from iceprobe.adaptation.api import manifest_of
    from iceprobe.fitting.checks import check_device

    backbone, dataset = iceprobe.load_backbone(config.backbone), iceprobe.load_dataset(config.data)
    return manifest_of(backbone, dataset, config, check_device(config.device)).identity
