"""What the report's charts share: size, colours, legends and style.

Charts are Vega-Lite specifications made by Altair: they have hover text and can be saved as SVG or PNG from
the page. Their engine is one offline bundle of 0.9 MB from vl-convert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import altair as alt

from iceprobe.reporting.finding import display_name
from iceprobe.reporting.labels import text_width
from iceprobe.results.comparison import probe_name
from iceprobe.results.primary import clipped
from iceprobe.results.schema import Result, Score
from iceprobe.results.tables import percent, span
from iceprobe.results.varying import value_of, varying
from iceprobe.tasks.metrics import Metric

WIDTH, HEIGHT = 478, 330
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif"
KNN = "#a9b3bd"
OTHERS = ("#d9822b", "#2a9d8f", "#8e5bb5", "#c8445b", "#7d8b2f", "#3f7cac", "#a0643c", "#d16ba5")
DASHES = ([1, 0], [6, 3], [2, 3], [9, 3, 2, 3])
CATEGORIES = (*OTHERS, "#0b6fcf", "#3c4751")  # of what is no probe
_INK, _GREY, _FAINT = "#1c2733", "#5d6b7a", "#e4e9ee"
_LINEARS = ("#5f6d7a", "#94a0ac", "#3c4751")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_EPS = ("#0b6fcf", "#5aa9ee", "#083f78", "#8fc7f5", "#2f86a6", "#1fb5d6")

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification and its heading."""

    key: str
    title: str
    remark: str
    spec: Spec


def colours(results: Sequence[Result]) -> dict[str, str]:
    """A colour for each probe's label: EPs blue, baselines grey, the others different ones."""
    found: dict[str, str] = {}
    series = {"linear": cycle(_LINEARS), "knn": cycle([KNN]), "ep": cycle(_EPS)}
    others = cycle(OTHERS)
    for result in results:
        if result.label not in found:
            found[result.label] = next(series.get(probe_name(result), others))
    return found


def by_probe(rows: Sequence[dict[str, Any]]) -> alt.Color:
    """Colour by ``probe``, each in its row's ``colour``, with a legend below the chart."""
    columns = max(1, min(4, int(WIDTH / (40 + max(text_width(row["probe"]) for row in rows)))))
    legend = alt.Legend(
        title=None, orient="bottom", columns=columns, labelLimit=WIDTH,
        symbolType="stroke", symbolOpacity=1,
    )  # fmt: skip
    return by_colour(rows, "probe", legend)


def by_colour(rows: Sequence[dict[str, Any]], name: str, legend: alt.Legend) -> alt.Color:
    """Colour by the column ``name``, each of its values in its row's ``colour``."""
    shades = {row[name]: row["colour"] for row in rows}
    scale = alt.Scale(domain=list(shades), range=list(shades.values()))
    return alt.Color(f"{name}:N", scale=scale, legend=legend)


def by_condition(conditions: Sequence[str], dashes: Sequence[Sequence[int]] = ()) -> Any:
    """Shape, or dashes of a line, by ``condition``, with a legend below where there are several."""
    names = list(dict.fromkeys(conditions))
    legend = alt.Legend(
        title=None, orient="bottom", columns=1, labelLimit=WIDTH,
        symbolFillColor=_GREY, symbolStrokeColor=_GREY,
    )  # fmt: skip
    made = dashes or _SHAPES
    scale = alt.Scale(domain=names, range=[made[i % len(made)] for i in range(len(names))])
    channel = alt.StrokeDash if dashes else alt.Shape
    return channel("condition:N", scale=scale, legend=legend if len(names) > 1 else None)


def finish(chart: Any, height: float = HEIGHT, width: float = WIDTH) -> Spec:
    """The specification in the report's size, colours and type."""
    return styled(chart.properties(width=width, height=height))


def styled(chart: Any, background: str = "transparent") -> Spec:
    """The specification in the report's colours and type."""
    chart = chart.configure(
        background=background, font=FONT, padding={"left": 4, "right": 8, "top": 8, "bottom": 4}
    )
    chart = chart.configure_view(stroke=None).configure_axis(
        labelColor=_GREY, titleColor=_INK, labelFontSize=12, titleFontSize=13, titleFontWeight=600,
        titlePadding=10, gridColor=_FAINT, labelSeparation=6, domainColor="#c3ccd5", tickColor="#c3ccd5",
    ).configure_legend(labelFontSize=12, labelColor=_INK, symbolStrokeWidth=3, symbolSize=160)  # fmt: skip
    spec = chart.to_dict()
    # Two legends one below the other, for which Altair's schema has no name.
    spec["config"]["aria"] = False  # the page describes a chart as a whole, with its numbers
    spec["config"]["legend"]["layout"] = {"bottom": {"direction": "vertical", "anchor": "start"}}
    return spec


def conditions_of(results: Sequence[Result]) -> list[str]:
    """For each result what differs among them besides the probe: backbone, data, draw, protocol."""
    differing = varying(results)
    return [" · ".join(value_of(result, name) for name in differing) for result in results]


def tooltip_names(conditions: Sequence[str]) -> list[alt.Tooltip]:
    """Hover text: the probe of a mark, and its condition where conditions differ."""
    return [
        alt.Tooltip("probe:N"),
        *([alt.Tooltip("condition:N", title="on")] if any(conditions) else []),
    ]


def series_of(result: Result, condition: str, palette: dict[str, str]) -> dict[str, Any]:
    """The columns of a chart's data that describe a result."""
    return {
        "probe": display_name(result.label),
        "condition": condition,
        "colour": palette[result.label],
    }


def scored(score: Score, metric: Metric) -> dict[str, Any]:
    """The columns of a chart's data that hold a score: as it is drawn, with its interval, and in words."""
    low, high = score.interval or (score.mean, score.mean)
    return {
        "score": metric.scale * score.mean,
        "low": metric.scale * low,
        "high": metric.scale * high,
        "shown": percent(score, metric),
        "span": span(score.interval, metric),
    }


def domain_of(metric: Metric, ends: Sequence[float]) -> list[float]:
    """An axis on which scores lie as they are drawn, with a margin."""
    margin = 0.04 * (max(ends) - min(ends)) or 0.01
    return clipped(metric, min(ends) - margin, max(ends) + margin, metric.scale)


def strength(share: float) -> float:
    """How opaque a cell is, from nearly nothing at 0 to 1 at 1: over white or black alike."""
    return round(0.04 + 0.96 * min(share, 1.0) ** 0.8, 3)


def distinct(names: Sequence[str]) -> list[str]:
    """Names as categories of an axis: a repeated one gets its number."""
    found: list[str] = []
    for number, name in enumerate(names):
        found.append(f"{name} ({number})" if name in found else name)
    return found
