"""``iceprobe run``: from images to a report, each stage left out that is done already."""

from typing import TYPE_CHECKING

from iceprobe.cli import options
from iceprobe.cli.arguments import Arguments, given, split_arguments
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.paths import check_place
from iceprobe.cli.plan import print_estimate
from iceprobe.cli.stages import (
    check_probes,
    extraction_options,
    needs_patches,
    run_stages,
)

if TYPE_CHECKING:
    from iceprobe.store import Store


def run(
    arguments: Arguments = None,
    backbone: options.Backbone = None,
    data: options.Data = None,
    probe: options.Probe = None,
    limit: options.Limit = None,
    protocol: options.Protocol = None,
    seeds: options.Seeds = None,
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
    resume: options.Resume = True,
) -> None:
    """Extract tokens, fit probes on them, and write a report.

    A run that was killed goes on where it stopped when the same command is given again; a
    finished one is shown, unless backbone or images have changed since. The resolved configuration
    is saved as config.yaml in the run folder; with output=runs/AGAIN it is run again.

    \b
    Examples:
      iceprobe run --backbone bundled:mae-tiny --data bundled:fashion --probe knn --probe ep8
      iceprobe run --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds
      iceprobe run config.yaml seeds=5 output=runs/five-seeds
      iceprobe run config.yaml --learning-rates 1e-3,1e-2 --output runs/two-rates
    """
    file, overrides = split_arguments(arguments or [])
    config = resolve(RunConfig, given(locals()), file, overrides)
    execute(config, resume)


def execute(config: RunConfig, resume: bool = True) -> None:
    """Run what isn't done yet of ``config``, then show the table and the report's path."""

    def obtain(progress: Bars) -> "Store":
        import iceprobe

        check_place(config.features, "--features")
        backbone = iceprobe.load_backbone(config.backbone)
        dataset = iceprobe.load_dataset(config.data)
        check_probes(config.probe, backbone, len(dataset.classes))
        print_estimate(backbone, dataset, config)
        return iceprobe.extract(
            backbone, dataset, config.features, progress=progress, **extraction_options(config)
        )

    run_stages(config, obtain, lambda: _identities(config), resume=resume)


def _identities(config: RunConfig) -> set[str]:
    """Of the stores that ``config`` would read or make now; nothing is extracted.

    A store with patches serves probes that read none. Where no device is asked for, tokens that
    another machine's made stay good.
    """
    import torch

    import iceprobe
    from iceprobe.store.format import SHARD_IMAGES
    from iceprobe.store.request import describe, make_settings

    asked = torch.device(config.device or "cpu")
    settings = make_settings(
        batch_size=config.forward_batch_size,
        device=asked,
        amp=config.amp,
        tokens=config.tokens,
        patches=needs_patches(config.probe),
        shard_images=SHARD_IMAGES,
    )
    wanted = describe(
        iceprobe.load_backbone(config.backbone),
        iceprobe.load_dataset(config.data),
        settings,
        splits=None,
        limit=config.limit,
    )
    serving = [
        settings.model_copy(update={"patches": patches, "device": device})
        for patches in {settings.patches, True}
        for device in ([asked.type] if config.device else ["cpu", "cuda"])
    ]
    return {wanted.model_copy(update={"settings": one}).identity for one in serving}
