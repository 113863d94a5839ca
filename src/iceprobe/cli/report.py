"""``iceprobe report``: results of one or more runs as HTML, Markdown or CSV."""

from pathlib import Path
from typing import Annotated

import typer

from iceprobe.cli import options
from iceprobe.cli.console import console
from iceprobe.cli.paths import check_file
from iceprobe.core.errors import IceprobeError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .html, .md or .csv (report.html in the run, if it is one run).",
            show_default=False,
        ),
    ] = None,
    trust: options.Trust = False,
) -> None:
    """Write a report on runs that are finished.

    \b
    Examples:
      iceprobe report runs/demo
      iceprobe report runs/mae runs/dino --output comparison.html
      iceprobe report runs/demo --output table.md
      iceprobe report runs/segment
    """
    from iceprobe import report as write_report
    from iceprobe.results import read_results
    from iceprobe.results.files import is_segmented

    if output is None and len(runs) > 1:
        raise IceprobeError(
            f"{len(runs)} runs in one report: name its file, such as --output comparison.html"
        )
    if len(runs) == 1 and is_segmented(runs[0]):
        from iceprobe.results.segmentation_files import read_segmentations

        results = read_segmentations(runs[0])
    else:
        results = [result for run in runs for result in read_results(run)]
    path = output or runs[0] / "report.html"
    check_file(path, "--output")
    if not path.suffix:
        raise IceprobeError(f"output {str(path)!r}: a report ends in .html, .md or .csv")
    write_report(results, path, trust=trust)
    console.print(str(path.resolve()), markup=False, soft_wrap=True)
