"""Results → one self-contained HTML file, and figures for a paper."""

from collections.abc import Sequence
from pathlib import Path

from iceprobe.lazy import lazy
from iceprobe.results.schema import Result

__all__ = ["figure", "report"]
__getattr__ = lazy(__name__, {"figure": "paper_figure"})


def report(
    results: Sequence[Result],
    path: str | Path,
    *,
    title: str | None = None,
    images: int = 8,
    trust: bool = False,
) -> Path:
    """Write the report of ``results`` as one HTML file that works offline.

    Args:
        results: of one run or several; attention maps are drawn for those whose fitted probes,
            store and images can be found, and the report says why where they can't.
        path: where the file goes; replaced atomically if it is there.
        title: shown in the browser's tab; names the backbone and data by default.
        images: test images on the attention page; 0 leaves the page out.
        trust: whether other hosts may be asked for stores and images that the results' files name.

    Returns:
        The path written.

    Raises:
        IceprobeError: if there are no results.
    """
    from iceprobe.report.page import write_report

    return write_report(results, Path(path), title=title, images=images, trust=trust)
