"""The texts of the tables of results beside published figures, as the terminal and the report show them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from iceprobe.published.pairs import Beside, grouped


class Cells(NamedTuple):
    """A result and one figure, by the headings of the table; marks stand behind the numbers they are of."""

    top1: str
    interval: str  # ``""`` where there is none
    published: str
    difference: str
    published_as: str
    source: str


#: Of the columns beside the probe, in the order of `Cells`.
HEADINGS = Cells("top-1 %", "95% interval", "published", "difference", "published as", "source")


def cells_of(one: Beside) -> Cells:
    """``("61.3‡", "60.1 to 62.5", "65.0‡", "−3.7‡", "ep32 of patches", "ep")``."""
    interval = one.score.interval
    return Cells(
        f"{100 * one.score.mean:.1f}{one.mark}",
        f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "",
        f"{100 * one.figure.top1:.1f}{one.published_mark}",
        one.shown_difference,
        one.published_as,
        one.figure.source,
    )


def headings_of_differences(source: str) -> tuple[str, str, str, str]:
    """Of the columns of :func:`rows_of_differences`."""
    return ("differs", "here", source, "of")


def rows_of_differences(
    pairs: Sequence[Beside], named: Callable[[str], str] = str
) -> list[tuple[str, str, str, str]]:
    """What differs in protocol between results and the figures of one source, and for which probes.

    Args:
        pairs: of that source.
        named: label of a probe → what it is called.
    """
    return [
        (
            one.what,
            one.here,
            one.published,
            "all" if len(of) == len(pairs) else ", ".join(map(named, dict.fromkeys(of))),
        )
        for one, of in grouped(pairs).items()
    ] or [("nothing that is recorded", "–", "–", "all")]
