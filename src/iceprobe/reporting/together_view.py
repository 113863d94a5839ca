"""Which tags come together: in truth, and as a probe calls them."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table, over_seeds
from iceprobe.reporting.charts import Chart, Spec, distinct, finish, strength
from iceprobe.reporting.finding import display_name
from iceprobe.results.reliability import sigmoid
from iceprobe.results.tables import tenths
from iceprobe.tasks.targets import UNKNOWN

MOST = 40  # tags of a map that can still be read
PAIRS = 8
_BLUE, _OWN = "#0b6fcf", "#8894a0"


def together(context: Context) -> Block | None:
    """Of the best probe; None with more than 40 tags, or with one."""
    if context.best is None or not 2 <= context.best.classes <= MOST:
        return None
    predictions = context.best.needed_predictions()
    if (logits := predictions.logits()) is None:
        return None
    labels = np.asarray(predictions.labels)
    known = labels != UNKNOWN
    true = shares(labels == 1, known)
    called = np.mean([shares(sigmoid(one) >= 0.5, known) for one in np.asarray(logits.values)], 0)
    names, probe = distinct(context.outputs), display_name(context.best.label)
    charts = [
        Chart(
            context.key("together-true"),
            "In truth",
            f"Of the {context.examples} with the row’s tag, percent that have the column’s.",
            heat_map(true, names, "have"),
        ),
        Chart(
            context.key("together-called"),
            f"As {probe} calls them",
            f"Of the {context.examples} called the row’s tag, percent called the column’s{over_seeds(context.best)}.",
            heat_map(called, names, "called"),
        ),
    ]
    tables = [found] if (found := _pairs(true, called, names, context.examples)) else []
    return Block(
        f"Tags that are called at probability 0.5 beside those that {context.examples} have. Where both tags are known.",
        charts=charts,
        tables=tables,
    )


def shares(having: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the examples with tag i and known j, the share with tag j: ``(n, K)`` → ``(K, K)``; NaN of none."""
    have = (having & known).astype(np.float64)
    both, of = have.T @ have, have.T @ known
    return np.divide(both, of, out=np.full_like(both, np.nan), where=of > 0)


def heat_map(values: NDArray[np.float64], names: Sequence[str], verb: str) -> Spec:
    """Rows: the tag that is given; columns: the other one."""
    few = len(names) <= 12
    rows: list[dict[str, Any]] = []
    for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
        share, own = float(values[i, j]), i == j
        rows.append(
            {
                "given": names[i],
                "other": names[j],
                "colour": _OWN if own else _BLUE,
                "strength": 0.35 if own else strength(share),
                "ink": "#ffffff" if share > 0.55 and not own else "#1c2733",
                "text": f"{100 * share:.0f}" if few and not own else "",
                "share": f"{tenths(share)}%",
            }
        )
    side = min(46, max(11, 400 // len(names))) * len(names)
    axis: dict[str, Any] = dict(
        grid=False, ticks=False, domain=False, labelLimit=140, labelPadding=6
    )
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("other:N", sort=None, title=f"also {verb}")
        .scale(domain=names)
        .axis(labelAngle=-45, **axis),
        y=alt.Y("given:N", sort=None, title=f"{verb}").scale(domain=names).axis(**axis),
        tooltip=[
            alt.Tooltip("given:N", title=verb),
            alt.Tooltip("other:N", title=f"also {verb}"),
            alt.Tooltip("share:N", title="share"),
        ],
    )
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(
        color=alt.Color("colour:N", scale=None),
        fillOpacity=alt.FillOpacity("strength:Q", scale=None),
    )
    text = base.mark_text(fontSize=12).encode(text="text:N", color=alt.Color("ink:N", scale=None))
    return finish(alt.layer(cells, text) if few else alt.layer(cells), height=side, width=side)


def _pairs(
    true: NDArray[np.float64], called: NDArray[np.float64], names: Sequence[str], examples: str
) -> Table | None:
    """Pairs whose share is most wrong."""
    gap = called - true
    np.fill_diagonal(gap, np.nan)
    order = np.argsort(-np.abs(np.nan_to_num(gap)), axis=None)[:PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, gap.shape), strict=True)]
    rows = [
        [
            Cell(names[i], strong=True),
            Cell(names[j], strong=True),
            Cell(tenths(true[i, j]), float(true[i, j])),
            Cell(tenths(called[i, j]), float(called[i, j])),
            Cell(f"{100 * gap[i, j]:+.1f}".replace("-", "−"), float(gap[i, j])),
        ]
        for i, j in pairs
        if abs(np.nan_to_num(gap[i, j])) > 0.02
    ]
    if not rows:
        return None
    headings = [
        Heading(f"Of {examples} with", numeric=False, first="ascending"),
        Heading("also", numeric=False, first="ascending"),
        Heading("In truth %"),
        Heading("As called %"),
        Heading("Points"),
    ]
    return Table(headings, rows, title="Pairs called together too often or too seldom")
