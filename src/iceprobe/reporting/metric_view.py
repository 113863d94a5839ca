"""Every metric of the task under the leading probes."""

from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table
from iceprobe.reporting.finding import display_name
from iceprobe.results.primary import adds_up, capital
from iceprobe.results.schema import Score
from iceprobe.results.tables import heading_of, leaderboard, ordered_metrics, percent, span
from iceprobe.tasks.metrics import Metric

PROBES = 4  # columns
_LEFT_OUT = "mean over numbers of several units"


def every_metric(context: Context) -> Block | None:
    """None where the leaderboard has all of them."""
    shown = leaderboard(context.results)[:PROBES]
    names = {name for one in shown for name in one.metrics}
    metrics = [one for one in ordered_metrics(shown) if one.name in names]
    if len(metrics) < 2:
        return None
    headings = [Heading("Metric", numeric=False, first="ascending")]
    headings += [Heading(display_name(one.label)) for one in shown]
    headings.append(Heading("What it is", numeric=False, first="ascending"))
    rows = [
        [
            Cell(capital(heading_of(metric, shown)), strong=True),
            *(_cell(one.metrics.get(metric.name), metric) for one in shown),
            Cell(_note(metric, all(adds_up(metric, one) for one in shown))),
        ]
        for metric in metrics
    ]
    doubts = dict.fromkeys(
        f"† {capital(metric.title)}: {score.caveat}."
        for metric in metrics
        for one in shown
        if (score := one.metrics.get(metric.name)) is not None and score.caveat
    )
    few = f"the best {PROBES} probes" if len(context.results) > PROBES else "every probe"
    seeds = " ± deviation" if any(one.score.sd is not None for one in shown) else ""
    return Block(
        f"The metrics of the task under {few}: mean{seeds}, and the 95% interval.",
        tables=[
            Table(headings, rows, title="Metrics", note=f"all {len(rows)}", closed=True, under=True)
        ],
        notes=[*doubts],
    )


def _cell(score: Score | None, metric: Metric) -> Cell:
    if score is None:
        return Cell("–", "")
    doubt = " †" if score.caveat else ""
    return Cell(percent(score, metric), score.mean, soft=span(score.interval, metric) + doubt)


def _note(metric: Metric, like: bool) -> str:
    less = "" if metric.higher_is_better else " (less is better)"
    return f"{metric.note}{less}" if like else f"{metric.note}{less}; here a {_LEFT_OUT}"
