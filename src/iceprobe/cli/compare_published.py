"""``iceprobe compare RUN --published``: a run beside published figures."""

from collections.abc import Sequence

from iceprobe.cli.console import answers, below, console, note, say
from iceprobe.published.cells import (
    HEADINGS,
    cells_of,
    headings_of_differences,
    rows_of_differences,
)
from iceprobe.published.differences import protocol_of_figure
from iceprobe.published.pairs import Beside, beside, marks_used, nothing_beside
from iceprobe.results import FittedResult
from iceprobe.results.terminal import Column, TerminalTable


def show_published(results: Sequence[FittedResult], encoder: str | None, data: str | None) -> None:
    """Print results beside the published figures of the same encoder, and what differs in protocol.

    Raises:
        IceprobeError: if there is none.
    """
    pairs = beside(results, encoder=encoder, data=data)
    if not pairs:
        raise nothing_beside(results)
    for line in dict.fromkeys(line for one in pairs for line in one.assumed):
        note(f"{line}.")
    if answers("published", map(_entry, pairs)):
        return
    console.print(published_table(pairs))
    for key in dict.fromkeys(one.figure.source for one in pairs):
        of_source = [one for one in pairs if one.figure.source == key]
        say("")
        console.print(differences_table(of_source, key))
        say(f"{of_source[0].source.title}; {of_source[0].source.where}.")
        for encoder in dict.fromkeys(one.figure.encoder for one in of_source):
            for remark in of_source[0].source.remarks_on(encoder):
                below(remark)


def _entry(one: Beside) -> dict[str, object]:
    """The same for a program."""
    return {
        "probe": one.result.label,
        "backbone": one.result.backbone,
        "top1": one.score.mean,
        "interval": one.score.interval,
        "selected_on_reported": one.result.selected_on_reported,
        "figure": one.figure,
        "published_selected": protocol_of_figure(one.figure).selected,
        "difference": one.difference,
        "differences": one.differences,
    }


def differences_table(pairs: Sequence[Beside], source: str) -> TerminalTable:
    """What differs in protocol between results and the figures of one source, and for which probes."""
    what, here, published, of = headings_of_differences(source)
    columns = [
        Column(what, numeric=False),
        Column(here, numeric=False),
        Column(published, numeric=False, wraps=True),
        Column(of, numeric=False, goes=1),
    ]
    return TerminalTable(columns, [[*row] for row in rows_of_differences(pairs)])


def published_table(pairs: Sequence[Beside]) -> TerminalTable:
    """A line for each result and figure; every figure selected on the reported split has its mark."""
    several = len({one.result.backbone for one in pairs}) > 1
    columns = [
        Column("probe", numeric=False),
        *([Column("backbone", numeric=False, goes=2)] if several else []),
        Column(HEADINGS.top1),
        Column(HEADINGS.interval, goes=1),
        Column(HEADINGS.published),
        Column(HEADINGS.difference),
        Column(HEADINGS.published_as, numeric=False, goes=3),
        Column(HEADINGS.source, numeric=False),
    ]
    rows = [
        [
            one.result.label,
            *([one.result.backbone] if several else []),
            *(cell or "–" for cell in cells_of(one)),
        ]
        for one in pairs
    ]
    notes = [f"{mark} {meaning}." for mark, meaning in marks_used(pairs).items()]
    of = dict.fromkeys((one.figure.encoder, one.figure.data) for one in pairs)
    title = "; ".join(f"{encoder} on {data}" for encoder, data in of)
    return TerminalTable(columns, rows, title, notes)
