"""Reliability diagrams: how sure a probe is against how often it is right."""

import altair as alt

from iceprobe.reporting.blocks import Block, Context, over_seeds
from iceprobe.reporting.charts import Chart, Spec, finish
from iceprobe.reporting.finding import display_name
from iceprobe.results.fitted import FittedResult
from iceprobe.results.reliability import Bin, of_classes, of_tags
from iceprobe.results.tables import percent, span, tenths
from iceprobe.tasks.metrics import BINS

SIDE = 340
_GREY = "#8894a0"


def calibration(context: Context) -> Block | None:
    """Of the best probe and the reference EP; None without logits."""
    charts, tags = [], False
    for number, one in enumerate(context.pair):
        predictions = one.needed_predictions()
        tags = predictions.labels.ndim == 2
        bins = of_tags(predictions) if tags else of_classes(predictions)
        if bins:
            spec = diagram(bins, context.colour(one), "" if tags else context.examples)
            title, remark = display_name(one.label), _remark(one, bins)
            charts.append(Chart(context.key(f"reliable-{number}"), title, remark, spec))
    if not charts:
        return None
    cells = (
        "the probability of a tag against how often examples have it, over all known cells"
        if tags
        else "the probability of the class that is read against how often it is right"
    )
    return Block(
        f"In {BINS} bins of equally many each, {cells}. On the dashed line probabilities are right, below "
        "it the probe is too sure. The calibration error (ECE) is the mean distance from it. Bars: 95% intervals.",
        charts=charts,
    )


def _remark(one: FittedResult, bins: list[Bin]) -> str:
    score = one.metrics.get("ece")
    known = f"ECE {percent(score)}%, 95% interval {span(score.interval)}" if score else "No ECE"
    surer = sum(bin.cells * (bin.confidence - bin.share) for bin in bins)
    surer /= sum(bin.cells for bin in bins)
    how = "surer than right" if surer > 0 else "less sure than right"
    return f"{known}{over_seeds(one)}; on average {tenths(abs(surer))} points {how}."


def diagram(bins: list[Bin], colour: str, examples: str = "") -> Spec:
    """A point a bin, with the interval of its share, and the line of right probabilities.

    ``examples``: what they are called; ``""`` where bins are of cells of a table of tags.
    """
    rows = [
        {
            "sure": 100 * one.confidence,
            "share": 100 * one.share,
            "low": 100 * one.interval[0],
            "high": 100 * one.interval[1],
            "span": span(one.interval),
            "cells": f"{one.cells:,.0f}",
        }
        for one in bins
    ]
    said = "Right, %" if examples else "Examples that have the tag, %"
    x = alt.X("sure:Q", title="Probability, %").scale(domain=[0, 100], nice=False)
    y = alt.Y("share:Q", title=said).scale(domain=[0, 100], nice=False)
    line = alt.Chart(alt.Data(values=[{"sure": 0, "share": 0}, {"sure": 100, "share": 100}]))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    bars = base.mark_rule(color=colour, strokeWidth=2, opacity=0.45).encode(
        y=alt.Y("low:Q"), y2="high:Q"
    )
    path = base.mark_line(color=colour, strokeWidth=1.4, opacity=0.5).encode(y=y, order="sure:Q")
    points = base.mark_circle(size=70, color=colour, opacity=1, stroke="white").encode(
        y=y,
        tooltip=[
            alt.Tooltip("sure:Q", title="probability, %", format=".1f"),
            alt.Tooltip("share:Q", title=said[0].lower() + said[1:], format=".1f"),
            alt.Tooltip("span:N", title="95% interval"),
            alt.Tooltip("cells:N", title=examples or "cells"),
        ],
    )
    dashed = line.mark_line(color=_GREY, strokeDash=[5, 4], strokeWidth=1.3).encode(x=x, y=y)
    return finish(alt.layer(dashed, bars, path, points), height=SIDE, width=SIDE)
