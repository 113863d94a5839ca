"""Charts across several backbones, layers or numbers of training images.

A ranking is drawn as lines of rank from probe to probe: where they cross, the choice of probe
decides which backbone looks better.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt

from iceprobe.report.charts import HEIGHT, OTHERS, WIDTH, Spec, by_probe, finish
from iceprobe.report.finding import display_name
from iceprobe.results.sweeps import Ranking, Sweep
from iceprobe.results.tables import percent, span, tenths


def rank_lines(ranking: Ranking) -> Spec:
    """Rank of each backbone under each probe, its accuracy written beside the mark."""
    rows: list[dict[str, Any]] = []
    for place, backbone in enumerate(ranking.backbones):
        for probe in ranking.probes:
            cell = ranking.cells[backbone, probe]
            rows.append(
                {
                    "backbone": backbone,
                    "colour": OTHERS[place % len(OTHERS)],
                    "probe": display_name(probe),
                    "rank": cell.rank,
                    "shown": percent(cell.result.top1),
                    "short": tenths(cell.result.top1.mean) + ("≈" if cell.tied else ""),
                    "span": span(cell.result.top1.interval),
                }
            )
    probes = [display_name(probe) for probe in ranking.probes]
    x = alt.X("probe:N", sort=probes, title=None).axis(
        labelAngle=0, grid=False, orient="top", labelFontWeight=600
    )
    last = len(ranking.backbones)
    y = alt.Y("rank:Q", title="Rank").scale(domain=[last + 0.4, 0.4], nice=False)
    y = y.axis(values=list(range(1, last + 1)), format="d", grid=False)
    shades = {row["backbone"]: row["colour"] for row in rows}
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=WIDTH)
    colour = alt.Color(
        "backbone:N",
        scale=alt.Scale(domain=list(shades), range=list(shades.values())),
        legend=legend,
    )
    tooltip = [
        alt.Tooltip("backbone:N"),
        alt.Tooltip("probe:N"),
        alt.Tooltip("shown:N", title="top-1 %"),
        alt.Tooltip("span:N", title="95% interval"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=colour, tooltip=tooltip)
    layers = [
        base.mark_line(strokeWidth=2.6, opacity=0.55),
        base.mark_circle(size=210, opacity=1, stroke="white", strokeWidth=1.6),
        base.mark_text(dy=-18, fontSize=12, fontWeight=600).encode(text="short:N"),
    ]
    return finish(alt.layer(*layers), height=max(150, 64 * last))


def sweep_lines(sweep: Sweep, title: str, palette: dict[str, str], *, log: bool) -> Spec:
    """Accuracy along an axis, a line a probe; bars are one standard deviation either way."""
    rows: list[dict[str, Any]] = []
    for probe, points in sweep.lines.items():
        for x, result in points:
            sd = 100 * (result.top1.sd or 0.0)
            mean = 100 * result.top1.mean
            rows.append(
                {
                    "probe": display_name(probe),
                    "colour": palette[probe],
                    "x": x,
                    "top1": mean,
                    "low": mean - sd,
                    "high": mean + sd,
                    "shown": percent(result.top1),
                }
            )
    places: Sequence[float] = sorted({row["x"] for row in rows})
    axis = alt.X("x:Q", title=title).axis(
        grid=False, values=list(places), format="~s", labelOverlap=True
    )
    axis = (
        axis.scale(type="log", nice=False, padding=14)
        if log
        else axis.scale(nice=False, padding=14)
    )
    y = alt.Y("top1:Q", title="Top-1 accuracy, %").scale(zero=False)
    tooltip = [
        alt.Tooltip("probe:N"),
        alt.Tooltip("x:Q", title=title),
        alt.Tooltip("shown:N", title="top-1 %"),
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
