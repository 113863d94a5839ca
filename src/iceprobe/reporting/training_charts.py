"""How training went: the primary metric by epoch, and by learning rate, on the images that select."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import altair as alt

from iceprobe.reporting.charts import (
    DASHES,
    Spec,
    by_condition,
    by_probe,
    conditions_of,
    finish,
    series_of,
    tooltip_names,
)  # fmt: skip
from iceprobe.results.curves import CurveRow, same_setting, seed_means
from iceprobe.results.examples import examples_of
from iceprobe.results.primary import axis_title, full_title_of, in_percent, is_usual, noun_of
from iceprobe.results.schema import Result


def learning_curves(
    results: Sequence[Result],
    curves: Sequence[Sequence[CurveRow]],
    palette: dict[str, str],
) -> Spec | None:
    """The primary metric on the images that select by epoch, at each probe's chosen setting.

    The line is the mean over seeds, the band their range, the dot the epoch that was chosen.
    None where nothing was trained.
    """
    rows: list[dict[str, Any]] = []
    chosen: list[dict[str, Any]] = []
    conditions = conditions_of(results)
    for result, condition, table in zip(results, conditions, curves, strict=True):
        epochs: dict[int, list[float]] = defaultdict(list)
        scale = result.metric.scale
        for row in _of_selection(table, result):
            kept = row.seed in result.seeds and row.is_of(result.selected)
            if kept and row.eval_accuracy is not None:
                epochs[row.epoch].append(scale * row.eval_accuracy)
        for epoch, values in sorted(epochs.items()):
            point = {**series_of(result, condition, palette), "epoch": epoch}
            rows.append({**point, "mean": fmean(values), "low": min(values), "high": max(values)})
            if epoch == result.selected.get("epoch"):
                chosen.append(rows[-1])
    if not rows:
        return None
    noun = _named(results)
    on = (
        "the reported split"
        if results[0].selected_on_reported
        else f"held-out {examples_of(*results)}"
    )
    focus = alt.selection_point(fields=["probe"], bind="legend")
    fade = alt.condition(focus, alt.value(1.0), alt.value(0.12))
    last = max(row["epoch"] for row in rows)
    x = alt.X("epoch:Q", title="Epoch").axis(grid=False, tickMinStep=1).scale(domain=[1, last])
    y = alt.Y("mean:Q", title=axis_title(results, f"{noun} on {on}")).scale(zero=False)
    shown = f"{noun}, %" if in_percent(results) else noun
    tooltip = [
        *tooltip_names(conditions),
        alt.Tooltip("epoch:Q"),
        alt.Tooltip("mean:Q", title=shown, format=_decimals(results)),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=by_probe(rows), detail="condition:N")
    line = base.mark_line(strokeWidth=2.2)
    dots = base.mark_point(filled=True, size=40, opacity=0).encode(y="mean:Q", tooltip=tooltip)
    layers = [
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q"), y2="high:Q"),
        line.encode(y=y, opacity=fade, strokeDash=by_condition(conditions, DASHES)),
        dots.add_params(focus),
    ]
    if chosen:
        marks = alt.Chart(alt.Data(values=chosen)).mark_circle(
            size=80, stroke="white", strokeWidth=1.4, opacity=1
        )
        layers.append(marks.encode(x=x, y="mean:Q", color=by_probe(rows), tooltip=tooltip))
    return finish(alt.layer(*layers))


def learning_rates(
    results: Sequence[Result],
    curves: Sequence[Sequence[CurveRow]],
    palette: dict[str, str],
) -> Spec | None:
    """The primary metric when selecting, mean over seeds, by learning rate: after the last epoch,
    or at the best one where the reported split selected. Of weight decays the best.

    None where a single one was tried. A best rate at an end of the grid shows at a glance.
    """
    rows: list[dict[str, Any]] = []
    chosen: list[dict[str, Any]] = []
    conditions = conditions_of(results)
    for result, condition, table in zip(results, conditions, curves, strict=True):
        metric = result.metric
        reached: dict[float, list[float]] = defaultdict(list)
        for (rate, _), means in seed_means(_of_selection(table, result), metric.worst).items():
            found = means.values() if result.selected_on_reported else [means[max(means)]]
            reached[rate] += found
        if len(reached) < 2:
            continue
        for rate, values in sorted(reached.items()):
            best = metric.sign * max(metric.sign * value for value in values)
            point = {**series_of(result, condition, palette), "rate": rate}
            rows.append({**point, "score": metric.scale * best})
            if same_setting(rate, result.selected.get("learning_rate")):
                chosen.append(rows[-1])
    if not rows:
        return None
    noun = _named(results)
    x = alt.X("rate:Q", title="Learning rate (log scale)").scale(type="log", nice=False, padding=12)
    rates = sorted({row["rate"] for row in rows})
    x = x.axis(format="~g", grid=False, labelOverlap=True, values=rates)
    y = alt.Y("score:Q", title=axis_title(results, f"{noun} when selecting")).scale(zero=False)
    tooltip = [
        *tooltip_names(conditions),
        alt.Tooltip("rate:Q", format="~g", title="learning rate"),
        alt.Tooltip("score:Q", title=noun, format=_decimals(results)),
    ]
    encoding: dict[str, Any] = dict(x=x, y=y, color=by_probe(rows), tooltip=tooltip)
    base = alt.Chart(alt.Data(values=rows)).encode(**encoding)
    line = base.mark_line(strokeWidth=1.8).encode(strokeDash=by_condition(conditions, DASHES))
    layers = [line, base.mark_circle(size=28, opacity=1)]
    if chosen:
        ring = alt.Chart(alt.Data(values=chosen)).mark_circle(
            size=120, stroke="white", strokeWidth=1.6, opacity=1
        )
        layers.append(ring.encode(**encoding))
    return finish(alt.layer(*layers))


def _of_selection(table: Sequence[CurveRow], result: Result) -> list[CurveRow]:
    return [row for row in table if row.probe == result.label and row.phase != "refit"]


def _named(results: Sequence[Result]) -> str:
    """The primary metric; in short where it is the usual one."""
    return noun_of(results) if all(map(is_usual, results)) else full_title_of(results)


def _decimals(results: Sequence[Result]) -> str:
    return ".2f" if in_percent(results) else ".3f"
