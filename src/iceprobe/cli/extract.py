"""``iceprobe extract``: tokens of a frozen backbone into a feature store."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import iceprobe
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars, console, say
from iceprobe.cli.paths import check_features
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.machine.object_storage import RemotePath, located
from iceprobe.machine.processes import first
from iceprobe.settings import Extraction, ExtractRun


@options(ExtractRun)
def extract(
    given: Given,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Write tokens of your own, features:FILE, as a store."),
    ] = None,
    repair: Annotated[
        Path | None,
        typer.Option(help="Repair this store: extract its corrupt shards again, nothing else."),
    ] = None,
    trust: Trust = False,
    verify: Annotated[
        Path | None,
        typer.Option(help="Read all of this store and compare its checksums, nothing else."),
    ] = None,
) -> None:
    """Write the tokens of every image, or tokens of your own, to a feature store, resumable and checked.

    A killed extraction always goes on at its next shard when the same command is given again; to
    begin it again, remove the store or take another --features.

    \b
    Examples:
      iceprobe extract --backbone bundled:mae-tiny --data bundled:fashion-clutter
      iceprobe extract --backbone timm:vit_base_patch16_224.mae --data folder:/data/birds --forward-dtype bfloat16
      iceprobe extract --backbone bundled:mae-tiny --data bundled:fashion-clutter --views 4
      iceprobe extract --from "features:train.h5?test=test.h5&target=y"
      iceprobe extract --verify features/mae-tiny--fashion-0123456789ab
      iceprobe extract --repair features/mae-tiny--fashion-0123456789ab
    """
    for name, store in (("--repair", repair), ("--verify", verify)):
        if store is not None and from_ is not None:
            raise IceprobeError(
                f"{name} {str(store)!r} and --from {from_!r}: one reads a store, the other writes one; keep one"
            )
        if store is not None and ("backbone" in given or "data" in given):
            raise IceprobeError(
                f"{name} {str(store)!r}: the store knows its backbone and data; leave "
                "--backbone and --data out"
            )
    if from_ is not None:
        say(_save(from_, given))
    elif repair is not None:
        say(_repair(repair, trust))
    elif verify is not None:
        say(first(partial(_verify, verify)))
    else:
        say(_extract(resolve(ExtractRun, given)))


def _extract(config: ExtractRun) -> Path | RemotePath:
    check_features(config.features, "--features")
    backbone, dataset = iceprobe.load_backbone(config.backbone), iceprobe.load_dataset(config.data)
    settings = part_of(config, Extraction)
    with Bars() as progress:
        store = iceprobe.extract(backbone, dataset, config.features, settings, progress=progress)
    assert store.path is not None  # extract() writes
    return store.path


def _save(spec: str, given: Given) -> Path | RemotePath:
    """Tokens in files as a store."""
    if others := [f"--{name.replace('_', '-')}" for name in given if name != "features"]:
        raise IceprobeError(
            f"{others[0]} is of images and a backbone, and --from {spec!r} has its tokens: leave it out"
        )
    from iceprobe.store import load_features, save

    features = Path(given.get("features", "features"))
    check_features(features, "--features")
    with Bars() as progress:
        stored = save(load_features(spec, progress=progress), features, progress=progress)
    assert stored.path is not None
    return stored.path


def _repair(path: Path, trust: bool) -> Path:
    from iceprobe.store import repair

    with Bars() as progress:
        repaired = repair(path, trust=trust, progress=progress)
    console.print(f"repaired: {', '.join(repaired) or 'nothing was corrupt'}", markup=False)
    return path


def _verify(path: Path) -> Path | RemotePath:
    from iceprobe.store import Store

    store = Store.open(path, verify=True)
    shards = len(store.manifest.files)
    console.print(f"intact: {shards} shards are as they were written", markup=False)
    return located(path)
