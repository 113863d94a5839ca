"""Results beside the published figures of the same encoder and data set, and what differs in protocol."""

from collections.abc import Sequence

from iceprobe.published import Beside, beside
from iceprobe.published.pairs import grouped, marks_used
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
    headings = [
        Heading("probe", numeric=False, first="ascending"),
        Heading("top-1 %"),
        Heading("published"),
        Heading("difference"),
        Heading("published as", numeric=False, first="ascending"),
        Heading("source", numeric=False, first="ascending"),
    ]
    rows = []
    for one in pairs:
        interval = one.score.interval
        rows.append([
            Cell(display_name(one.result.label), one.result.label, dot=context.palette[one.result.label], strong=True),
            Cell(
                f"{100 * one.score.mean:.1f}{one.mark}",
                one.score.mean,
                soft=f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "",
            ),
            Cell(f"{100 * one.figure.top1:.1f}{one.published_mark}", one.figure.top1),
            Cell(one.shown_difference, one.difference),
            Cell(one.published_as),
            Cell(one.figure.source),
        ])  # fmt: skip
    return Table(headings, rows)


def _differences(pairs: Sequence[Beside], source: str) -> Table:
    headings = [
        Heading(text, numeric=False, first="ascending")
        for text in ("differs", "here", source, "of")
    ]
    rows = [
        [
            Cell(one.what),
            Cell(one.here),
            Cell(one.published),
            Cell(
                "all" if len(of) == len(pairs) else ", ".join(map(display_name, dict.fromkeys(of)))
            ),
        ]
        for one, of in grouped(pairs).items()
    ]
    rows = rows or [[Cell("nothing that is recorded"), Cell("–"), Cell("–"), Cell("all")]]
    return Table(headings, rows, title=f"What differs from {source}", closed=True)
