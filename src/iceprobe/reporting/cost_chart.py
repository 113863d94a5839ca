"""The primary metric against what a probe costs, with the Pareto front and names beside the points.

Vega-Lite can't keep names from covering each other: :mod:`iceprobe.reporting.labels` places them.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from iceprobe.reporting.charts import (
    FONT,
    HEIGHT,
    KNN,
    WIDTH,
    Spec,
    by_condition,
    conditions_of,
    finish,
    scored,
    series_of,
    tooltip_names,
)  # fmt: skip
from iceprobe.reporting.labels import Box, place_labels
from iceprobe.results.examples import example_of
from iceprobe.results.primary import axis_title, clipped, heading_of_all, shared_metric
from iceprobe.results.schema import Result
from iceprobe.results.tables import short
from iceprobe.tasks.metrics import Metric

MANY = 20  # probes; of more only names that have room beside their points are written


def scatter(results: Sequence[Result], cost: str, palette: dict[str, str]) -> Spec | None:
    """The primary metric against ``cost`` ("parameters" or "flops") with error bars and the Pareto front.

    Args:
        results: the points; each is labelled by its probe, its shape shows what else differs.
        cost: the horizontal axis, logarithmic; probes that cost nothing become a dashed line.
        palette: colour by probe label.

    Returns:
        A Vega-Lite specification, or None where no probe has a cost.
    """
    conditions = conditions_of(results)
    rows = [_row(*one, cost, palette) for one in zip(results, conditions, strict=True)]
    metric = shared_metric(*results)
    points = [row for row in rows if row["cost"] > 0]
    points.sort(key=lambda row: -metric.sign * row["score"])
    free = [row for row in rows if row["cost"] == 0]
    if not points:
        return None
    x_domain, y_domain = _domains(points, rows, metric)
    for row in free:
        row.update(cost=x_domain[0], end=x_domain[1])
    front = _front([*free, *points], x_domain, metric.sign)
    _place(points, free, front, x_domain, y_domain)
    title = {"parameters": "Trainable parameters", "flops": f"FLOPs per {example_of(*results)}"}[
        cost
    ]
    x = alt.X("cost:Q", title=f"{title} (log scale)").scale(
        type="log", domain=x_domain, nice=False
    ).axis(format="~s", grid=False, values=_ticks(x_domain))  # fmt: skip
    y = alt.Y("score:Q", title=axis_title(results)).scale(domain=y_domain, nice=False, zero=False)
    tooltip = [
        *tooltip_names(conditions),
        alt.Tooltip("shown:N", title=heading_of_all(results)),
        alt.Tooltip("span:N", title="95% interval"),
        alt.Tooltip("parameters:N"),
        alt.Tooltip("flops:N", title=f"FLOPs per {example_of(*results)}"),
    ]
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(alt.Data(values=[*points, *free])).encode(x=x, y=y)
    layers: list[alt.Chart] = [
        alt.Chart(alt.Data(values=front))
        .mark_line(interpolate="step-after", color="#9db8d2", strokeWidth=1.6, strokeDash=[5, 3])
        .encode(x=x, y=y, order="cost:Q")
    ]
    if free:
        lines = alt.Chart(alt.Data(values=free))
        dashed = lines.mark_rule(strokeDash=[2, 3], color=KNN, strokeWidth=1.4)
        layers.append(dashed.encode(x=x, x2="end:Q", y=y))
    named = [row for row in (*points, *free) if "label_x" in row]
    layers += [
        base.mark_rule(strokeWidth=1.8, opacity=0.75).encode(y="low:Q", y2="high:Q", color=colour),
        base.mark_point(filled=True, size=95, opacity=1, stroke="white", strokeWidth=1.2).encode(
            color=colour, shape=by_condition(conditions), tooltip=tooltip
        ),
        alt.Chart(alt.Data(values=named))
        .mark_text(fontSize=12, font=FONT, fontWeight=600)
        .encode(x="label_x:Q", y="label_y:Q", text="label:N", color=colour),
    ]
    return finish(alt.layer(*layers))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: cost is better low, value better high.

    >>> pareto([(1, 0.5), (2, 0.4), (3, 0.7)])
    [0, 2]
    """
    best, front = -math.inf, []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def _row(result: Result, condition: str, cost: str, palette: dict[str, str]) -> dict[str, Any]:
    parameters, flops = result.parameters.total, result.flops.per_image
    return {
        **series_of(result, condition, palette),
        "cost": parameters if cost == "parameters" else flops,
        **scored(result.score, result.metric),
        "parameters": short(parameters),
        "flops": short(flops),
    }


def _domains(
    points: Sequence[dict], rows: Sequence[dict], metric: Metric
) -> tuple[list[float], list[float]]:
    """Axis ranges with room for names: a third of the width to spare, an eighth of the height."""
    low, high = (math.log10(end(row["cost"] for row in points)) for end in (min, max))
    room = max(0.18 * (high - low), 0.25)
    bottom, top = min(row["low"] for row in rows), max(row["high"] for row in rows)
    margin = max(0.10 * (top - bottom), 0.005 * metric.scale)
    x_domain = [10 ** (low - room), 10 ** (high + room)]
    return x_domain, clipped(metric, bottom - margin, top + margin, metric.scale)


def _ticks(domain: Sequence[float]) -> list[float]:
    """1, 2, 5 × powers of ten inside the axis; powers and halves only on long axes."""
    low, high = math.log10(domain[0]), math.log10(domain[1])
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [s * 10.0**p for p in powers for s in steps if domain[0] <= s * 10.0**p <= domain[1]]


def _place(
    points: list[dict],
    free: list[dict],
    front: list[dict],
    x_domain: Sequence[float],
    y_domain: Sequence[float],
) -> None:
    """Add ``label`` and, in data units, ``label_x`` and ``label_y`` where there is room for it.

    The best point of each probe comes first; a point without a label has the colour of its probe.

    Args:
        points: best first.
        free: those that cost nothing, which are lines across the chart.
    """
    for row in points:
        row["label"] = row["probe"]
    for row in free:
        row["label"] = f"{row['probe']}, nothing trained"
    points = [*points, *free]
    best = {row["probe"]: row for row in reversed(points)}
    points.sort(key=lambda row: row is not best[row["probe"]])
    left, right = map(math.log10, x_domain)
    bottom, top = y_domain

    def across(cost: float) -> float:
        return (math.log10(cost) - left) / (right - left) * WIDTH

    def down(value: float) -> float:
        return (top - value) / (top - bottom) * HEIGHT

    marks = [(across(row["cost"]), down(row["score"])) for row in points]
    bars = [
        Box(x - 2, down(row["high"]), x + 2, down(row["low"]))
        for (x, _), row in zip(marks, points, strict=True)
    ]
    stairs = [(across(step["cost"]), down(step["score"])) for step in front]
    for (x0, y0), (x1, y1) in pairwise(stairs):  # along, then up: the line's two parts
        bars += [Box(x0, y0 - 1, x1, y0 + 1), Box(x1 - 1, y1, x1 + 1, y0)]
    bars += [Box(0, down(row["score"]) - 1, WIDTH, down(row["score"]) + 1) for row in free]
    names, close = [row["label"] for row in points], len(best) > MANY
    centres = place_labels(marks, names, bars, (WIDTH, HEIGHT), close=close)
    for row, centre in zip(points, centres, strict=True):
        if centre is not None:
            row["label_x"] = 10 ** (left + centre[0] / WIDTH * (right - left))
            row["label_y"] = top - centre[1] / HEIGHT * (top - bottom)


def _front(points: Sequence[dict], x_domain: Sequence[float], sign: int) -> list[dict]:
    """The Pareto front as a staircase; probes that cost nothing start it at the left edge."""
    steps = [{"cost": row["cost"], "score": row["score"]} for row in points]
    front = [steps[i] for i in pareto([(s["cost"], sign * s["score"]) for s in steps])]
    return [*front, {"cost": x_domain[1], "score": front[-1]["score"]}]
