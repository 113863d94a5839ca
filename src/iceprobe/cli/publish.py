"""``iceprobe publish``: a run where others read it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from iceprobe.cli.config import resolve
from iceprobe.cli.console import answers, at_work, note, say, wrote
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.errors import IceprobeError
from iceprobe.settings import Publishing


@options(Publishing)
def publish(
    given: Given,
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[
        str | None, typer.Option(help="hub:OWNER/NAME, or ep: a row for the authors' results.csv.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Publish a run: on the Hugging Face Hub, or as a row of the publication's benchmark.

    To hub: go the exported probe, a model card with its scores, results and report. Without a token of the Hub, or with
    --dry-run, every file is shown and nothing is sent.

    \b
    Examples:
      iceprobe publish runs/demo --to hub:me/clutter-ep12 --dry-run
      iceprobe publish runs/demo --to hub:me/clutter-ep12 --probe ep12 --license apache-2.0
      iceprobe publish runs/mae --to ep
      iceprobe publish runs/mine --to "ep:results.csv?family=MIM&method=Mine&arch=ViT-L/14&pretrain=IN-1K"
    """
    from iceprobe.publishing import DESTINATIONS
    from iceprobe.publishing import publish as published

    if to is None:
        ways = "; ".join(
            f"--to {DESTINATIONS[name].example}, {DESTINATIONS[name].summary}"
            for name in DESTINATIONS
        )
        raise IceprobeError(f"publish where? {ways}")
    settings = resolve(Publishing, given)
    with at_work("writing the files"):
        made = published(run, to, settings, dry_run=True, trust=trust)
    files = [{"path": name, "bytes": made.files.size(name)} for name in made.files]
    if not answers("files", files):
        for name in made.files:
            say(f"{decimal(made.files.size(name)):>10}  {name}")
        say("")
        say(made.files[made.shown].decode().rstrip())
        say("")
    for line in made.notes:
        note(f"{line[0].upper()}{line[1:]}{'' if line.endswith('.') else '.'}")
    if settings.dry_run or made.missing:
        note(f"Not sent: {made.missing or 'a dry run'}; it would go to {made.place}.")
        return
    with at_work("sending"):
        place = made.send()
    wrote(place)
