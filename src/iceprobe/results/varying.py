"""What differs among results of several runs, in words."""

from collections.abc import Sequence

from iceprobe.results.schema import Result


def varying(results: Sequence[Result]) -> list[str]:
    """Of backbone, dataset, draw, protocol, test set and masking, what differs among the results."""
    asked = ("backbone", "dataset", "draw", "protocol", "test", "masked")
    return [name for name in asked if len({value_of(one, name) for one in results}) > 1]


def value_of(result: Result, name: str) -> str:
    """What a result has for one of :func:`varying`'s names."""
    found = {
        "draw": draw_of(result) or "all of train",
        "test": test_of(result) or result.split,
        "masked": "yes" if result.masked else "no",
    }
    return found[name] if name in found else str(getattr(result, name))


def test_of(result: Result) -> str:
    """The name of the test on another data set; ``""`` on the run's own."""
    return result.test_of.name if result.test_of else ""


def draw_of(result: Result) -> str:
    """``"5 shots"``, ``"10% of train"``, or ``""`` for all training images."""
    if result.shots is not None:
        return f"{result.shots} shot{'s' if result.shots > 1 else ''}"
    return f"{100 * result.fraction:g}% of train" if result.fraction is not None else ""
