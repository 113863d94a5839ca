"""``iceprobe fit``: probes on a feature store."""

from typing import TYPE_CHECKING

from iceprobe.cli import options
from iceprobe.cli.config import StoreConfig, resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.stages import run_stages

if TYPE_CHECKING:
    from iceprobe.store import Store


def fit(
    store: options.Store,
    probe: options.Probe = None,
    output: options.Output = None,
    protocol: options.Protocol = None,
    seeds: options.Seeds = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    memory: options.Memory = None,
    resume: options.Resume = True,
) -> None:
    """Fit probes on a feature store and write a run folder with a report.

    \b
    Examples:
      iceprobe fit features/mae-tiny--fashion-0123456789ab --probe linear --probe ep32
      iceprobe fit features/mae-tiny--fashion-0123456789ab --protocol paper --output runs/paper
    """
    values = {key: value for key, value in locals().items() if key in StoreConfig.model_fields}
    execute(resolve(StoreConfig, values), resume)


def execute(config: StoreConfig, resume: bool = True) -> None:
    """Fit on the store of ``config``."""

    def obtain(_: Bars) -> "Store":
        from iceprobe.store import Store

        return Store.open(config.store)

    run_stages(config, obtain, resume=resume)
