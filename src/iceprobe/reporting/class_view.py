"""Recall, precision and F1 of each class."""

import numpy as np

from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table, over_seeds
from iceprobe.reporting.finding import display_name
from iceprobe.results.caveats import tested
from iceprobe.results.examples import examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import capital
from iceprobe.results.ratios import Ratio, class_ratios
from iceprobe.results.tables import span, tenths

MOST = 60  # classes of a table; of more only the worst
WORST = 30
_MEASURES = {"recall": "Recall %", "precision": "Precision %", "f1": "F1 %"}


def by_class(context: Context) -> Block | None:
    """Of the best probe, and of the reference EP where it is another; None without predictions."""
    if context.best is None:
        return None
    tables = [_table(one, context.outputs) for one in context.pair]
    truth = context.best.needed_predictions().labels
    counts = np.bincount(truth, minlength=context.best.classes)
    missing = [context.outputs[i] for i in np.flatnonzero(counts == 0)[:5].tolist()]
    empty = int((counts == 0).sum())
    notes = (
        [
            f"{empty} of {len(counts)} classes have no {tested(context.best)} {context.example}, among them "
            f"{', '.join(missing)}: they count in no mean over classes."
        ]
        if empty
        else []
    )
    return Block(
        "Recall: how much of a class is read as it. Precision: how much of what is read as a class is "
        "one. F1: their harmonic mean. With 95% intervals (Wilson’s, over "
        f"{context.independent}); the classes with the lowest F1 first.",
        tables=tables,
        notes=notes,
    )


def _table(one: FittedResult, names: list[str]) -> Table:
    predictions = one.needed_predictions()
    predicted, labels = np.asarray(predictions.predicted), np.asarray(predictions.labels)
    counts = np.bincount(labels, minlength=one.classes)
    hits = np.array([np.bincount(row[row == labels], minlength=one.classes) for row in predicted])
    called = np.array([np.bincount(row[row >= 0], minlength=one.classes) for row in predicted])
    f1 = (2 * hits / np.maximum(counts + called, 1)).mean(0)
    there = np.flatnonzero((counts > 0) | called.any(0))
    order = there[np.argsort(f1[there], kind="stable")]
    shown = order if len(order) <= MOST else order[:WORST]
    rows = []
    for index in shown.tolist():
        ratios = class_ratios(predicted, labels, index, predictions.groups)
        rows.append(
            [
                Cell(names[index], strong=True),
                Cell(f"{counts[index]:,}", int(counts[index])),
                *(_cell(ratios[name]) for name in _MEASURES),
            ]
        )
    headings = [
        Heading("Class", numeric=False, first="ascending"),
        Heading(capital(examples_of(one))),
        *(Heading(title, first="ascending") for title in _MEASURES.values()),
    ]
    few = f"the {len(shown)} lowest of {len(order)} classes" if len(shown) < len(order) else ""
    note = ", ".join(filter(None, [few, over_seeds(one).removeprefix(", ")]))
    return Table(headings, rows, title=display_name(one.label), note=note)


def _cell(ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell("–", "")
    return Cell(tenths(ratio.mean), ratio.mean, soft=span(ratio.interval))
