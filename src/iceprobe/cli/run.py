"""``iceprobe run``: from images to a report, each stage left out that is done already."""

from typing import TYPE_CHECKING

from iceprobe.cli import options
from iceprobe.cli.arguments import Arguments, given, split_arguments
from iceprobe.cli.config import RunConfig, resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.plan import print_estimate
from iceprobe.cli.stages import check_probes, extraction_options, run_stages

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
    finished one is shown. The resolved configuration is saved as config.yaml in the run folder.

    \b
    Examples:
      iceprobe run --backbone bundled:mae-tiny --data bundled:fashion --probe knn --probe ep8
      iceprobe run --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds
      iceprobe run config.yaml seeds=5 output=runs/five-seeds
    """
    file, overrides = split_arguments(arguments or [])
    config = resolve(RunConfig, given(locals()), file, overrides)
    execute(config, resume)


def execute(config: RunConfig, resume: bool = True) -> None:
    """Run what isn't done yet of ``config``, then show the table and the report's path."""

    def obtain(progress: Bars) -> "Store":
        import iceprobe

        backbone = iceprobe.load_backbone(config.backbone)
        dataset = iceprobe.load_dataset(config.data)
        check_probes(config.probe, backbone, len(dataset.classes))
        print_estimate(backbone, dataset, config)
        return iceprobe.extract(
            backbone, dataset, config.features, progress=progress, **extraction_options(config)
        )

    run_stages(config, obtain, resume=resume)
