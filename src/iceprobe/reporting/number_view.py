"""Each number: its errors in its own unit, and predicted against true."""

from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from iceprobe.reporting.blocks import (
    Block,
    Cell,
    Context,
    Heading,
    Table,
    of_first_seed,
    over_seeds,
)
from iceprobe.reporting.charts import Chart, Spec, finish
from iceprobe.reporting.finding import display_name
from iceprobe.reporting.per_output import intervals_of
from iceprobe.results.caveats import listed, tested
from iceprobe.results.examples import example_of, examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import capital
from iceprobe.results.tables import figure, span
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.registry import get_task

DRAWN = 4  # outputs with charts
POINTS = 1500  # of a chart; of more examples densities are drawn
CELLS = 40  # of a density, each way
STEPS = 12  # of the line of mean errors
PROBES = 6  # of the table of quantiles
MOST = 60  # outputs of a table
QUANTILES = (0.5, 0.75, 0.9, 0.95)
SIDE = 360
_BLUE, _GREY = "#0b6fcf", "#8894a0"


def by_number(context: Context) -> Block | None:
    """The metrics of each number, and how large errors are."""
    if context.best is None:
        return None
    tables = [_table(one, context.outputs) for one in context.pair]
    errors = [_quantiles(context, k) for k in _drawn(context.best)]
    seeds = " and seeds" if context.best.classes == 1 else ""  # then it is the leaderboard's
    return Block(
        "R² is the share of the variance that is predicted; MAE and RMSE are in the unit of the number. The 95% "
        f"interval of R² is over {context.independent}{seeds}.",
        tables=[*tables, *errors],
        notes=_left_out(context.best, context.outputs),
    )


def against_true(context: Context) -> Block | None:
    """Predicted against true, and the error against the truth, of the first few numbers."""
    if (best := context.best) is None:
        return None
    predictions = best.needed_predictions()
    predicted, labels = np.asarray(predictions.predicted)[0], np.asarray(predictions.labels)
    charts = []
    for k in _drawn(best):
        known = np.isfinite(labels[:, k])
        true, found = labels[known, k], predicted[known, k].astype(np.float64)
        name = named(context.outputs[k], best, k)
        many = context.examples if len(true) > POINTS else ""
        each = f"Colour: {many} in a cell." if many else f"A point is {context.an_example}."
        charts.append(
            Chart(
                context.key(f"true-{k}"),
                f"{context.outputs[k]}: predicted",
                f"On the dashed line a prediction is right. {each}",
                scatter(true, found, f"True {name}", f"Predicted {name}", many),
            )
        )
        charts.append(
            Chart(
                context.key(f"error-{k}"),
                f"{context.outputs[k]}: error",
                f"Predicted less true; the line is its mean in parts of equally many {context.examples}.",
                residuals(true, found - true, f"True {name}", f"Error of {name}", many),
            )
        )
    few = f" The first {DRAWN} of {best.classes} numbers." if best.classes > DRAWN else ""
    if not charts:
        return None
    return Block(
        f"{display_name(best.label)}{of_first_seed(best)} on the {tested(best)} {context.examples}.{few}",
        charts=charts,
    )


def named(name: str, one: FittedResult, output: int) -> str:
    """A number with its unit: ``"age, years"``."""
    unit = one.units[output] if output < len(one.units) else ""
    return f"{name}, {unit}" if unit else name


def _drawn(one: FittedResult) -> list[int]:
    """The first few numbers that are known of a test example."""
    known = np.isfinite(np.asarray(one.needed_predictions().labels)).any(0)
    return np.flatnonzero(known)[:DRAWN].tolist()


def _left_out(one: FittedResult, names: list[str]) -> list[str]:
    """Why some numbers have no figures."""
    from iceprobe.tasks.number_formulas import constant

    labels, split = np.asarray(one.needed_predictions().labels), tested(one)
    unknown = np.flatnonzero(~np.isfinite(labels).any(0)).tolist()
    alike = [k for k in constant(labels) if k not in unknown]
    return [
        f"Left out of {means}, {len(numbers)} of {labels.shape[1]} numbers, {why}: "
        f"{listed([names[k] for k in numbers], 12)}."
        for numbers, means, why in (
            (
                unknown,
                "the means over numbers",
                f"of which no {split} {example_of(one)} has a known value",
            ),
            (
                alike,
                "R² and correlations",
                f"whose known values of {split} {examples_of(one)} are all the same",
            ),
        )
        if numbers
    ]


def _table(one: FittedResult, names: list[str]) -> Table:
    from iceprobe.tasks.number_formulas import number_table

    predictions, metrics = one.needed_predictions(), get_task(one.task).metrics
    labels = np.asarray(predictions.labels)
    found = number_table(predictions.predicted, labels)
    shown = list(range(labels.shape[1]))[:MOST]
    intervals = intervals_of(one, "r2", [k for k in shown if not np.isnan(found["r2"][:, k]).any()])
    rows = []
    for k in shown:
        known = labels[np.isfinite(labels[:, k]), k]
        cells = [Cell(named(names[k], one, k), strong=True), Cell(f"{len(known):,}", len(known))]
        cells.append(_mean(known, metrics["mae"]))
        for name in ("r2", "mae", "rmse", "pearson", "spearman"):
            value = float(found[name][:, k].mean())
            if np.isnan(value):
                cells.append(Cell("–", ""))
                continue
            soft = span(intervals[k], metrics[name]) if name == "r2" else ""
            cells.append(Cell(figure(value, metrics[name]), value, soft=soft))
        rows.append(cells)
    headings = [
        Heading("Number", numeric=False, first="ascending"),
        Heading("Known"),
        Heading("Mean ± deviation"),
        *(
            Heading(metrics[name].heading, first="ascending" if metrics[name].sign > 0 else "descending")
            for name in ("r2", "mae", "rmse", "pearson", "spearman")
        ),
    ]  # fmt: skip
    few = f"the first {MOST} of {labels.shape[1]}" if len(shown) < labels.shape[1] else ""
    note = ", ".join(filter(None, [few, over_seeds(one).removeprefix(", ")]))
    return Table(headings, rows, title=display_name(one.label), note=note)


def _mean(known: NDArray[np.float64], size: Metric) -> Cell:
    """Mean and deviation of the known values of a number."""
    if not len(known):
        return Cell("–", "")
    mean, spread = float(known.mean()), float(known.std())
    return Cell(figure(mean, size), mean, soft=f"± {figure(spread, size, near=mean or spread)}")


def _quantiles(context: Context, output: int) -> Table:
    """How large errors of one number are, under each probe."""
    metric = get_task(context.results[0].task).metrics["mae"]
    rows = []
    for one in context.kept[:PROBES]:
        errors = absolute_errors(one, output)
        cuts = np.quantile(errors, QUANTILES, axis=1).mean(1)
        largest = float(errors.max(1).mean())
        rows.append(
            [
                context.probe_cell(one),
                *(Cell(figure(float(cut), metric), float(cut)) for cut in cuts),
                Cell(figure(largest, metric), largest),
            ]
        )
    headings = [
        Heading("Probe", numeric=False, first="ascending"),
        *(Heading(f"{100 * q:.0f}% within", first="ascending") for q in QUANTILES),
        Heading("Largest", first="ascending"),
    ]
    assert context.best is not None
    title = f"Absolute error of {named(context.outputs[output], context.best, output)}"
    return Table(
        headings, rows, title=title, note=f"quantiles over {context.examples}, mean over seeds"
    )


def absolute_errors(one: FittedResult, output: int) -> NDArray[np.float64]:
    """``(S, m)``, of the examples where the number is known."""
    predictions = one.needed_predictions()
    true = np.asarray(predictions.labels)[:, output]
    known = np.isfinite(true)
    found: NDArray[np.float64] = np.abs(
        np.asarray(predictions.predicted, np.float64)[:, known, output] - true[known]
    )
    return found


def scatter(
    true: NDArray[np.float64], found: NDArray[np.float64], across: str, up: str, many: str = ""
) -> Spec:
    """Predicted against true, on the same scale, with the line of right predictions.

    ``many``: what examples are called where there are too many for a point each; cells are drawn then.
    """
    ends = _domain(np.concatenate([true, _usual(found)]))
    x = alt.X("x:Q", title=across).scale(domain=ends, nice=False, zero=False)
    y = alt.Y("y:Q", title=up).scale(domain=ends, nice=False, zero=False)
    line = alt.Chart(alt.Data(values=[{"x": end, "y": end} for end in ends]))
    dashed = line.mark_line(color=_GREY, strokeDash=[5, 4], strokeWidth=1.4).encode(x=x, y=y)
    marks = _marks(true, found, ends, ends, x, y, many, across, up)
    return finish(alt.layer(marks, dashed), height=SIDE, width=SIDE)


def residuals(
    true: NDArray[np.float64], error: NDArray[np.float64], across: str, up: str, many: str = ""
) -> Spec:
    """The error against the truth, with its mean along the way; ``many`` as of :func:`scatter`."""
    ends, tall = _domain(true), _domain(np.append(_usual(error), 0.0))
    x = alt.X("x:Q", title=across).scale(domain=ends, nice=False, zero=False)
    y = alt.Y("y:Q", title=up).scale(domain=tall, nice=False, zero=False)
    zero = alt.Chart(alt.Data(values=[{"y": 0.0}])).mark_rule(
        color=_GREY, strokeDash=[5, 4], strokeWidth=1.4
    )
    parts = np.array_split(np.argsort(true, kind="stable"), max(1, min(STEPS, len(true) // 10)))
    means = [{"x": float(true[part].mean()), "y": float(error[part].mean())} for part in parts]
    path = alt.Chart(alt.Data(values=means)).encode(x=x, y=y, order="x:Q")
    layers = [
        _marks(true, error, ends, tall, x, y, many, across, up),
        zero.encode(y=y),
        path.mark_line(color="#d9822b", strokeWidth=2.4, clip=True),
        path.mark_circle(color="#d9822b", size=40, opacity=1, clip=True),
    ]
    return finish(alt.layer(*layers), height=SIDE, width=SIDE)


def _marks(
    across: NDArray[np.float64],
    up: NDArray[np.float64],
    ends: list[float],
    tall: list[float],
    x: alt.X,
    y: alt.Y,
    many: str,
    *titles: str,
) -> alt.Chart:
    if not many:
        rows = [{"x": float(a), "y": float(b)} for a, b in zip(across, up, strict=True)]
        names = ("x:Q", "y:Q")
        said = [
            alt.Tooltip(name, title=title, format=".4~g")
            for name, title in zip(names, titles, strict=True)
        ]
        points = alt.Chart(alt.Data(values=rows)).mark_circle(
            size=26, color=_BLUE, opacity=0.4, clip=True
        )
        return points.encode(x=x, y=y, tooltip=said)
    counts, xs, ys = np.histogram2d(across, up, bins=CELLS, range=[ends, tall])
    cells: list[dict[str, Any]] = [
        {
            "x": float(xs[i]), "x2": float(xs[i + 1]), "y": float(ys[j]), "y2": float(ys[j + 1]),
            many: int(counts[i, j]),
        }
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]  # fmt: skip
    legend = alt.Legend(
        title=capital(many), orient="bottom", direction="horizontal", tickCount=3, symbolType="square",
        symbolFillColor=_BLUE, symbolStrokeWidth=0,
    )  # fmt: skip
    number = alt.FillOpacity(f"{many}:Q", legend=legend).scale(range=[0.1, 1], type="sqrt")
    said = [
        alt.Tooltip(name, title=f"{title}, from", format=".4~g")
        for name, title in zip(("x:Q", "y:Q"), titles, strict=True)
    ]
    base = alt.Chart(alt.Data(values=cells)).mark_rect(color=_BLUE)
    return base.encode(
        x=x,
        x2="x2:Q",
        y=y,
        y2="y2:Q",
        fillOpacity=number,
        tooltip=[*said, alt.Tooltip(f"{many}:Q")],
    )


def _usual(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values without the far-off ones: a diverged prediction would leave one dot of a chart."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 6 * max(high - low, 1e-12)
    found: NDArray[np.float64] = values[(values >= low - reach) & (values <= high + reach)]
    return found


def _domain(values: NDArray[np.float64]) -> list[float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or max(abs(low), 1.0) * 0.04
    return [low - margin, high + margin]
