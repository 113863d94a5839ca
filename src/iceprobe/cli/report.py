"""``iceprobe report``: results of one or more runs as HTML, Markdown or CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import iceprobe
from iceprobe.cli.console import at_work, say
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
    metric: Annotated[
        str | None,
        typer.Option(help="Metric that leads, computed from what was kept (iceprobe ls metrics)."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Write a report on runs that are finished.

    \b
    Examples:
      iceprobe report runs/demo
      iceprobe report runs/mae runs/dino --output comparison.html
      iceprobe report runs/demo --output table.md
      iceprobe report runs/demo --metric f1_macro
      iceprobe report runs/segment
    """
    if output is None and len(runs) > 1:
        raise IceprobeError(
            f"{len(runs)} runs in one report: name its file, such as --output comparison.html"
        )
    path = output or runs[0] / "report.html"
    check_file(path, "--output")
    if not path.suffix:
        raise IceprobeError(f"output {str(path)!r}: a report ends in .html, .md or .csv")
    with at_work("report"):
        _write(runs, path, metric, trust)
    say(path.resolve())


def _write(runs: Sequence[Path], path: Path, metric: str | None, trust: bool) -> None:
    if len(runs) == 1 and is_segmented(runs[0]):
        if metric is not None:
            raise IceprobeError(
                f"metric={metric!r}: a run of iceprobe segment leads with mIoU or RMSE, leave it out"
            )
        iceprobe.report(read_segmentations(runs[0]), path, trust=trust)
    else:
        results = [result for run in runs for result in read_results(run)]
        if metric is not None:
            from iceprobe.results.building import led_by  # with numpy

            results = [led_by(result, metric) for result in results]
        iceprobe.report(results, path, trust=trust)
