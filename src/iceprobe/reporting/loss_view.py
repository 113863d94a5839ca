"""Examples with tags or numbers that one probe predicts much better than another."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import visible
from iceprobe.reporting.answers import Namer
from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table
from iceprobe.reporting.disagreement_view import chosen_pair
from iceprobe.reporting.finding import display_name
from iceprobe.results.caveats import tested
from iceprobe.results.examples import example_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.losses import losses
from iceprobe.results.predictions import Predictions
from iceprobe.results.primary import capital
from iceprobe.results.reliability import sigmoid
from iceprobe.tasks.registry import get_task

COUNT = 5  # examples on each side

if TYPE_CHECKING:
    from iceprobe.reporting.attention import Album


def apart(context: Context) -> Block | None:
    """Of the best EP and the best other probe, as where classes are disputed; None of fewer than two."""
    if (chosen := chosen_pair(context.results)) is None:
        return None
    first, second, rule = chosen
    a, b = first.needed_predictions(), second.needed_predictions()
    of_a, of_b = losses(a), losses(b)
    if of_a is None or of_b is None:
        return None
    gap = of_b.mean(0) - of_a.mean(0)  # > 0: the first is nearer
    order = np.argsort(np.nan_to_num(gap), kind="stable")
    agree = np.sign(of_b[0] - of_a[0]) == np.sign(gap)  # as the first seeds say, which are shown
    for_a = [row for row in order[::-1].tolist() if gap[row] > 0 and agree[row]][:COUNT]
    for_b = [row for row in order.tolist() if gap[row] < 0 and agree[row]][:COUNT]
    rows = np.array([*for_a, *for_b], np.int64)
    if not len(rows):
        return None
    album, notes = _album(context, first, rows)
    namer = Namer(get_task(first.task), context.outputs, first.units)
    tables = []
    for wins, mine in ((first, for_a), (second, for_b)):
        loses = second if wins is first else first
        if mine:
            title = f"{display_name(wins.label)} is nearer than {display_name(loses.label)}"
            tables.append(_table(namer, (first, second), mine, title, album))
    nearer = float((gap[np.isfinite(gap)] > 0).mean())
    what = (
        "the mean error, in deviations of each number,"
        if a.labels.dtype.kind == "f"
        else "the mean loss over its tags (−ln of the probability of what is true)"
    )
    return Block(
        f"{display_name(first.label)} against {display_name(second.label)}, {rule}: on "
        f"{100 * nearer:.0f}% of the {tested(first)} {context.examples} the first is nearer. Shown are those on which "
        f"{what} differs most, mean over seeds, and in the same way of the first seeds, whose answers are shown.",
        tables=tables,
        notes=notes,
    )


def _album(
    context: Context, first: FittedResult, rows: NDArray[np.int64]
) -> tuple["Album | None", list[str]]:
    """Pictures of the rows where they can be found, and why not."""
    if not context.images:
        return None, []
    from iceprobe.reporting.attention import Album  # torch: only where pictures are drawn

    try:
        return Album(context.opened(first), first.split, rows), []
    except IceprobeError as error:
        return None, [f"Without pictures, {error}."]


def _table(
    namer: Namer,
    pair: tuple[FittedResult, FittedResult],
    rows: list[int],
    title: str,
    album: "Album | None",
) -> Table:
    predictions = [one.needed_predictions() for one in pair]
    headings = [
        Heading(capital(example_of(*pair)), numeric=False, first="ascending"),
        Heading("True", numeric=False, first="ascending"),
        *(Heading(display_name(one.label), numeric=False, first="ascending") for one in pair),
    ]
    made = []
    for row in rows:
        true = namer.label(np.asarray(predictions[0].labels[row]))
        cells = [_image(predictions[0], row, album), Cell(true)]
        cells += [Cell(_read(namer, one, row)) for one in predictions]
        made.append(cells)
    return Table(headings, made, title=title)


def _image(predictions: Predictions, row: int, album: "Album | None") -> Cell:
    if album is not None:
        place = album.rows.tolist().index(row)
        return Cell(visible(album.names[place]), image=album.pictures[place])
    name = predictions.names[row] if predictions.names is not None else f"number {row}"
    return Cell(visible(name))


def _read(namer: Namer, predictions: Predictions, row: int) -> str:
    """Of the first seed."""
    if (logits := predictions.logits()) is None:
        return namer.read(np.asarray(predictions.predicted[0, row], np.float64))
    return namer.read(sigmoid(np.asarray(logits.values[0, row])))
