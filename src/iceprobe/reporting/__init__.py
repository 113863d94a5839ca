"""Results → one self-contained HTML file, and figures for a paper."""

from collections.abc import Sequence
from pathlib import Path

from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.core.lazy import lazy
from iceprobe.core.text import shown, utf8
from iceprobe.machine.files import write_atomically
from iceprobe.results.dense import Dense
from iceprobe.results.fitted import FittedResult
from iceprobe.results.other_sets import tests_of
from iceprobe.results.other_tables import to_markdown_tests
from iceprobe.results.tables import to_csv, to_markdown

TABLES = (".md", ".csv")

__all__ = ["figure", "report", "write_measure_chart"]
__getattr__ = lazy(__name__, {"figure": "paper_figure", "write_measure_chart": "measure_chart"})


@checked
def report(
    results: Sequence[FittedResult] | Sequence[Dense],
    path: str | Path,
    *,
    title: str | None = None,
    images: int = 8,
    trust: bool = False,
) -> Path:
    """Write the report of ``results`` as one HTML file that works offline, or as a table.

    Args:
        results: of one run or several; attention maps are drawn where fitted probes, store and
            images can be found, and the report says why some are missing. Or the dense results of
            one run, of :func:`iceprobe.segment` or `iceprobe.dense.read_segmentations`; their page
            shows the run's picture.
        path: of the file, replaced atomically if it exists. ``.md`` and ``.csv`` are tables,
            ``.html`` (or no ending) is the report.
        title: shown in the browser's tab; names the backbone and data by default.
        images: test images on the attention page; 0 leaves the page out.
        trust: whether other hosts may be asked for stores and images that the results' files name.

    Returns:
        The path written.

    Raises:
        IceprobeError: if there are no results, or for another ending.
    """
    given = [results] if isinstance(results, FittedResult | Dense) else results
    listed = list(given) if isinstance(given, Sequence) else []
    plain = [one for one in listed if isinstance(one, FittedResult)]
    segmented = [one for one in listed if isinstance(one, Dense)]
    if not isinstance(given, Sequence) or len(listed) not in (len(plain), len(segmented)):
        raise IceprobeError(
            f"report(results={shown(results)}): give a list of results, of iceprobe.fit(…) or "
            "iceprobe.read_results(RUN), or of iceprobe.segment(…) or "
            "iceprobe.dense.read_segmentations(RUN)"
        )
    path = Path(path)
    if segmented:
        from iceprobe.reporting.segment_page import write_segment_report

        return write_segment_report(segmented, path, title=title, images=images > 0)
    if path.suffix in TABLES:
        if not plain:
            raise IceprobeError("no results to report")
        tests = tests_of(plain)
        if path.suffix == ".csv":
            table = to_csv([*plain, *tests])
        else:
            table = to_markdown(plain)
            table += f"\n{to_markdown_tests(plain, tests)}" if tests else ""
        write_atomically(path, utf8(table))
        return path
    if path.suffix not in ("", ".html", ".htm"):
        raise IceprobeError(f"output {str(path)!r}: a report ends in .html, .md or .csv")
    from iceprobe.reporting.page import write_report

    return write_report(plain, path, title=title, images=images, trust=trust)
