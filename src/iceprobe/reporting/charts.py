"""The report's charts, as Vega-Lite specifications made by Altair.

Altair because its charts carry hover text, can be saved as SVG or PNG from the page for a slide,
and its engine comes as one offline bundle of 0.9 MB from vl-convert. What Vega-Lite has no answer
to, names beside points that don't cover each other, is computed in :mod:`iceprobe.reporting.labels`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle, pairwise
from statistics import fmean
from typing import Any

import altair as alt

from iceprobe.reporting.finding import display_name
from iceprobe.reporting.labels import Box, place_labels, text_width
from iceprobe.results.comparison import probe_name
from iceprobe.results.curves import CurveRow, seed_means
from iceprobe.results.headline import NAMES
from iceprobe.results.schema import Result
from iceprobe.results.tables import percent, short, span
from iceprobe.results.varying import told, varying

WIDTH, HEIGHT = 478, 330
_FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif"
_INK, _GREY, _FAINT = "#1c2733", "#5d6b7a", "#e4e9ee"
_LINEARS, _KNN = ("#5f6d7a", "#94a0ac", "#3c4751"), "#a9b3bd"
OTHERS = ("#d9822b", "#2a9d8f", "#8e5bb5", "#c8445b", "#7d8b2f", "#3f7cac", "#a0643c", "#d16ba5")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES = ([1, 0], [6, 3], [2, 3], [9, 3, 2, 3])
_EPS = ("#0b6fcf", "#5aa9ee", "#083f78", "#8fc7f5", "#2f86a6", "#1fb5d6")

Spec = dict[str, Any]


def colours(results: Sequence[Result]) -> dict[str, str]:
    """A colour for each probe's label: EPs blue, baselines grey, every other its own."""
    found: dict[str, str] = {}
    series = {"linear": cycle(_LINEARS), "knn": cycle([_KNN]), "ep": cycle(_EPS)}
    others = cycle(OTHERS)
    for result in results:
        if result.label not in found:
            found[result.label] = next(series.get(probe_name(result), others))
    return found


def scatter(results: Sequence[Result], cost: str, palette: dict[str, str]) -> Spec | None:
    """Accuracy against ``cost`` ("parameters" or "flops") with error bars and the Pareto front.

    Args:
        results: the points; each is called by its probe, its shape says what else differs.
        cost: the horizontal axis, logarithmic; probes that cost nothing become a dashed line.
        palette: colour by probe label.

    Returns:
        A Vega-Lite specification, or None where no probe has a cost.
    """
    places = places_of(results)
    rows = [_row(*one, cost, palette) for one in zip(results, places, strict=True)]
    points = sorted((row for row in rows if row["cost"] > 0), key=lambda row: -row["top1"])
    free = [row for row in rows if row["cost"] == 0]
    if not points:
        return None
    x_domain, y_domain = _domains(points, rows)
    for row in free:
        row.update(cost=x_domain[0], end=x_domain[1])
    front = _front([*free, *points], x_domain)
    _place([*points, *free], len(free), front, x_domain, y_domain)
    title = {"parameters": "Trainable parameters", "flops": "FLOPs per image"}[cost]
    x = alt.X("cost:Q", title=f"{title} (log scale)").scale(
        type="log", domain=x_domain, nice=False
    ).axis(format="~s", grid=False, values=_ticks(x_domain))  # fmt: skip
    y = alt.Y("top1:Q", title=accuracy_title(results)).scale(
        domain=y_domain, nice=False, zero=False
    )
    tooltip = [
        *_named(places),
        alt.Tooltip("shown:N", title=f"{metric_of(results)} %"),
        alt.Tooltip("span:N", title="95% interval"),
        alt.Tooltip("parameters:N"),
        alt.Tooltip("flops:N", title="FLOPs per image"),
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
        dashed = lines.mark_rule(strokeDash=[2, 3], color=_KNN, strokeWidth=1.4)
        layers.append(dashed.encode(x=x, x2="end:Q", y=y))
    named = [row for row in (*points, *free) if "label_x" in row]
    layers += [
        base.mark_rule(strokeWidth=1.8, opacity=0.75).encode(y="low:Q", y2="high:Q", color=colour),
        base.mark_point(filled=True, size=95, opacity=1, stroke="white", strokeWidth=1.2).encode(
            color=colour, shape=by_place(places), tooltip=tooltip
        ),
        alt.Chart(alt.Data(values=named))
        .mark_text(fontSize=12, font=_FONT, fontWeight=600)
        .encode(x="label_x:Q", y="label_y:Q", text="label:N", color=colour),
    ]
    return finish(alt.layer(*layers))


def learning_curves(
    results: Sequence[Result],
    curves: Sequence[Sequence[CurveRow]],
    palette: dict[str, str],
) -> Spec | None:
    """Accuracy on the selection's images by epoch, at each probe's chosen setting.

    The line is the mean over seeds, the band their range, the dot the epoch that was chosen.
    None where nothing was trained.
    """
    rows: list[dict[str, Any]] = []
    chosen: list[dict[str, Any]] = []
    places = places_of(results)
    for result, place, table in zip(results, places, curves, strict=True):
        epochs: dict[int, list[float]] = defaultdict(list)
        for row in table:
            if _at_chosen_setting(row, result) and row.eval_accuracy is not None:
                epochs[row.epoch].append(100 * row.eval_accuracy)
        for epoch, values in sorted(epochs.items()):
            point = {**_series(result, place, palette), "epoch": epoch}
            rows.append({**point, "mean": fmean(values), "low": min(values), "high": max(values)})
            if epoch == result.selected.get("epoch"):
                chosen.append(rows[-1])
    if not rows:
        return None
    on = "the reported split" if results[0].selected_on_reported else "held-out images"
    colour = by_probe(rows)
    focus = alt.selection_point(fields=["probe"], bind="legend")
    fade = alt.condition(focus, alt.value(1.0), alt.value(0.12))
    last = max(row["epoch"] for row in rows)
    x = alt.X("epoch:Q", title="Epoch").axis(grid=False, tickMinStep=1).scale(domain=[1, last])
    tooltip = [
        *_named(places),
        alt.Tooltip("epoch:Q"),
        alt.Tooltip("mean:Q", title="accuracy, %", format=".2f"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour, detail="place:N")
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2.2).encode(
        y=alt.Y("mean:Q", title=f"Accuracy on {on}, %").scale(zero=False),
        opacity=fade,
        strokeDash=by_place(places, _DASHES),
    )
    dots = base.mark_point(filled=True, size=40, opacity=0).encode(y="mean:Q", tooltip=tooltip)
    layers = [band, line, dots.add_params(focus)]
    if chosen:
        marks = alt.Chart(alt.Data(values=chosen)).mark_circle(
            size=80, stroke="white", strokeWidth=1.4, opacity=1
        )
        layers.append(marks.encode(x=x, y="mean:Q", color=colour, tooltip=tooltip))
    return finish(alt.layer(*layers))


def learning_rates(
    results: Sequence[Result],
    curves: Sequence[Sequence[CurveRow]],
    palette: dict[str, str],
) -> Spec | None:
    """Accuracy when selecting (mean over seeds) for every learning rate tried: after the last epoch,
    or at the best one where the reported split selected. Of weight decays the best.

    None where a single one was tried. A best rate at an end of the grid shows at a glance.
    """
    rows: list[dict[str, Any]] = []
    chosen: list[dict[str, Any]] = []
    places = places_of(results)
    for result, place, table in zip(results, places, curves, strict=True):
        best: dict[float, float] = defaultdict(float)
        looked_at = [row for row in table if row.probe == result.label and row.phase != "refit"]
        for (rate, _), means in seed_means(looked_at).items():
            looks = means.values() if result.selected_on_reported else [means[max(means)]]
            best[rate] = max(best[rate], *looks)
        if len(best) < 2:
            continue
        for rate, value in sorted(best.items()):
            point = {**_series(result, place, palette), "rate": rate}
            rows.append({**point, "accuracy": 100 * value})
            if _same(rate, result.selected.get("learning_rate")):
                chosen.append(rows[-1])
    if not rows:
        return None
    x = alt.X("rate:Q", title="Learning rate (log scale)").scale(type="log", nice=False, padding=12)
    rates = sorted({row["rate"] for row in rows})
    x = x.axis(format="~g", grid=False, labelOverlap=True, values=rates)
    y = alt.Y("accuracy:Q", title="Accuracy when selecting, %").scale(zero=False)
    tooltip = [
        *_named(places),
        alt.Tooltip("rate:Q", format="~g", title="learning rate"),
        alt.Tooltip("accuracy:Q", format=".2f"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=by_probe(rows), tooltip=tooltip)
    line = base.mark_line(strokeWidth=1.8).encode(strokeDash=by_place(places, _DASHES))
    layers = [line, base.mark_circle(size=28, opacity=1)]
    if chosen:
        ring = alt.Chart(alt.Data(values=chosen)).mark_circle(
            size=120, stroke="white", strokeWidth=1.6, opacity=1
        )
        layers.append(ring.encode(x=x, y=y, color=by_probe(rows), tooltip=tooltip))
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


def _named(places: Sequence[str]) -> list[alt.Tooltip]:
    return [alt.Tooltip("probe:N"), *([alt.Tooltip("place:N", title="on")] if any(places) else [])]


def _series(result: Result, place: str, palette: dict[str, str]) -> dict[str, Any]:
    return {"probe": display_name(result.label), "place": place, "colour": palette[result.label]}


def _row(result: Result, place: str, cost: str, palette: dict[str, str]) -> dict[str, Any]:
    leads = result.score
    low, high = leads.interval or (leads.mean, leads.mean)
    parameters, flops = result.parameters.total, result.flops.per_image
    return {
        **_series(result, place, palette),
        "cost": parameters if cost == "parameters" else flops,
        "top1": 100 * leads.mean,
        "low": 100 * low,
        "high": 100 * high,
        "shown": percent(leads),
        "span": span(leads.interval),
        "parameters": short(parameters),
        "flops": short(flops),
    }


def _domains(points: Sequence[dict], rows: Sequence[dict]) -> tuple[list[float], list[float]]:
    """Axis ranges with room for names: a third of the width to spare, an eighth of the height."""
    low, high = (math.log10(end(row["cost"] for row in points)) for end in (min, max))
    room = max(0.18 * (high - low), 0.25)
    bottom, top = min(row["low"] for row in rows), max(row["high"] for row in rows)
    margin = max(0.10 * (top - bottom), 0.5)
    x_domain = [10 ** (low - room), 10 ** (high + room)]
    return x_domain, [max(0.0, bottom - margin), min(100.0, top + margin)]


def _ticks(domain: Sequence[float]) -> list[float]:
    """1, 2, 5 × powers of ten inside the axis; powers and halves only on long axes."""
    low, high = math.log10(domain[0]), math.log10(domain[1])
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [s * 10.0**p for p in powers for s in steps if domain[0] <= s * 10.0**p <= domain[1]]


def _place(
    points: list[dict],
    free: int,
    front: list[dict],
    x_domain: Sequence[float],
    y_domain: Sequence[float],
) -> None:
    """Add ``label`` and, in data units, ``label_x`` and ``label_y`` where a name finds a place.

    The best point of each probe comes first: where there is no room for all, colour says the rest.

    Args:
        points: best first; the last ``free`` of them cost nothing, and their lines go across.
    """
    for number, row in enumerate(points):
        untrained = number >= len(points) - free
        row["label"] = f"{row['probe']}, nothing trained" if untrained else row["probe"]
    lines = points[len(points) - free :]
    best = {row["probe"]: row for row in reversed(points)}
    points = sorted(points, key=lambda row: row is not best[row["probe"]])
    left, right = map(math.log10, x_domain)
    bottom, top = y_domain

    def across(cost: float) -> float:
        return (math.log10(cost) - left) / (right - left) * WIDTH

    def down(value: float) -> float:
        return (top - value) / (top - bottom) * HEIGHT

    marks = [(across(row["cost"]), down(row["top1"])) for row in points]
    bars = [
        Box(x - 2, down(row["high"]), x + 2, down(row["low"]))
        for (x, _), row in zip(marks, points, strict=True)
    ]
    stairs = [(across(step["cost"]), down(step["top1"])) for step in front]
    for (x0, y0), (x1, y1) in pairwise(stairs):  # along, then up: the line's two parts
        bars += [Box(x0, y0 - 1, x1, y0 + 1), Box(x1 - 1, y1, x1 + 1, y0)]
    bars += [Box(0, down(row["top1"]) - 1, WIDTH, down(row["top1"]) + 1) for row in lines]
    centres = place_labels(marks, [row["label"] for row in points], bars, (WIDTH, HEIGHT))
    for row, centre in zip(points, centres, strict=True):
        if centre is not None:
            row["label_x"] = 10 ** (left + centre[0] / WIDTH * (right - left))
            row["label_y"] = top - centre[1] / HEIGHT * (top - bottom)


def _front(points: Sequence[dict], x_domain: Sequence[float]) -> list[dict]:
    """The Pareto front as a staircase; probes that cost nothing start it at the left edge."""
    steps = [{"cost": row["cost"], "top1": row["top1"]} for row in points]
    front = [steps[i] for i in pareto([(s["cost"], s["top1"]) for s in steps])]
    return [*front, {"cost": x_domain[1], "top1": front[-1]["top1"]}]


def by_probe(rows: Sequence[dict[str, Any]]) -> alt.Color:
    """Colour by ``probe``, each in its row's ``colour``, with a legend below the chart."""
    shades = {row["probe"]: row["colour"] for row in rows}
    columns = max(1, min(4, int(WIDTH / (40 + max(map(text_width, shades))))))
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=columns,
        symbolType="stroke",
        symbolOpacity=1,
        labelLimit=WIDTH,
    )
    scale = alt.Scale(domain=list(shades), range=list(shades.values()))
    return alt.Color("probe:N", scale=scale, legend=legend)


def by_place(places: Sequence[str], dashes: Sequence[Sequence[int]] = ()) -> Any:
    """Shape, or dashes of a line, by ``place``, with a legend below where there are several."""
    names = list(dict.fromkeys(places))
    legend = alt.Legend(
        title=None, orient="bottom", columns=1, labelLimit=WIDTH,
        symbolFillColor=_GREY, symbolStrokeColor=_GREY,
    )  # fmt: skip
    made = dashes or _SHAPES
    scale = alt.Scale(domain=names, range=[made[i % len(made)] for i in range(len(names))])
    channel = alt.StrokeDash if dashes else alt.Shape
    return channel("place:N", scale=scale, legend=legend if len(names) > 1 else None)


def _at_chosen_setting(row: CurveRow, result: Result) -> bool:
    return (
        row.probe == result.label
        and row.phase != "refit"
        and row.seed in result.seeds
        and _same(row.learning_rate, result.selected.get("learning_rate"))
        and _same(row.weight_decay, result.selected.get("weight_decay", row.weight_decay))
    )


def _same(a: float, b: object) -> bool:
    """Equal to the eight figures that curves.csv keeps."""
    return isinstance(b, int | float) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def finish(chart: Any, height: float = HEIGHT, width: float = WIDTH) -> Spec:
    """The specification in the report's size, colours and type."""
    chart = chart.properties(width=width, height=height).configure(
        background="transparent", font=_FONT, padding={"left": 4, "right": 8, "top": 8, "bottom": 4}
    )
    chart = chart.configure_view(stroke=None).configure_axis(
        labelColor=_GREY, titleColor=_INK, labelFontSize=12, titleFontSize=13, titleFontWeight=600,
        titlePadding=10, gridColor=_FAINT, domainColor="#c3ccd5", tickColor="#c3ccd5",
    ).configure_legend(labelFontSize=12, labelColor=_INK, symbolStrokeWidth=3, symbolSize=160)  # fmt: skip
    spec = chart.to_dict()
    # Two legends stand one below the other; Altair's schema has no word for it.
    spec["config"]["legend"]["layout"] = {"bottom": {"direction": "vertical", "anchor": "start"}}
    return spec


def metric_of(results: Sequence[Result]) -> str:
    """The accuracy that leads on the data sets of ``results``, in words."""
    return " or ".join(dict.fromkeys(NAMES[one.headline] for one in results))


def accuracy_title(results: Sequence[Result]) -> str:
    """The title of an axis of it."""
    metric = metric_of(results)
    return f"{metric[0].upper()}{metric[1:]} accuracy, %"


def places_of(results: Sequence[Result]) -> list[str]:
    """Of each result what differs among them besides the probe: backbone, data, draw, protocol."""
    differing = varying(results)
    return [" · ".join(told(result, name) for name in differing) for result in results]
