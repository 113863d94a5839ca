"""ROC and precision-recall curves: of few classes or tags each, of two classes a curve a probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from iceprobe.core.text import counted
from iceprobe.reporting.blocks import Block, Context, of_first_seed
from iceprobe.reporting.charts import CATEGORIES, Chart, by_colour, distinct, finish
from iceprobe.reporting.finding import display_name
from iceprobe.results.enough import FEW
from iceprobe.results.fitted import FittedResult
from iceprobe.results.ranking_curves import Curves, curves_of
from iceprobe.results.reliability import sigmoid
from iceprobe.results.tables import tenths
from iceprobe.tasks.targets import UNKNOWN

MOST_CLASSES = 10
MOST_TAGS = 8
SIDE = 340
_GREY = "#8894a0"


@dataclass(frozen=True)
class _Line:
    name: str
    colour: str
    curves: Curves


def of_classes(context: Context) -> Block | None:
    """One class against the rest; of two classes the second, under each leading probe."""
    if context.best is None or not 2 <= context.best.classes <= MOST_CLASSES:
        return None
    if context.best.classes == 2:
        lines = [
            _Line(display_name(one.label), context.colour(one), curves)
            for one in context.leading
            if (curves := _of_class(one, 1)) is not None
        ]
        lead = f"Calling {context.an_example} “{context.outputs[1]}” from some probability on, whichever: each point is one."
        return _block(context, lines, lead + _first(context.leading))
    names = distinct(context.outputs)
    lines = [
        _Line(names[index], CATEGORIES[index % len(CATEGORIES)], curves)
        for index in range(context.best.classes)
        if (curves := _of_class(context.best, index)) is not None
    ]
    return _block(
        context,
        lines,
        f"{display_name(context.best.label)}{of_first_seed(context.best)}, each class against the rest: "
        "a point is what calling the class from some probability on gives.",
    )


def of_tags(context: Context) -> Block | None:
    """Of few tags each; of many those with the highest and the lowest average precision. Tags with hardly a
    positive image have no curve to speak of, and are drawn only where all are such."""
    if context.best is None:
        return None
    predictions = context.best.needed_predictions()
    logits, names = predictions.logits(), distinct(context.outputs)
    if logits is None:
        return None
    first = np.asarray(logits.values[0])
    found: list[tuple[str, Curves]] = []
    few: list[tuple[str, Curves]] = []
    for index, name in enumerate(names):
        known = predictions.labels[:, index] != UNKNOWN
        positive = predictions.labels[known, index] == 1
        if (curves := curves_of(sigmoid(first[known, index]), positive)) is not None:
            of = few if min(positive.sum(), (~positive).sum()) < FEW else found
            of.append((name, curves))
    found, few = (found, few) if found else (few, [])
    lead = (
        f"{display_name(context.best.label)}{of_first_seed(context.best)}: a point is what calling the tag "
        "from some probability on gives."
    )
    if few:
        lead += f" Not drawn: {counted(len(few), 'tag')} with fewer than {FEW} positive or negative {context.examples}."
    if len(found) > MOST_TAGS:
        ordered = sorted(found, key=lambda one: -one[1].ap)
        half = MOST_TAGS // 2
        found = [*ordered[:half], *ordered[-half:]]
        lead += f" Of {len(ordered)} tags the {half} with the highest and the {half} with the lowest average precision."
    lines = [
        _Line(name, CATEGORIES[i % len(CATEGORIES)], curves)
        for i, (name, curves) in enumerate(found)
    ]
    return _block(context, lines, lead)


def _first(shown: Sequence[FittedResult]) -> str:
    several = next((one for one in shown if len(one.seeds) > 1), None)
    if several is None:
        return ""
    return f" Of several {'replicates' if several.variance == 'replicates' else 'seeds'} the first is drawn."


def _of_class(one: FittedResult, index: int) -> Curves | None:
    predictions = one.needed_predictions()
    logits = predictions.logits()
    if logits is None or logits.classes is not None:
        return None
    from scipy.special import softmax

    z = np.asarray(logits.values[0], np.float64)
    return curves_of(softmax(z, axis=1)[:, index], np.asarray(predictions.labels) == index)


def _block(context: Context, lines: Sequence[_Line], lead: str) -> Block | None:
    if not lines:
        return None
    roc, precision = (_chart(lines, which) for which in ("roc", "precision"))
    chance = {round(one.curves.rate, 3) for one in lines}
    on = f"{tenths(chance.pop())}%" if len(chance) == 1 else "the share of positives"
    return Block(
        lead,
        charts=[
            Chart(
                context.key("roc"), "ROC", "Chance: the dashed line. In the legend: AUROC, %.", roc
            ),
            Chart(
                context.key("precision"),
                "Precision and recall",
                f"Chance: a precision of {on}. In the legend: average precision, %.",
                precision,
            ),
        ],
    )


def _chart(lines: Sequence[_Line], which: str) -> dict[str, Any]:
    roc = which == "roc"
    rows = [
        {
            "series": f"{line.name}  {tenths(line.curves.auroc if roc else line.curves.ap)}",
            "colour": line.colour,
            "x": round(100 * float(x), 2),
            "y": round(100 * float(y), 2),
        }
        for line in lines
        for x, y in (line.curves.roc if roc else line.curves.precision)
    ]
    titles = ("False positive rate, %", "True positive rate, %")
    if not roc:
        titles = ("Recall, %", "Precision, %")
    legend = alt.Legend(
        title=None, orient="bottom", columns=2, labelLimit=SIDE // 2 + 40,
        symbolType="stroke", symbolOpacity=1,
    )  # fmt: skip
    x = alt.X("x:Q", title=titles[0]).scale(domain=[0, 100], nice=False)
    y = alt.Y("y:Q", title=titles[1]).scale(domain=[0, 100], nice=False)
    base = alt.Chart(alt.Data(values=rows))
    drawn = base.mark_line(
        strokeWidth=2, interpolate="linear" if roc else "step-before", clip=True
    ).encode(
        x=x,
        y=y,
        color=by_colour(rows, "series", legend),
        order="x:Q",
        tooltip=[
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip("x:Q", title=titles[0].lower(), format=".1f"),
            alt.Tooltip("y:Q", title=titles[1].lower(), format=".1f"),
        ],
    )
    if not roc:
        return finish(alt.layer(drawn), height=SIDE, width=SIDE)
    ends = [{"x": 0, "y": 0}, {"x": 100, "y": 100}]
    chance = alt.Chart(alt.Data(values=ends)).mark_line(
        color=_GREY, strokeDash=[5, 4], strokeWidth=1.3
    )
    return finish(alt.layer(chance.encode(x=x, y=y), drawn), height=SIDE, width=SIDE)
