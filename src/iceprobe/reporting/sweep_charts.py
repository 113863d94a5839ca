"""Charts across several backbones, layers or numbers of training images.

A ranking has a line of ranks for each backbone, from probe to probe downwards. Where lines cross, the choice
of probe decides which backbone is better.
"""

from typing import Any

import altair as alt

from iceprobe.reporting.charts import (
    HEIGHT,
    OTHERS,
    WIDTH,
    Spec,
    by_colour,
    by_probe,
    finish,
    scored,
)
from iceprobe.reporting.finding import display_name
from iceprobe.reporting.labels import text_width
from iceprobe.results.primary import axis_title, heading_of_all
from iceprobe.results.sweeps import Ranking, Sweep
from iceprobe.results.tables import figure

_RANK = 72  # pixels from one rank to the next, at least: a mark and its score
_BESIDE = 0.16  # of that between marks of equal rank


def rank_lines(ranking: Ranking) -> Spec:
    """Rank of each backbone under each probe, with its score beside the mark.

    Probes are below each other, so that there is room for any number of names. Backbones of equal rank
    are side by side, with their score written once.
    """
    rows: list[dict[str, Any]] = []
    heading = heading_of_all([cell.result for cell in ranking.cells.values()])
    for turn, probe in enumerate(ranking.probes):
        cells = {backbone: ranking.cells[backbone, probe] for backbone in ranking.backbones}
        for number, (backbone, cell) in enumerate(cells.items()):
            equal = [name for name, one in cells.items() if one.rank == cell.rank]
            metric = cell.result.metric
            score = figure(cell.result.score.mean, metric)
            # Of equals only the first is compared with a better one; the rest with each other.
            score += "≈" if all(cells[name].tied for name in equal) else ""
            rows.append(
                {
                    "backbone": backbone,
                    "colour": OTHERS[number % len(OTHERS)],
                    "probe": display_name(probe),
                    "turn": turn,
                    "rank": cell.rank,
                    "at": cell.rank + _BESIDE * equal.index(backbone),
                    **scored(cell.result.score, metric),
                    "short": score if backbone == equal[-1] else "",
                }
            )
    probes = [display_name(probe) for probe in ranking.probes]
    last = len(ranking.backbones)
    x = alt.X("at:Q", title="Rank").scale(domain=[0.7, last + 0.9], nice=False)
    x = x.axis(values=list(range(1, last + 1)), format="d", grid=False, orient="top")
    y = alt.Y("probe:N", sort=probes, title=None).axis(
        grid=False, ticks=False, domain=False, labelFontWeight=600, labelPadding=8, labelLimit=0
    )
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=WIDTH)
    colour = by_colour(rows, "backbone", legend)
    tooltip = [
        alt.Tooltip("backbone:N"),
        alt.Tooltip("probe:N"),
        alt.Tooltip("rank:Q"),
        alt.Tooltip("shown:N", title=heading),
        alt.Tooltip("span:N", title="95% interval"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=colour, tooltip=tooltip)
    text = base.mark_text(dx=13, align="left", fontSize=12, fontWeight=600).encode(text="short:N")
    layers = [
        base.mark_line(strokeWidth=2.6, opacity=0.55).encode(order="turn:Q"),
        base.mark_circle(size=170, opacity=1, stroke="white", strokeWidth=1.6),
        text.encode(color=alt.value("white"), stroke=alt.value("white"), strokeWidth=alt.value(4)),
        text,
    ]
    names = max(map(text_width, probes))
    width = max(WIDTH - names, _RANK * last)
    return finish(alt.layer(*layers), height=44 * len(probes), width=width)


def sweep_lines(sweep: Sweep, title: str, palette: dict[str, str], *, log: bool) -> Spec:
    """The primary metric along an axis, a line a probe; bars are one standard deviation either way."""
    rows: list[dict[str, Any]] = []
    results = [result for points in sweep.lines.values() for _, result in points]
    for probe, points in sweep.lines.items():
        for x, result in points:
            mean, sd = result.score.mean, result.score.sd or 0.0
            spread = result.score.model_copy(update={"interval": (mean - sd, mean + sd)})
            rows.append(
                {
                    **scored(spread, result.metric),
                    "probe": display_name(probe),
                    "colour": palette[probe],
                    "x": x,
                }
            )
    ticks = sorted({row["x"] for row in rows})
    axis = alt.X("x:Q", title=title).axis(grid=False, values=ticks, format="~s", labelOverlap=True)
    scale: dict[str, Any] = {"type": "log"} if log else {}
    axis = axis.scale(**scale, nice=False, padding=14)
    y = alt.Y("score:Q", title=axis_title(results)).scale(zero=False)
    tooltip = [
        alt.Tooltip("probe:N"),
        alt.Tooltip("x:Q", title=title),
        alt.Tooltip("shown:N", title=heading_of_all(results)),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=axis, color=by_probe(rows))
    layers = [
        base.mark_rule(strokeWidth=1.6, opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_circle(size=70, opacity=1, stroke="white", strokeWidth=1.2).encode(
            y=y, tooltip=tooltip
        ),
    ]
    return finish(alt.layer(*layers), height=HEIGHT)
