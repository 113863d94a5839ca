"""The primary metric of each fold, beside that of all examples out of fold."""

from typing import Any

import altair as alt

from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table
from iceprobe.reporting.charts import Chart, Spec, domain_of, finish, scored
from iceprobe.reporting.finding import display_name
from iceprobe.results.primary import axis_title, capital, heading_of_all
from iceprobe.results.schema import Score
from iceprobe.results.tables import figure, leaderboard, percent, span

MOST = 12  # probes of the chart


def by_fold(context: Context) -> Block | None:
    """None without folds."""
    folded = [one for one in leaderboard(context.results) if one.folds is not None]
    if not folded:
        return None
    count = max(len(one.folds.values) for one in folded if one.folds is not None)
    metric, rows = folded[0].metric, []
    for one in folded:
        folds = one.folds
        assert folds is not None
        ends = (min(folds.values), max(folds.values))
        rows.append(
            [
                context.probe_cell(one),
                Cell(
                    percent(one.score, metric),
                    one.score.mean,
                    soft=span(one.score.interval, metric),
                ),
                Cell(
                    f"{figure(folds.mean, metric)} ± {figure(folds.sd or 0.0, metric, near=folds.mean)}",
                    folds.mean,
                ),
                *(Cell(figure(end, metric), end) for end in ends),
            ]
        )
    examples = context.examples
    named = capital(heading_of_all(folded))
    headings = [
        Heading("Probe", numeric=False, first="ascending"),
        Heading(f"{named}, all {examples}"),
        Heading("Mean ± deviation of folds"),
        Heading("Lowest fold"),
        Heading("Highest fold"),
    ]
    charts = [
        Chart(
            context.key("folds"),
            "Folds",
            f"Large: of all {examples} out of fold, with its 95% interval; small: single folds.",
            fold_dots(context),
        )
    ]
    return Block(
        f"Each {context.example} is tested once, by probes that were fitted on the other {count - 1} of {count} folds. "
        "The score that leads is of all of these predictions together; the mean over folds differs "
        f"from it where a metric isn’t a mean over {examples}, and folds share most of their training "
        f"{examples}, so their deviation is no standard error.",
        charts=charts,
        tables=[Table(headings, rows, title="Folds")],
    )


def fold_dots(context: Context) -> Spec:
    """A row a probe."""
    shown = [one for one in leaderboard(context.results) if one.folds is not None][:MOST]
    metric = shown[0].metric
    rows: list[dict[str, Any]] = []
    joint: list[dict[str, Any]] = []
    for one in shown:
        row = {"probe": display_name(one.label), "colour": context.colour(one)}
        assert one.folds is not None
        for number, value in enumerate(one.folds.values, 1):
            rows.append({**row, **scored(Score.of([value]), metric), "fold": number})
        joint.append({**row, **scored(one.score, metric)})
    ends = [row["score"] for row in rows] + [row[end] for row in joint for end in ("low", "high")]
    domain = domain_of(metric, ends)
    order = [row["probe"] for row in joint]
    y = alt.Y("probe:N", sort=order, title=None).axis(
        grid=True, ticks=False, domain=False, labelLimit=150, labelPadding=8
    )
    x = alt.X("score:Q", title=axis_title(shown)).scale(domain=domain, nice=False, zero=False)
    colour = alt.Color("colour:N", scale=None)
    of_all = alt.Chart(alt.Data(values=joint)).encode(y=y, color=colour)
    bars = of_all.mark_rule(strokeWidth=3, opacity=0.4).encode(
        x=alt.X("low:Q").scale(domain=domain, nice=False), x2="high:Q"
    )
    large = of_all.mark_circle(size=170, opacity=0.95, stroke="white").encode(
        x=x,
        tooltip=[
            alt.Tooltip("probe:N"),
            alt.Tooltip("shown:N", title=f"all {context.examples}"),
            alt.Tooltip("span:N", title="95% interval"),
        ],
    )
    small = alt.Chart(alt.Data(values=rows)).mark_point(size=34, filled=False, strokeWidth=1.6)
    small = small.encode(
        y=y, x=x, color=colour,
        tooltip=[alt.Tooltip("probe:N"), alt.Tooltip("fold:Q"), alt.Tooltip("shown:N", title=metric.title)],
    )  # fmt: skip
    return finish(alt.layer(bars, large, small), height=max(90.0, 34.0 * len(shown)), width=350)
