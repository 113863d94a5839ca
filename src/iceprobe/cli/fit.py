"""``iceprobe fit``: probes on a feature store."""

from pathlib import Path
from typing import TYPE_CHECKING

from iceprobe.cli import options
from iceprobe.cli.arguments import StoreArguments, given, is_config
from iceprobe.cli.campaign import cells, run_campaign
from iceprobe.cli.config import RunConfig, StoreConfig, resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.stages import check_fit, run_stages
from iceprobe.core.errors import IceprobeError

if TYPE_CHECKING:
    from iceprobe.store import Store


def fit(
    arguments: StoreArguments = None,
    backbone: options.Backbones = None,
    data: options.Datasets = None,
    probe: options.Probe = None,
    budget: options.Budget = None,
    budget_flops: options.BudgetFlops = None,
    shots: options.Shots = None,
    fraction: options.Fraction = None,
    output: options.Output = None,
    protocol: options.Protocol = None,
    seeds: options.Seeds = None,
    replicates: options.Replicates = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rates: options.LearningRates = None,
    weight_decays: options.WeightDecays = None,
    min_steps: options.MinSteps = None,
    halving: options.Halving = None,
    coordinates: options.Coordinates = None,
    long: options.Long = None,
    live: options.Live = None,
    augmentation: options.Augmentation = None,
    limit: options.Limit = None,
    forward_batch_size: options.ForwardBatchSize = None,
    amp: options.Amp = None,
    device: options.Device = None,
    memory: options.Memory = None,
    shuffle: options.Shuffle = None,
    resume: options.Resume = True,
) -> None:
    """Fit probes on a feature store and write a run folder with a report.

    The config.yaml that fit and knn leave in the run folder can stand in place of the store.

    \b
    Examples:
      iceprobe fit features/mae-tiny--fashion-0123456789ab --probe linear --probe ep32
      iceprobe fit features/mae-tiny--fashion-0123456789ab --learning-rates 1e-3,1e-2
      iceprobe fit features/mae-tiny--fashion-0123456789ab --budget 20k --shots 5,50
      iceprobe fit runs/mine/config.yaml seeds=5 output=runs/five-seeds
      iceprobe fit --live --backbone timm:A --data folder:/data/birds --probe linear --probe ep32
    """
    if live:
        if arguments:
            raise IceprobeError(f"--live reads no store: leave {arguments[0]} out")
        from iceprobe.cli import run

        run.execute(resolve(RunConfig, given(locals()), None, []), resume)
        return
    if not arguments:
        raise IceprobeError("name a feature store, or images and a backbone with --live")
    images: dict[str, object] = {
        "--backbone": backbone,
        "--data": data,
        "--augmentation": augmentation,
    }
    images |= {"--limit": limit, "--forward-batch-size": forward_batch_size, "--amp": amp}
    for name, value in images.items():
        if value is not None:
            raise IceprobeError(f"{name} {value} is for --live: a store has its tokens already")
    values = {key: value for key, value in locals().items() if key in StoreConfig.model_fields}
    first, *overrides = arguments
    file = Path(first) if is_config(first) else None
    if file is None:
        values["store"] = first
    execute(resolve(StoreConfig, values, file, overrides), resume)


def execute(config: StoreConfig, resume: bool = True) -> None:
    """Fit on the store of ``config``, once or once a number of training images."""

    def obtain(config: StoreConfig, _: Bars | None = None) -> "Store":
        from iceprobe.store import Store

        return Store.open(config.store)

    def identities(config: StoreConfig) -> set[str]:
        return {obtain(config).identity}

    def check(config: StoreConfig) -> None:
        store = obtain(config)
        check_fit(config, store, store.classes, store["train"].labels)

    runs = cells(config)
    if len(runs) == 1:
        (run,) = runs
        run_stages(run, lambda bars: obtain(run, bars), lambda: identities(run), resume=resume)
    else:
        run_campaign(config, runs, obtain, identities, check, resume=resume)
