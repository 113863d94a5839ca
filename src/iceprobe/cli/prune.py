"""``iceprobe prune``: remove feature stores that no run reads any more."""

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from iceprobe.cli.console import answers, say
from iceprobe.cli.stores import Stored, stores_in
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.temporary import remove_unless_locked

_REMAINS = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # names of `iceprobe.machine.temporary`


def prune(
    stores: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Stores to remove, also if a run reads them (those that no run reads)."
        ),
    ] = None,
    features: Annotated[Path, typer.Option(help="Folder of the stores.")] = Path("features"),
    runs: Annotated[
        list[Path] | None, typer.Option(help="Folder of runs that may read them; repeat it. (runs)")
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
    folders = runs or [Path("runs")]
    if stores:
        chosen = _named(stores, folders)
    else:
        chosen = [one for one in stores_in(features, folders) if not one.readers]
    if not chosen:
        where = " or ".join(map(str, folders))
        say(f"{features}: every store is read by a run in {where}, or there is none")
    removed = [one for one in chosen if _remove(one, yes)]
    if yes and features.is_dir():
        for remains in features.iterdir():
            if _REMAINS.fullmatch(remains.name):  # left by a prune that was killed
                remove_unless_locked(remains)
    answers("stores", [{**one.record, "removed": yes and one in removed} for one in chosen])
    if removed:
        total = decimal(sum(one.bytes for one in removed))
        count = f"{len(removed)} store{'s' * (len(removed) > 1)}, {total}"
        say(f"removed: {count}" if yes else f"--yes removes {count}")


def _named(stores: Sequence[Path], runs: Sequence[Path]) -> list[Stored]:
    found = []
    for path in dict.fromkeys(stores):
        here = {one.path.name: one for one in stores_in(path.parent, runs)}
        if path.name not in here:
            raise IceprobeError(unknown(f"store in {path.parent}", path.name, here))
        found.append(here[path.name])
    return found


def _remove(store: Stored, yes: bool) -> bool:
    """Print a store and with ``yes`` remove it; False if another process writes to it."""
    runs = ", ".join(map(str, store.readers))
    readers = f"read by {runs}" if runs else "no run reads it"
    say(f"{store.path}  {decimal(store.bytes)}, {store.state}; {readers}")
    try:
        with exclusive(store.path):
            if yes:  # renamed first: if this is killed, the next prune removes the rest
                gone = store.path.parent / f".{store.path.name}.{secrets.token_hex(4)}.tmp"
                os.rename(store.path, gone)
                shutil.rmtree(gone)
    except IceprobeError as error:
        say(f"  stays: {error}", style="yellow")
        return False
    return True
