"""What the examples of results are called, in sentences, headings and axes."""

from iceprobe.core.text import an
from iceprobe.results.schema import Result


def example_of(*results: Result) -> str:
    """``"image"``, ``"clip"``; ``"example"`` where results are of several kinds, or there are none."""
    found = {one.example for one in results}
    return found.pop() if len(found) == 1 else "example"


def examples_of(*results: Result) -> str:
    """``"images"``, likewise."""
    return f"{example_of(*results)}s"


def an_example_of(*results: Result) -> str:
    """``"an image"``, ``"a clip"``, likewise."""
    return an(example_of(*results))
