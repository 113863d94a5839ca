"""``iceprobe fit``: probes on a feature store."""

from pathlib import Path
from typing import TYPE_CHECKING

from iceprobe.cli import run
from iceprobe.cli.arguments import is_config
from iceprobe.cli.campaign import cells, run_campaign
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.signature import Given, Resume, StoreArguments, options
from iceprobe.cli.stages import check_fit, run_stages
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import options_of
from iceprobe.settings import Run, StoreRun

if TYPE_CHECKING:
    from iceprobe.store import Store


# With --live in place of a store; a store has its tokens already.
LIVE = ("backbone", "data", "live", "augmentation", "limit", "forward_batch_size", "forward_dtype")


@options(StoreRun, Run, only=[*options_of(StoreRun), *LIVE])
def fit(given: Given, arguments: StoreArguments = None, resume: Resume = True) -> None:
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
    if given.get("live"):
        if arguments:
            raise IceprobeError(f"--live reads no store: leave {arguments[0]} out")
        run.execute(resolve(Run, given), resume)
        return
    if not arguments:
        raise IceprobeError("name a feature store, or images and a backbone with --live")
    for name in LIVE:
        if name != "live" and name in given:
            value = given[name]
            raise IceprobeError(
                f"--{name.replace('_', '-')} {value} is for --live: a store has its tokens already"
            )
    first, *overrides = arguments
    file = Path(first) if is_config(first) else None
    asked = {key: value for key, value in given.items() if key != "live"}
    store = {} if file else {"store": first}
    execute(resolve(StoreRun, asked | store, file, overrides), resume)


def execute(config: StoreRun, resume: bool = True) -> None:
    """Fit on the store of ``config``, once or once a number of training images."""

    def obtain(config: StoreRun, _: Bars | None = None) -> "Store":
        from iceprobe.store import Store

        return Store.open(config.store)

    def identities(config: StoreRun) -> set[str]:
        return {obtain(config).identity}

    def check(config: StoreRun) -> None:
        store = obtain(config)
        check_fit(config, store, store.classes, store["train"].labels)

    runs = cells(config)
    if len(runs) == 1:
        (run,) = runs
        run_stages(run, lambda bars: obtain(run, bars), lambda: identities(run), resume=resume)
    else:
        run_campaign(config, runs, obtain, identities, check, resume=resume)
