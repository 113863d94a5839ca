"""Results → one self-contained HTML file, and figures for a paper."""

from collections.abc import Sequence
from pathlib import Path

from iceprobe.arguments import checked
from iceprobe.errors import IceprobeError
from iceprobe.lazy import lazy
from iceprobe.results.files import write_atomically
from iceprobe.results.schema import Result
from iceprobe.results.tables import to_csv, to_markdown
from iceprobe.text import shown, utf8

TABLES = (".md", ".csv")

__all__ = ["figure", "report"]
__getattr__ = lazy(__name__, {"figure": "paper_figure"})


@checked
def report(
    results: Sequence[Result],
    path: str | Path,
    *,
    title: str | None = None,
    images: int = 8,
    trust: bool = False,
) -> Path:
    """Write the report of ``results`` as one HTML file that works offline, or as a table.

    Args:
        results: of one run or several; attention maps are drawn for those whose fitted probes,
            store and images can be found, and the report says why where they can't.
        path: where the file goes, replaced atomically if it is there. Its ending says what it is:
            ``.md`` and ``.csv`` are tables, ``.html`` (or none) the report.
        title: shown in the browser's tab; names the backbone and data by default.
        images: test images on the attention page; 0 leaves the page out.
        trust: whether other hosts may be asked for stores and images that the results' files name.

    Returns:
        The path written.

    Raises:
        IceprobeError: if there are no results, or for another ending.
    """
    if isinstance(results, Result):
        results = [results]
    if not isinstance(results, Sequence) or not all(isinstance(one, Result) for one in results):
        raise IceprobeError(
            f"report(results={shown(results)}): give a list of results, of iceprobe.fit(…) or "
            "iceprobe.read_results(RUN)"
        )
    path = Path(path)
    if path.suffix in TABLES:
        if not results:
            raise IceprobeError("no results to report")
        table = to_markdown(results) if path.suffix == ".md" else to_csv(results)
        write_atomically(path, utf8(table))
        return path
    if path.suffix not in ("", ".html", ".htm"):
        raise IceprobeError(f"output {str(path)!r}: a report ends in .html, .md or .csv")
    from iceprobe.report.page import write_report

    return write_report(results, path, title=title, images=images, trust=trust)
