"""The primary metric of results: the one that all orders, sentences and charts are by."""

from collections.abc import Sequence

from iceprobe.results.schema import Result
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.registry import get_task


def level(one: Result) -> float:
    """Its score, higher where it is better; the same fraction reached by two roundings is a tie."""
    return one.metric.sign * round(one.score.mean, 9)


def shared_metric(*results: Result) -> Metric:
    """The metric that leads for all of them; that of their task where they differ."""
    if len({one.primary for one in results}) == 1:
        return results[0].metric
    task = get_task(results[0].task)
    return task.metrics[task.primary]


def is_usual(one: Result) -> bool:
    """Whether figures needn't name its metric: an accuracy by the primary metric of its task."""
    return one.metric.accuracy and one.primary == get_task(one.task).primary


def unit_of(metric: Metric, results: Sequence[Result]) -> str:
    """What stands behind the figures of a metric: ``"%"``, ``"years"``, ``""``.

    The unit of targets is that of all outputs of all results.
    """
    if not metric.unit_of_target:
        return metric.unit
    units = {unit for one in results for unit in one.units or [""]}
    return units.pop() if len(units) == 1 else ""


def adds_up(metric: Metric, one: Result) -> bool:
    """Whether its mean over outputs is of like with like: not of numbers of several units."""
    return not metric.unit_of_target or one.classes == 1 or unit_of(metric, [one]) != ""


def titles_of(results: Sequence[Result]) -> str:
    """Their primary metrics in words: ``"top-1"``, ``"top-1 or mean per class"``."""
    return " or ".join(dict.fromkeys(one.metric.title for one in results))


def noun_of(results: Sequence[Result]) -> str:
    """What their figures are called: ``"accuracy"``, or what the metric is called that is none."""
    metrics = [one.metric for one in results]
    return "accuracy" if all(one.accuracy for one in metrics) else titles_of(results)


def full_title_of(results: Sequence[Result]) -> str:
    """The same in full: ``"top-1 accuracy"``, ``"top-1 or mean per class accuracy"``."""
    titles, noun = titles_of(results), noun_of(results)
    return titles if titles == noun else f"{titles} {noun}"


def clipped(metric: Metric, low: float, high: float, scale: int = 1) -> list[float]:
    """The ends of an axis of scores × ``scale``, no further apart than its metric's range."""
    least, most = metric.range
    return [
        low if least is None else max(scale * least, low),
        high if most is None else min(scale * most, high),
    ]


def in_percent(results: Sequence[Result]) -> bool:
    """Whether all of their figures are percentages."""
    return all(one.metric.percent for one in results)


def heading_of_all(results: Sequence[Result]) -> str:
    """The heading of their figures: ``"top-1 %"``, ``"mean distance"``."""
    unit = _shared_unit(results)
    return titles_of(results) + (f"{' ' if unit == '%' else ', '}{unit}" if unit else "")


def axis_title(results: Sequence[Result], title: str | None = None) -> str:
    """The title of an axis, ``"Top-1 accuracy, %"`` by default, with their unit."""
    unit = _shared_unit(results)
    return capital(title or full_title_of(results)) + (f", {unit}" if unit else "")


def _shared_unit(results: Sequence[Result]) -> str:
    units = {unit_of(one.metric, results) for one in results}
    return units.pop() if len(units) == 1 else ""


def capital(text: str) -> str:
    """``text`` with a capital first letter; an abbreviation such as mAP stays."""
    return text if text[1:2].isupper() else text[0].upper() + text[1:]
