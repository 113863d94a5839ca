"""The page of a run of ``iceprobe segment``."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import utf8
from iceprobe.machine.files import write_atomically
from iceprobe.reporting.dense_text import amount, change, floor, floor_said, over, reads
from iceprobe.reporting.finding import Finding, alone, display_name, no_order
from iceprobe.reporting.template import environment, policy, scripts_of, style
from iceprobe.results.dense import Dense, best_first
from iceprobe.results.depth import Depth
from iceprobe.results.primary import capital
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.segmentation_files import CSV_NAME, PICTURE_NAME
from iceprobe.results.tables import span
from iceprobe.tasks.registry import get_task

#: By the task of the results.
PAGES: Mapping[str, str] = {Segmentation.task: "segment.html.j2", Depth.task: "depth.html.j2"}


def write_segment_report(
    results: Sequence[Dense], path: Path, *, title: str | None = None, images: bool = True
) -> Path:
    """Write the page of one run as one HTML file that works offline.

    Args:
        results: of one run.
        path: of the file.
        title: in the browser's tab; names the backbone and data by default.
        images: whether the run's picture is shown.

    Raises:
        IceprobeError: for results of several runs, or for another ending.
    """
    if path.suffix not in ("", ".html", ".htm"):
        raise IceprobeError(
            f"output {str(path)!r}: the report of a run of `iceprobe segment` ends in .html; its "
            f"table is {CSV_NAME} in the run folder"
        )
    first = results[0]
    if any((one.run, one.created) != (first.run, first.created) for one in results):
        raise IceprobeError(
            "segmentations of several runs in one report: give those of one run, as "
            "iceprobe.segment(…) returns them"
        )
    scripts = scripts_of(charts=False)
    page = environment().get_template(PAGES[first.task]).render(
        title=title or f"{first.backbone} on {first.dataset}, {first.task}",
        first=first,
        headline=headline(results),
        ordered=best_first(results),
        metrics=list(get_task(first.task).metrics.values()),
        over=over(first),
        floor=floor(first),
        picture=_picture(first.run) if images else None,
        pictured=images,
        specs=[],
        style=style(),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
    )  # fmt: skip
    write_atomically(path, utf8(page))
    return path


def headline(results: Sequence[Dense]) -> Finding:
    """The best probe beside the first one, or beside the second best where it is the first itself.

    An order is claimed where the paired interval shows it, and never of an undertrained fit.
    """
    best, *others = best_first(results)
    said, floor = reads(capital(display_name(best.probe)), best), floor_said(best)
    if not others:
        ends = span(best.score.interval, best.metric)
        return alone(said, f"95% interval {ends}; {floor}", best)
    other = others[0] if best is results[0] else results[0]
    name = display_name(other.probe)
    beside = f"{name} {amount(other)}"
    if best.undertrained or other.undertrained:
        return no_order(
            f"{said} and {beside}", {display_name(one.probe): one for one in (best, other)}
        )
    mean, (low, high) = _difference(best, other)
    drawn = f"the {best.split} images" if best.group is None else over(best)
    clear = low > 0 or high < 0
    return Finding(
        f"{said} where {reads(name, other, first=False)}."
        if clear
        else f"{said} and {beside}: no clear difference.",
        f"95% interval {span((low, high), best.metric, signed=True)} (paired bootstrap over "
        f"{drawn}); {floor}",
        change(best, mean),
    )


def _difference(one: Dense, other: Dense) -> tuple[float, tuple[float, float]]:
    """``one`` less ``other``, of which one is the first of its run, and the interval."""
    if one.beside is not None:
        return one.beside.mean, one.beside.interval
    assert other.beside is not None
    low, high = other.beside.interval
    return -other.beside.mean, (-high, -low)


def _picture(run: Path | None) -> str | None:
    """As a data URI; None where no run folder was written, or it isn't in there any more."""
    path = run / PICTURE_NAME if run is not None else None
    if path is None or not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
