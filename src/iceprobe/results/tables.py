"""Results as a table, best first: rows, CSV, Markdown and a rich table for the terminal."""

import math
from collections.abc import Sequence
from typing import TypeVar

from iceprobe.core.text import csv_text, duration
from iceprobe.results.caveats import few_rows, lost_note
from iceprobe.results.html import html_table
from iceprobe.results.primary import (
    capital,
    heading_of_all,
    is_usual,
    level,
    shared_metric,
    unit_of,
)
from iceprobe.results.schema import Result, Score
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.results.varying import test_of, value_of, varying
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.registry import get_task

_COLUMNS = (
    "parameters", "flops", "seconds", "adaptation", "backbone", "layer", "dataset", "headline",
    "shots", "fraction", "train_images", "protocol", "split", "selected_on", "training_images",
    "undertrained", "per_class_low", "per_class_high", "seeds", "lost_seeds", "test", "masked",
)  # fmt: skip

#: What is said of an undertrained fit.
TRAIN_LONGER = "leave --epochs out, or raise it"


R = TypeVar("R", bound=Result)


def leaderboard(results: Sequence[R]) -> list[R]:
    """Results by their primary metric, best first; ties keep their order."""
    return sorted(results, key=level, reverse=True)


def ordered_metrics(results: Sequence[Result]) -> list[Metric]:
    """The metrics of ``results`` as columns: the primary one first, then in the order of their task."""
    primary = shared_metric(*results)
    known = get_task(results[0].task).metrics
    return [primary, *(one for one in known.values() if one != primary)]


def to_csv(results: Sequence[Result]) -> str:
    """One line a result, numbers at full precision: accuracies as fractions.

    Deviation and interval are of the metric in the second column: of classes the primary one of the task,
    whichever one leads, and of any other task the one that leads.
    """
    tasks = {one.task: get_task(one.task) for one in results}
    classes = any(result.task == "classification" for result in results)
    metrics = list(dict.fromkeys(name for task in tasks.values() for name in task.metrics))
    columns: Sequence[str] = _COLUMNS
    if not classes and results:
        metrics = list(dict.fromkeys([shared_metric(*results).name, *metrics]))
        columns = [name for name in _COLUMNS if not name.startswith("per_class")]
    columns = ["probe", *metrics[:1], "sd", "low", "high", *metrics[1:], *columns]
    rows: list[list[object]] = [[*columns]]
    tests = [one for one in results if one.test_of]
    own = leaderboard([one for one in results if not one.test_of])
    for result in [*own, *tests]:
        usual = result.metrics.get(tasks[result.task].primary if classes else metrics[0])
        per_class = result.metrics.get("mean_per_class")
        low, high = (usual and usual.interval) or (None, None)
        class_low, class_high = (per_class and per_class.interval) or (None, None)
        cells: dict[str, object] = {
            **{name: getattr(result, name) for name in columns if name in Result.model_fields},
            **{name: score.mean for name, score in result.metrics.items()},
            "sd": usual and usual.sd,
            "low": low,
            "high": high,
            "parameters": result.parameters.total,
            "flops": result.flops.per_image,
            "seconds": round(result.seconds, 3),
            "headline": result.primary,
            "undertrained": "; ".join(result.undertrained),
            "per_class_low": class_low,
            "per_class_high": class_high,
            "seeds": len(result.seeds),
            "lost_seeds": len(result.lost_seeds),
            "test": test_of(result) or None,
        }
        rows.append([cells.get(name) for name in columns])
    return csv_text(rows)


def to_markdown(results: Sequence[Result]) -> str:
    """A table for a README or an issue; names from data can't break out of their cells."""
    return "\n".join([*markdown_table(*_table(results)), *_footnotes(results)]) + "\n"


def markdown_table(headings: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, whose cells are escaped."""
    lines = [
        "| " + " | ".join(markdown_text(heading.title) for heading in headings) + " |",
        "|" + "|".join("---:" if heading.numeric else "---" for heading in headings) + "|",
    ]
    return lines + ["| " + " | ".join(markdown_text(cell) for cell in row) + " |" for row in rows]


def to_html(results: Sequence[Result]) -> str:
    """A table for a notebook, or one for each task; names from data are escaped."""
    tasks = dict.fromkeys(one.task for one in results)
    parts = [[one for one in results if one.task == task] for task in tasks]
    return "".join(
        html_table(*_table(part), list(filter(None, _footnotes(part)))) for part in parts
    )


def to_rich(results: Sequence[Result], title: str | None = None) -> TerminalTable:
    """A table for the terminal."""
    headings, rows = _table(results)
    notes = list(filter(None, _footnotes(results)))
    return TerminalTable(
        headings,
        rows,
        title=title,
        notes=notes,
        lead=True,
        name="results",
        made_of=leaderboard(results),
    )


def to_rich_matrix(results: Sequence[Result]) -> TerminalTable:
    """A campaign for the terminal: a row a backbone, data set and draw, a column a probe.

    A number is the primary metric of its data set.
    """
    differing = varying(results)
    probes = list(dict.fromkeys(result.label for result in results))
    by_key: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in results:
        key = tuple(value_of(result, name) for name in differing)
        by_key.setdefault(key, {})[result.label] = result
    columns = [Column(name, numeric=False) for name in differing] + [Column(p) for p in probes]
    rows = [
        [*key, *(_cell(by_probe[p]) if p in by_probe else "–" for p in probes)]
        for key, by_probe in by_key.items()
    ]
    notes = [
        f"† {one.label} on {' · '.join(value_of(one, name) for name in differing)}: {said}."
        for one in results
        if (said := lost_note(one))
    ]
    title = capital(heading_of_all(results))
    return TerminalTable(columns, rows, title=title, notes=notes, name="results", made_of=results)


def _cell(result: Result) -> str:
    return percent(result.score, result.metric) + ("†" if result.lost_seeds else "")


def figure(
    value: float, metric: Metric | None = None, *, signed: bool = False, near: float | None = None
) -> str:
    """A score as its metric is written, the one place where scores are rounded; without a metric a share.

    A percentage has one decimal, any other score three, or, in the unit of targets, as many as show three
    digits of ``near``, itself by default. The same score reached by two sums may differ in its sixteenth
    digit, and 7.25 would be 7.2 in one table and 7.3 in another: it is rounded to nine digits first. A minus
    is typographic, and never before 0.

    >>> figure(0.0725), figure(0.0725 - 1e-16), figure(-0.0725, signed=True), figure(-1e-9)
    ('7.2', '7.2', '−7.2', '0.0')
    """
    scale = 100 if metric is None else metric.scale
    decimals = _decimals(metric, value if near is None else near)
    text = f"{abs(round(scale * value, max(9, decimals))):.{decimals}f}"
    sign = "−" if value < 0 else "+" if signed else ""
    return f"{sign}{text}" if float(text) else text


def _decimals(metric: Metric | None, near: float) -> int:
    if metric is None or metric.percent:
        return 1
    if not metric.unit_of_target or not near or not math.isfinite(near):
        return 3
    return min(12, max(0, 2 - math.floor(math.log10(abs(near)))))


def tenths(share: float) -> str:
    """``"72.5"``: a share in percent."""
    return figure(share)


def signed_points(share: float) -> str:
    """``"+4.2"`` or ``"−0.3"``: a difference of shares in percentage points."""
    return figure(share, signed=True)


def gap(difference: float, metric: Metric) -> str:
    """A difference of scores in a sentence: ``"+4.2 points"``, ``"−0.317"``."""
    return figure(difference, metric, signed=True) + (" points" if metric.percent else "")


def percent(score: Score | None, metric: Metric | None = None) -> str:
    """``"83.1 ± 0.2"`` as :func:`figure` writes it; the deviation where there are several seeds."""
    if score is None:
        return "–"
    near = score.mean
    spread = f" ± {figure(score.sd, metric, near=near)}" if score.sd is not None else ""
    return f"{figure(score.mean, metric)}{spread}"


def span(
    interval: tuple[float, float] | None, metric: Metric | None = None, *, signed: bool = False
) -> str:
    """``"82.0 to 84.2"``, as :func:`figure` writes it."""
    if interval is None:
        return "–"
    near = max(interval, key=abs)
    return " to ".join(figure(end, metric, signed=signed, near=near) for end in interval)


def worded(result: Result) -> str:
    """Its score in a sentence: ``"86.7%"``, ``"53.6% mean per class"``, ``"71.2 mAP"``, ``"R² 0.831"``.

    A metric with a capital letter is a name, which stands before its number.
    """
    metric, number = result.metric, figure(result.score.mean, result.metric)
    if is_usual(result):
        return f"{number}%"
    if metric.percent:
        return f"{number}{sign_of(metric)} {metric.title}"
    number = f"{number} {unit_of(metric, [result])}".rstrip()
    return f"{metric.title} {number}" if metric.title[0].isupper() else f"{number} {metric.title}"


def sign_of(metric: Metric) -> str:
    """``"%"`` of a share of examples or classes; mAP and AUROC are written without."""
    return "%" if metric.percent and metric.formula is None else ""


def short(number: float) -> str:
    """``"1.38 M"``: three figures and a letter."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _table(results: Sequence[Result]) -> tuple[list[Column], list[list[str]]]:
    """What fits a terminal; further metrics are in the report, in CSV and in results.json."""
    ordered = leaderboard(results)
    primary, *others = ordered_metrics(ordered)
    # The same scores with other weights; without effect where the test split is balanced.
    shown = [
        one
        for one in others
        if one.each is not None
        and one.each is primary.each
        and any(
            not is_usual(r)
            or abs(r.metrics.get(one.name, r.score).mean - r.metrics[primary.name].mean) > 5e-4
            for r in ordered
        )
    ]
    differing = varying(ordered)
    headings = [Column("probe", numeric=False), Column(heading_of(primary, ordered))]
    headings.append(Column("95% interval"))
    headings += [Column(heading_of(one, ordered), goes=3) for one in shown]
    headings += [Column("parameters", goes=4), Column("FLOPs", goes=2), Column("time", goes=1)]
    headings += [Column(name, numeric=False) for name in differing]
    rows = []
    for result in ordered:
        leads = result.metrics[primary.name]
        row = [_marked(result), percent(leads, primary), span(leads.interval, primary)]
        row += [percent(result.metrics.get(one.name), one) for one in shown]
        row += [short(result.parameters.total), short(result.flops.per_image)]
        row += [duration(result.seconds)]
        rows.append(row + [value_of(result, name) for name in differing])
    return headings, rows


def heading_of(metric: Metric, results: Sequence[Result]) -> str:
    """The heading of its column: ``"top-1 %"``, ``"MAE, years"``, ``"…, headline"`` where an unusual metric
    leads."""
    leads = metric == shared_metric(*results) and metric.name != get_task(results[0].task).primary
    unit = unit_of(metric, results)
    unit = f" {unit}" if unit == "%" else f", {unit}" if unit else ""
    return f"{metric.heading}{unit}" + (", headline" if leads else "")


def undertrained_note(result: Result) -> str:
    """Why it counts as undertrained, and the remedy."""
    return f"undertrained ({', '.join(result.undertrained)}), so no comparison with it holds: {TRAIN_LONGER}"


def _marked(result: Result) -> str:
    marks = ("*" if result.selected_on_reported else "") + ("†" if result.lost_seeds else "")
    return f"{result.label} {marks}" if marks else result.label


def _footnotes(results: Sequence[Result]) -> list[str]:
    notes = []
    marked = [result for result in results if result.selected_on_reported]
    if marked:
        seen = dict.fromkeys(r.training_images for r in marked if r.method == "trained")
        features = f"; cached features: {' or '.join(seen)}" if seen else ""
        notes.append(
            f"* settings and epoch selected on the reported split (protocol `paper`){features}."
        )
    for result in leaderboard(results):
        if result.undertrained:
            notes.append(f"{result.label}: {undertrained_note(result)}.")
        if result.warnings:
            notes.append(f"{result.label}: {'; '.join(result.warnings)}.")
        if lost := lost_note(result):
            notes.append(f"† {result.label}: {lost}.")
    doubts = [(one.metric.title, one.score.caveat) for one in results if one.score.caveat]
    notes += [f"{title}: {caveat}." for title, caveat in dict.fromkeys(doubts)]
    notes += filter(None, [few_rows(results)])
    return ["", *notes] if notes else []


def markdown_text(text: str) -> str:
    """A text in which Markdown finds no marks of its own, on one line."""
    for character in "\\|`*_[]<>":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
