"""The primary metric by the values of the data set's columns: site, sex, scanner."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np

from iceprobe.core.text import counted, visible
from iceprobe.reporting.blocks import Block, Context
from iceprobe.reporting.charts import Chart, Spec, by_colour, domain_of, finish, scored
from iceprobe.reporting.finding import display_name
from iceprobe.results.caveats import listed, tested
from iceprobe.results.enough import UNTRUSTED
from iceprobe.results.examples import example_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import Predictions
from iceprobe.results.primary import axis_title
from iceprobe.results.schema import Slice, Slices
from iceprobe.results.slices import slices_of, trusted
from iceprobe.results.tables import figure, span, worded

NARROW = 350  # pixels of a chart that leaves room for names on its left
SAID = 8  # values of a sentence
MOST = 24  # values of a column that are shown, the most frequent ones


def by_slice(context: Context) -> Block | None:
    """Of the leading probes; None where the data set has no such columns.

    Raises:
        IceprobeError: if a probe's predictions don't allow its metric.
    """
    shown = [one for one in context.leading if one.needed_predictions().slices]
    if not shown:
        return None
    found = [(one, of) for one in shown for of in _slices(one)]
    charts: list[Chart] = []
    notes: list[str] = []
    for number, column in enumerate(dict.fromkeys(of.column for _, of in found)):
        of_column = [(one, of) for one, of in found if of.column == column]
        left_out = _left_out(of_column[0][0].needed_predictions(), column)
        remark = f"Bars: 95% intervals; dashed: over all {context.examples}."
        remark += f" {left_out} rarer values aren’t shown." if left_out else ""
        spec = dots(of_column, context)
        charts.append(Chart(context.key(f"slice-{number}"), visible(column), remark, spec))
        notes += filter(None, [worst_of(*of_column[0], rarer=left_out)])
        notes += _untrusted(of_column[0][1])
    metric = shown[0].metric
    return Block(
        f"{axis_title(shown)} on the {tested(shown[0])} {context.examples} with each value alone; nothing was fitted again. "
        f"{'Less' if metric.higher_is_better else 'More'} is worse; the more values, the further off the worst is "
        "by chance alone.",
        charts=charts,
        notes=notes,
    )


def worst_of(one: FittedResult, found: Slices, rarer: int = 0) -> str:
    """In a sentence where a probe reads least; ``""`` with fewer than two values whose interval can be trusted.

    ``rarer`` is the number of values that aren't among those found.
    """
    worst = next((each for each in found.values if each.value == found.worst), None)
    if worst is None or worst.score is None:
        return ""
    metric, among = one.metric, len(trusted(found.values))
    most = " most frequent" if rarer else ""
    those = " whose interval can be trusted" if among < len(found.values) else ""
    return (
        f"{display_name(one.label)} reads {figure(worst.score.mean, metric)} where "
        f"{visible(found.column)} is {visible(worst.value)} ({_count(worst, example_of(one))}; 95% interval "
        f"{span(worst.score.interval, metric)}), its worst of the {among}{most} values{those}, and "
        f"{worded(one)} over all."
    )


def _untrusted(found: Slices) -> list[str]:
    """Values whose interval, or figure, says little, and why."""
    column = visible(found.column)
    doubtful = [
        f"{visible(one.value)} ({one.score.caveat.removeprefix(f'{UNTRUSTED}: ')})"
        for one in found.values
        if one.score is not None and one.score.caveat
    ]
    said = []
    if doubtful:
        said.append(f"No interval can be trusted where {column} is {listed(doubtful, SAID)}.")
    missing = [one for one in found.values if one.score is None]
    if missing:
        names = listed([visible(one.value) for one in missing], SAID)
        said.append(f"Not scored where {column} is {names}: {missing[0].why}.")
    return said


def _slices(one: FittedResult) -> list[Slices]:
    """By each column, of its most frequent values."""
    predictions = one.needed_predictions()
    kept = {}
    for column, (codes, names) in predictions.slices.items():
        common = _common(np.asarray(codes))
        places = np.full(max(len(names), int(np.max(codes)) + 1), -1)
        places[common] = np.arange(len(common))
        kept[column] = (
            np.where(codes >= 0, places[codes], -1),
            [names[code] for code in common.tolist()],
        )
    return slices_of(replace(predictions, slices=kept), one.task, one.primary)


def _common(codes: np.ndarray) -> np.ndarray:
    """The most frequent codes, in their order."""
    values, counts = np.unique(codes[codes >= 0], return_counts=True)
    found: np.ndarray = np.sort(values[np.argsort(-counts, kind="stable")][:MOST])
    return found


def _left_out(predictions: Predictions, column: str) -> int:
    codes = np.asarray(predictions.slices[column][0])
    return max(0, len(np.unique(codes[codes >= 0])) - MOST)


def _count(one: Slice, noun: str) -> str:
    groups = f" of {counted(one.groups, 'group')}" if one.groups is not None else ""
    return counted(one.images, noun) + groups


def dots(of_column: Sequence[tuple[FittedResult, Slices]], context: Context) -> Spec:
    """A row a value, a dot a probe, with intervals, and the score over all images dashed."""
    metric, results = of_column[0][0].metric, [one for one, _ in of_column]
    rows: list[dict[str, Any]] = []
    labels = [f"{visible(one.value)} ({one.images:,})" for one in of_column[0][1].values]
    for result, found in of_column:
        for label, one in zip(labels, found.values, strict=True):
            if one.score is None:
                continue
            rows.append(
                {
                    **scored(one.score, metric),
                    "value": label,
                    "probe": display_name(result.label),
                    "colour": context.colour(result),
                    "caveat": one.score.caveat or "–",
                }
            )
    ends = [end for row in rows for end in (row["low"], row["high"])] or [0.0, 1.0]
    domain = domain_of(metric, ends)
    probes = list(dict.fromkeys(row["probe"] for row in rows))
    x = alt.X("score:Q", title=axis_title(results)).scale(domain=domain, nice=False, zero=False)
    y = alt.Y("value:N", sort=labels, title=None).axis(
        grid=True, ticks=False, domain=False, labelLimit=150, labelPadding=8
    )
    legend = alt.Legend(
        title=None, orient="bottom", columns=3, labelLimit=NARROW // 2, symbolType="circle",
        symbolOpacity=1,
    )  # fmt: skip
    offset = alt.YOffset("probe:N", sort=probes)
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, yOffset=offset)
    colour = by_colour(rows, "probe", legend)
    bars = base.mark_rule(strokeWidth=2.4, opacity=0.5).encode(
        x=alt.X("low:Q").scale(domain=domain, nice=False), x2="high:Q", color=colour
    )
    points = base.mark_circle(size=70, opacity=1).encode(
        x=x,
        color=colour,
        tooltip=[
            alt.Tooltip("value:N", title=f"{context.examples} with"),
            alt.Tooltip("probe:N"),
            alt.Tooltip("shown:N", title=metric.title),
            alt.Tooltip("span:N", title="95% interval"),
            alt.Tooltip("caveat:N"),
        ],
    )
    everyone = [{**scored(one.score, metric), "probe": display_name(one.label)} for one in results]
    dashed = alt.Chart(alt.Data(values=everyone)).mark_rule(strokeDash=[5, 4], strokeWidth=1.2)
    height = max(90.0, len(labels) * max(26.0, 14.0 * len(probes)))
    return finish(
        alt.layer(dashed.encode(x=x, color=colour), bars, points), height=height, width=NARROW
    )
