"""``iceprobe report``: results of one or more runs as HTML, Markdown or CSV."""

from pathlib import Path
from typing import Annotated

import typer

from iceprobe.cli.console import console
from iceprobe.cli.paths import check_writable
from iceprobe.errors import IceprobeError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .html, .md or .csv (report.html in the run, if it is one run).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a report on runs that are finished.

    \b
    Examples:
      iceprobe report runs/demo
      iceprobe report runs/mae runs/dino --output comparison.html
      iceprobe report runs/demo --output table.md
    """
    from iceprobe.results import read_results, to_csv, to_markdown
    from iceprobe.results.files import write_atomically

    if output is None and len(runs) > 1:
        raise IceprobeError(
            f"{len(runs)} runs in one report: name its file, such as --output comparison.html"
        )
    results = [result for run in runs for result in read_results(run)]
    path = output or runs[0] / "report.html"
    if path.is_dir():
        raise IceprobeError(f"--output {str(path)!r} is a folder: name a file in it")
    check_writable(path.parent, "--output")
    if path.suffix == ".html":
        from iceprobe import report as write_report

        write_report(results, path)
    elif path.suffix in (".md", ".csv"):
        text = to_markdown(results) if path.suffix == ".md" else to_csv(results)
        write_atomically(path, text.encode())
    else:
        raise IceprobeError(f"output {str(path)!r}: a report ends in .html, .md or .csv")
    console.print(str(path.resolve()), markup=False, soft_wrap=True)
