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
    """Whether its primary metric is that of its task, which figures needn't name."""
    return one.primary == get_task(one.task).primary


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


def percent_axis(results: Sequence[Result]) -> str:
    """The title of an axis of it, in percent."""
    title = full_title_of(results)
    return f"{title[0].upper()}{title[1:]}, %"
