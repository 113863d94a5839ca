"""The results of ``iceprobe segment`` on a terminal: a table by their task, and what is said below it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iceprobe.cli.console import table_of
from iceprobe.results.dense import Dense, best_first
from iceprobe.results.depth import Depth
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.terminal import Column, TerminalTable

_Columns = list[tuple[Column, Callable[[Any], str]]]


def table(results: Sequence[Dense]) -> TerminalTable:
    """A row a probe, the best first."""
    from iceprobe.results.tables import short

    first = results[0]
    columns: _Columns = [
        (Column("probe", numeric=False), lambda one: one.probe),
        *_COLUMNS[first.task](first),
        (Column("parameters", goes=2), lambda one: short(one.parameters)),
        (Column("FLOPs", goes=1), lambda one: short(one.flops.per_image)),
    ]
    return table_of(
        best_first(results),
        columns,
        f"{first.backbone} on {first.dataset}, {_WHAT[first.task](first)}",
        "results",
    )


def said_below(results: Sequence[Dense]) -> list[str]:
    """Differences from the first probe, what knows nothing, and why an interval can't be trusted."""
    from iceprobe.reporting.dense_text import difference, floor

    lines = [difference(one) for one in results if one.beside is not None]
    lines.append(floor(results[0]))
    if (why := results[0].score.caveat) is not None:
        lines.append(why)
    return lines


def _of_classes(first: Segmentation) -> _Columns:
    from iceprobe.results.tables import percent, span

    return [
        (Column("mIoU %"), lambda one: percent(one.miou)),
        (Column("95% interval"), lambda one: span(one.miou.interval)),
        (Column("object IoU %", goes=3), lambda one: percent(one.object_iou)),
    ]


def _of_numbers(first: Depth) -> _Columns:
    from iceprobe.results.tables import percent, span
    from iceprobe.tasks import get_task

    rmse, delta1, abs_rel = get_task(first.task).metrics.values()
    return [
        (Column(f"RMSE {first.unit}".rstrip()), lambda one: percent(one.rmse, rmse)),
        (Column("95% interval"), lambda one: span(one.rmse.interval, rmse)),
        (Column("δ1 %", goes=4), lambda one: percent(one.delta1, delta1)),
        (Column("absRel", goes=3), lambda one: percent(one.abs_rel, abs_rel)),
    ]


_COLUMNS: Mapping[str, Callable[[Any], _Columns]] = {
    Segmentation.task: _of_classes,
    Depth.task: _of_numbers,
}
_WHAT: Mapping[str, Callable[[Any], str]] = {
    Segmentation.task: lambda one: f"{len(one.class_names)} classes",
    Depth.task: lambda one: f"{one.number} of every pixel",
}
