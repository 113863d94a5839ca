"""Results beside the published figures of the same encoder and data set, and what differs in protocol."""

from collections.abc import Sequence

from iceprobe.published import Beside, beside
from iceprobe.published.cells import (
    HEADINGS,
    cells_of,
    headings_of_differences,
    rows_of_differences,
)
from iceprobe.published.pairs import marks_used
from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table
from iceprobe.reporting.finding import display_name
from iceprobe.results.tables import leaderboard


def beside_published(context: Context) -> Block | None:
    """A table of results and figures, and one of differences for each source."""
    pairs = beside(leaderboard(context.results))
    if not pairs:
        return None
    sources = dict.fromkeys(one.figure.source for one in pairs)
    tables = [_figures(pairs, context)]
    tables += [_differences([p for p in pairs if p.figure.source == key], key) for key in sources]
    encoder, data = pairs[0].figure.encoder, pairs[0].figure.data
    lead = (
        f"Published top-1 accuracies of {encoder} on {data}, of the same kinds of probes. A figure is comparable as far "
        "as the tables of differences below allow."
    )
    notes = [f"{mark} {meaning}." for mark, meaning in marks_used(pairs).items()]
    notes += [f"{line}." for line in dict.fromkeys(line for one in pairs for line in one.assumed)]
    first = {one.figure.source: one for one in reversed(pairs)}
    for key in sources:
        source = first[key].source
        remarks = " ".join(source.remarks_on(encoder))
        notes.append(f"{key}: {source.title}; {source.where}. {remarks}".rstrip())
    return Block(lead, tables=tables, notes=notes)


def _figures(pairs: Sequence[Beside], context: Context) -> Table:
    words = {"published_as", "source"}
    headings = [
        Heading("probe", numeric=False, first="ascending"),
        *(
            Heading(text, numeric=False, first="ascending") if name in words else Heading(text)
            for name, text in HEADINGS._asdict().items()
            if name != "interval"  # it stands beside the accuracy
        ),
    ]
    rows = []
    for one in pairs:
        cells, label = cells_of(one), one.result.label
        rows.append([
            Cell(display_name(label), label, dot=context.palette[label], strong=True),
            Cell(cells.top1, one.score.mean, soft=cells.interval),
            Cell(cells.published, one.figure.top1),
            Cell(cells.difference, one.difference),
            Cell(cells.published_as),
            Cell(cells.source),
        ])  # fmt: skip
    return Table(headings, rows)


def _differences(pairs: Sequence[Beside], source: str) -> Table:
    headings = [
        Heading(text, numeric=False, first="ascending") for text in headings_of_differences(source)
    ]
    rows = [[*map(Cell, row)] for row in rows_of_differences(pairs, display_name)]
    return Table(headings, rows, title=f"What differs from {source}", closed=True)
