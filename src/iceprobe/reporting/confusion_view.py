"""What the best probe takes for what: a matrix of few classes, tables of many."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import visible
from iceprobe.reporting.charts import Spec, distinct, finish, strength
from iceprobe.results.confusion import ClassScore, Confusions, Misread, Mistake, confusions, misread
from iceprobe.results.examples import examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.stores import manifest_of
from iceprobe.results.tables import leaderboard, tenths
from iceprobe.tasks.registry import get_task

MOST_CLASSES = 40  # of a matrix that can still be read
ROWS = 10  # of each table
IMAGES = 20  # that are named
_RIGHT, _WRONG = "#0b6fcf", "#b3362f"


@dataclass(frozen=True)
class ConfusionView:
    """What the page shows of one probe's answers."""

    result: FittedResult
    names: list[str]  # of the classes, in their order
    worst: list[ClassScore]  # the classes with the lowest accuracy
    mistakes: list[Mistake]  # the most frequent ones
    share: float  # of all mistakes, what those shown make up
    chart: Spec | None  # the matrix; None where there are too many classes
    # images it is surest to read wrongly; none where names weren't kept
    named: list[tuple[str, Misread]]
    others: int  # how many other probes ``named`` counts


def confusion_view(results: Sequence[FittedResult], trust: bool = False) -> ConfusionView | None:
    """Of the best of ``results`` whose predictions were kept, if there is one."""
    kept = [(one, found) for one in leaderboard(results) if (found := one.predictions())]
    if not kept:
        return None
    (best, predictions), *others = kept
    named: list[tuple[str, Misread]] = []
    if image_names := next((found.names for _, found in kept if found.names), None):
        wrong = misread(predictions, [found for _, found in others], IMAGES)
        named = [(visible(image_names[one.row]), one) for one in wrong]
    counted = confusions(predictions, best.classes)
    names = class_names(best, trust)
    mistakes = list(counted.mistakes[:ROWS])
    everything = sum(one.images for one in counted.mistakes)
    return ConfusionView(
        best,
        names,
        counted.worst(ROWS),
        mistakes,
        share=sum(one.images for one in mistakes) / everything if everything else 0.0,
        chart=matrix_chart(counted, names, examples_of(best))
        if best.classes <= MOST_CLASSES
        else None,
        named=named,
        others=len(others),
    )


def class_names(result: FittedResult, trust: bool = False) -> list[str]:
    """Names of the outputs: those of the result, or else of its store, or else ``"class 7"``."""
    if result.class_names:
        return result.class_names
    if result.open_store is not None:
        return list(result.open_store.classes)
    # Moved or deleted, or another host's: the numbers are worth a page all the same.
    with contextlib.suppress(IceprobeError):
        return list(manifest_of(result, trust=trust).dataset.classes)
    outputs = get_task(result.task).outputs
    noun = {"classes": "class"}.get(outputs, outputs.removesuffix("s"))
    return [f"{noun} {number}" for number in range(result.classes)]


def matrix_chart(counted: Confusions, names: Sequence[str], examples: str) -> Spec:
    """Rows: true classes; columns: predicted ones; a cell is its share of the row.

    Right answers are blue and mistakes red, each on its own scale, so that the mistakes of a good probe
    can be seen.
    """
    shown = distinct(names)
    matrix = counted.matrix()
    shares = matrix / np.maximum(counted.images, 1)[:, None]
    wrong = shares - np.diag(np.diag(shares))
    largest = max(float(wrong.max()), 1e-9)
    few = len(names) <= 15
    rows: list[dict[str, Any]] = []
    for i, j in zip(*np.nonzero(matrix), strict=True):
        share = float(shares[i, j])
        seen = share if i == j else share / largest
        rows.append(
            {
                "true": shown[i],
                "read": shown[j],
                "colour": _RIGHT if i == j else _WRONG,
                "strength": strength(seen),
                "ink": "#ffffff" if seen > 0.55 else "#1c2733",
                "text": f"{100 * share:.0f}" if few and 100 * share >= 0.5 else "",
                "share": f"{tenths(share)}%",
                "images": f"{matrix[i, j]:.4g} of {counted.images[i]}",
            }
        )
    side = min(44, max(15, 430 // len(names))) * len(names)
    axis: dict[str, Any] = dict(
        grid=False, ticks=False, domain=False, labelLimit=150, labelPadding=6
    )
    x = alt.X("read:N", sort=None, title="read as").scale(domain=shown)
    y = alt.Y("true:N", sort=None, title="true class").scale(domain=shown)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=x.axis(labelAngle=-45, **axis),
        y=y.axis(**axis),
        tooltip=[
            alt.Tooltip("true:N", title="true class"),
            alt.Tooltip("read:N", title="read as"),
            alt.Tooltip("share:N", title="share of the class"),
            alt.Tooltip("images:N", title=f"{examples}, mean over seeds"),
        ],
    )
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(
        color=alt.Color("colour:N", scale=None),
        fillOpacity=alt.FillOpacity("strength:Q", scale=None),
    )
    text = base.mark_text(fontSize=12).encode(text="text:N", color=alt.Color("ink:N", scale=None))
    return finish(alt.layer(cells, text) if few else alt.layer(cells), height=side, width=side)
