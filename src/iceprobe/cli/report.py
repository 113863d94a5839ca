"""``iceprobe report``: results of one or more runs as HTML, Markdown or CSV."""

from pathlib import Path
from typing import Annotated

import typer

import iceprobe
from iceprobe.cli.console import say
from iceprobe.cli.paths import check_file
from iceprobe.cli.signature import Trust
from iceprobe.core.errors import IceprobeError
from iceprobe.results import read_results
from iceprobe.results.files import is_segmented
from iceprobe.results.segmentation_files import read_segmentations


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .html, .md or .csv (report.html in the run, if it is one run)."
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """Write a report on runs that are finished.

    \b
    Examples:
      iceprobe report runs/demo
      iceprobe report runs/mae runs/dino --output comparison.html
      iceprobe report runs/demo --output table.md
      iceprobe report runs/segment
    """
    if output is None and len(runs) > 1:
        raise IceprobeError(
            f"{len(runs)} runs in one report: name its file, such as --output comparison.html"
        )
    if len(runs) == 1 and is_segmented(runs[0]):
        results = read_segmentations(runs[0])
    else:
        results = [result for run in runs for result in read_results(run)]
    path = output or runs[0] / "report.html"
    check_file(path, "--output")
    if not path.suffix:
        raise IceprobeError(f"output {str(path)!r}: a report ends in .html, .md or .csv")
    iceprobe.report(results, path, trust=trust)
    say(path.resolve())
