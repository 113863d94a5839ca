"""``iceprobe fit``: probes on a feature store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from iceprobe.cli import run
from iceprobe.cli.arguments import is_config
from iceprobe.cli.campaign import cells, run_cells
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.other_sets import OtherSets
from iceprobe.cli.signature import Given, Resume, StoreArguments, Trust, options
from iceprobe.cli.stages import check_fit_on
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import options_of
from iceprobe.loggers import parse_logger
from iceprobe.probes import parse_probe
from iceprobe.settings import Run, StoreRun

if TYPE_CHECKING:
    from iceprobe.store import Store


# For --live; a store has its tokens already.
LIVE = ("backbone", "data", "augmentation", "limit", "forward_batch_size", "forward_dtype")


@options(StoreRun, Run, only=[*options_of(StoreRun), "live", *LIVE])
def fit(
    given: Given, arguments: StoreArguments = None, resume: Resume = True, trust: Trust = False
) -> None:
    """Fit probes on a feature store, or on tokens of your own, and write a run folder with a report.

    The config.yaml that fit and knn leave in the run folder can stand in place of the store.

    \b
    Examples:
      iceprobe fit features/mae-tiny--fashion-0123456789ab --probe linear --probe ep32
      iceprobe fit features/mae-tiny--fashion-0123456789ab --learning-rates 1e-3,1e-2
      iceprobe fit features/mae-tiny--fashion-0123456789ab --budget 20k --shots 5,50
      iceprobe fit "features:train.h5?test=test.h5&target=y" --probe linear --probe ep12
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
        if name in given:
            flag = f"--{name.replace('_', '-')} {given[name]}"
            raise IceprobeError(f"{flag} is for --live: a store has its tokens already")
    first, *overrides = arguments
    asked = {key: value for key, value in given.items() if key != "live"}
    if is_config(first):
        config = resolve(StoreRun, asked, Path(first), overrides)
    else:
        config = resolve(StoreRun, {**asked, "store": first}, overrides=overrides)
    execute(config, resume, trust)


def execute(config: StoreRun, resume: bool = True, trust: bool = False) -> None:
    """Fit on the store of ``config``, once for each number of training images."""
    for text in config.probe:
        parse_probe(text)  # a wrong name is reported before torch is imported
    for text in config.log:
        parse_logger(text)
    run_cells(config, cells(config), _NamedStore(trust), resume=resume)


class _NamedStore:
    """The store that a configuration names.

    ``trust``: whether code that its manifest names may run, for ``--test``.
    """

    def __init__(self, trust: bool = False):
        self.trust, self.tests = trust, OtherSets()
        self._opened: dict[Path | str, Store] = {}  # tokens in files are read once

    def other_sets(self, config: StoreRun) -> dict[str, Any]:
        """The options of `iceprobe.test`: the backbone is the one that the store names."""
        return {"trust": self.trust, "device": config.device}

    def store(self, config: StoreRun, progress: Bars | None = None) -> "Store":
        from iceprobe.store import open_store

        if config.store not in self._opened:
            self._opened[config.store] = open_store(config.store, progress=progress or False)
        return self._opened[config.store]

    def identities(self, config: StoreRun) -> set[str]:
        return {self.store(config).identity}

    def check(self, config: StoreRun) -> None:
        check_fit_on(config, self.store(config))
