"""Dense results in words: what a probe reads, how it differs from another, and the floor of both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from iceprobe.results.dense import Dense
from iceprobe.results.depth import Depth
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.tables import figure, gap, span
from iceprobe.tasks.registry import get_task


@dataclass(frozen=True)
class _Words:
    """Of the results of one task.

    Attributes:
        reads: the verb between a probe and its number.
        after: what stands behind a number that is the first of a sentence.
        floor: the line on what knows nothing, and the same as a part of a sentence.
    """

    reads: str
    after: str
    floor: Callable[[Any], tuple[str, str]]


def reads(name: str, one: Dense, *, first: bool = True) -> str:
    """``"EP8 reads 45.8% mean IoU"``, ``"linear is off by 3.21 px (RMSE)"``; not ``first``: without the
    metric's name."""
    words = _WORDS[one.task]
    return f"{name} {words.reads} {amount(one)}{words.after if first else ''}"


def amount(one: Dense) -> str:
    """The number of the primary metric with its unit: ``"45.8%"``, ``"3.21 px"``."""
    return f"{figure(one.score.mean, one.metric)}{one.score_unit}"


def change(one: Dense, mean: float) -> str:
    """A difference of the primary metric: ``"+6.4 points"``, ``"−0.25 px"``."""
    return gap(mean, one.metric) + ("" if one.metric.percent else one.score_unit)


def over(one: Dense) -> str:
    """What intervals are over: ``"images"``, ``"groups of 'patient'"``."""
    return "images" if one.group is None else f"groups of {one.group!r}"


def difference(one: Dense) -> str:
    """The line of a result that has one beside it."""
    assert one.beside is not None
    ends = span(one.beside.interval, one.metric, signed=True)
    return (
        f"{one.probe} − {one.beside.probe}: {change(one, one.beside.mean)} of {one.metric.title}, 95% "
        f"interval {ends} (paired over {over(one)})"
    )


def floor(one: Dense) -> str:
    """The line on what knows nothing."""
    return _WORDS[one.task].floor(one)[0]


def floor_said(one: Dense) -> str:
    """The same as a part of a sentence."""
    return _WORDS[one.task].floor(one)[1]


def _background(one: Segmentation) -> tuple[str, str]:
    share = f"{figure(one.all_background)}%"
    return f"all background: {share} mIoU", f"calling every pixel background reads {share}"


def _training_mean(one: Depth) -> tuple[str, str]:
    metrics, unit = get_task(one.task).metrics, one.score_unit
    rmse, delta1, abs_rel = (
        figure(getattr(one.training_mean, name), metric) for name, metric in metrics.items()
    )
    mean = figure(one.mean, metrics["rmse"])
    return (
        f"the training mean, {mean}{unit}, at every pixel: RMSE {rmse}{unit}, δ1 {delta1}%, absRel "
        f"{abs_rel}",
        f"the training mean at every pixel is off by {rmse}{unit}",
    )


_WORDS: Mapping[str, _Words] = {
    Segmentation.task: _Words("reads", " mean IoU", _background),
    Depth.task: _Words("is off by", " (RMSE)", _training_mean),
}
