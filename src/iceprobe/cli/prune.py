"""``iceprobe prune``: remove feature stores that no run reads any more."""

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from iceprobe.cli.console import console
from iceprobe.cli.stores import Stored, stores_in
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.temporary import remove_unless_locked

_REMAINS = re.compile(
    r"\..+\.[0-9a-f]{8}\.tmp"
)  # as `iceprobe.machine.temporary` names what isn't whole


def prune(
    stores: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Stores to remove, also if a run reads them (those that no run reads).",
            show_default=False,
        ),
    ] = None,
    features: Annotated[Path, typer.Option(help="Folder of the stores.")] = Path("features"),
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of runs that may read them; repeat it. (runs)"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them.")] = False,
) -> None:
    """Say which feature stores no run reads, and remove them with --yes.

    A run reads a store if its folder is below --runs and refers to it, finished or not. What a
    process is writing to stays. Tokens that were removed can be extracted again.

    \b
    Examples:
      iceprobe prune
      iceprobe prune --yes
      iceprobe prune features/mae-tiny--fashion-0123456789ab --yes
    """
    places = runs or [Path("runs")]
    if stores:
        chosen = _named(stores, places)
    else:
        chosen = [one for one in stores_in(features, places) if not one.readers]
    if not chosen:
        where = " or ".join(map(str, places))
        console.print(
            f"{features}: every store is read by a run in {where}, or there is none",
            markup=False,
            soft_wrap=True,
        )
    removed = [one for one in chosen if _remove(one, yes)]
    if yes and features.is_dir():
        for remains in features.iterdir():
            if _REMAINS.fullmatch(remains.name):  # of a prune that was killed
                remove_unless_locked(remains)
    if removed:
        total = _size(sum(one.bytes for one in removed))
        count = f"{len(removed)} store{'s' * (len(removed) > 1)}, {total}"
        last = f"removed: {count}" if yes else f"--yes removes {count}"
        console.print(last, markup=False, soft_wrap=True)


def _named(stores: Sequence[Path], runs: Sequence[Path]) -> list[Stored]:
    found = []
    for path in dict.fromkeys(stores):
        here = {one.path.name: one for one in stores_in(path.parent, runs)}
        if path.name not in here:
            raise IceprobeError(unknown(f"store in {path.parent}", path.name, here))
        found.append(here[path.name])
    return found


def _remove(store: Stored, yes: bool) -> bool:
    """Remove it, or only name it; False if somebody is writing to it."""
    readers = (
        f"read by {', '.join(map(str, store.readers))}" if store.readers else "no run reads it"
    )
    text = f"{store.path}  {_size(store.bytes)}, {store.state}; {readers}"
    console.print(text, markup=False, soft_wrap=True)
    try:
        with exclusive(store.path):
            if yes:  # in one step it is a store no more; what a kill leaves, the next prune removes
                gone = store.path.parent / f".{store.path.name}.{secrets.token_hex(4)}.tmp"
                os.rename(store.path, gone)
                shutil.rmtree(gone)
    except IceprobeError as error:
        console.print(f"  stays: {error}", style="yellow", markup=False, soft_wrap=True)
        return False
    return True


def _size(number: int) -> str:
    from rich.filesize import decimal

    return decimal(number)
