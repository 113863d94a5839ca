"""Results as a table, best first: rows, CSV, Markdown and a rich table for the terminal."""

from collections.abc import Sequence

from iceprobe.core.text import csv_text, duration
from iceprobe.results.caveats import few_rows, lost_note
from iceprobe.results.comparison import shared_headline
from iceprobe.results.headline import NAMES
from iceprobe.results.schema import Result, Score
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.results.varying import told, varying

_COLUMNS = (
    "probe", "top1", "sd", "low", "high", "top5", "mean_per_class", "parameters", "flops",
    "seconds", "adaptation", "backbone", "layer", "dataset", "headline", "shots", "fraction",
    "train_images", "protocol", "split", "selected_on", "training_images", "undertrained",
    "per_class_low", "per_class_high", "seeds", "lost_seeds",
)  # fmt: skip


#: Of a fit that hadn't learned to its end.
TRAIN_LONGER = "leave --epochs out, or raise it"


def leaderboard(results: Sequence[Result]) -> list[Result]:
    """Results by the accuracy that is the headline, best first; ties keep their order.

    That is top-1, or the mean over classes where the data set's convention is that.
    """
    return sorted(results, key=lambda result: -result.score.mean)


def to_csv(results: Sequence[Result]) -> str:
    """One line a result, numbers at full precision: accuracies as fractions."""
    rows: list[list[object]] = [list(_COLUMNS)]
    for result in leaderboard(results):
        low, high = result.top1.interval or (None, None)
        class_low, class_high = result.mean_per_class.interval or (None, None)
        cells: dict[str, object] = {
            "probe": result.probe,
            "top1": result.top1.mean,
            "sd": result.top1.sd,
            "low": low,
            "high": high,
            "top5": result.top5.mean if result.top5 else None,
            "mean_per_class": result.mean_per_class.mean,
            "parameters": result.parameters.total,
            "flops": result.flops.per_image,
            "seconds": round(result.seconds, 3),
            "adaptation": result.adaptation,
            "backbone": result.backbone,
            **{name: getattr(result, name) for name in ("layer", "headline", "shots", "fraction")},
            "train_images": result.train_images,
            "split": result.split,
            "dataset": result.dataset,
            "protocol": result.protocol,
            "selected_on": result.selected_on,
            "training_images": result.training_images,
            "undertrained": "; ".join(result.undertrained),
            "per_class_low": class_low,
            "per_class_high": class_high,
            "seeds": len(result.seeds),
            "lost_seeds": len(result.lost_seeds),
        }
        rows.append([cells[name] for name in _COLUMNS])
    return csv_text(rows)


def to_markdown(results: Sequence[Result]) -> str:
    """A table for a README or an issue; names from data can't break out of their cells."""
    headings, rows = _table(results)
    lines = [
        "| " + " | ".join(heading.title for heading in headings) + " |",
        "|" + "|".join("---:" if heading.numeric else "---" for heading in headings) + "|",
    ]
    lines += ["| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in rows]
    return "\n".join([*lines, *_footnotes(results)]) + "\n"


def to_rich(results: Sequence[Result], title: str | None = None) -> TerminalTable:
    """A table for the terminal."""
    headings, rows = _table(results)
    notes = list(filter(None, _footnotes(results)))
    return TerminalTable(headings, rows, title=title, notes=notes, lead=True)


def to_rich_matrix(results: Sequence[Result]) -> TerminalTable:
    """A campaign for the terminal: a row a backbone, data set and draw, a column a probe.

    A number is the accuracy that is the headline of its data set.
    """
    differing = varying(results)
    probes = list(dict.fromkeys(result.label for result in results))
    by_key: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in results:
        key = tuple(told(result, name) for name in differing)
        by_key.setdefault(key, {})[result.label] = result
    columns = [Column(name, numeric=False) for name in differing] + [Column(p) for p in probes]
    rows = [
        [*key, *(_cell(by_probe[p]) if p in by_probe else "–" for p in probes)]
        for key, by_probe in by_key.items()
    ]
    metric = dict.fromkeys(NAMES[result.headline] for result in results)
    title = f"{' or '.join(metric)} %"
    notes = [
        f"† {one.label} on {' · '.join(told(one, name) for name in differing)}: {said}."
        for one in results
        if (said := lost_note(one))
    ]
    return TerminalTable(columns, rows, title=title[0].upper() + title[1:], notes=notes)


def _cell(result: Result) -> str:
    return percent(result.score) + ("†" if result.lost_seeds else "")


def percent(score: Score | None) -> str:
    """``"83.1 ± 0.2"``, in percent; the deviation where there are several seeds."""
    if score is None:
        return "–"
    spread = f" ± {tenths(score.sd)}" if score.sd is not None else ""
    return f"{tenths(score.mean)}{spread}"


def span(interval: tuple[float, float] | None, signed: bool = False) -> str:
    """``"82.0 to 84.2"``, in percent."""
    if interval is None:
        return "–"
    low, high = (signed_points(end) if signed else tenths(end) for end in interval)
    return f"{low} to {high}"


def tenths(fraction: float) -> str:
    """``"72.5"``: percent with one decimal; the one place where accuracies are rounded.

    The same accuracy reached by two sums may differ in its sixteenth digit, and 7.25 would be 7.2
    in one table and 7.3 in another: it is rounded to nine digits first.

    >>> tenths(0.0725), tenths(0.0725 - 1e-16), tenths(0.0725 + 1e-16)
    ('7.2', '7.2', '7.2')
    """
    return f"{round(100 * fraction, 9):.1f}"


def signed_points(fraction: float) -> str:
    """``"+4.2"`` or ``"−0.3"``: percentage points with a typographic minus; never "−0.0"."""
    text = tenths(abs(fraction))
    return text if float(text) == 0 else ("+" if fraction > 0 else "−") + text


def short(number: float) -> str:
    """``"1.38 M"``: three figures and a letter."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _table(results: Sequence[Result]) -> tuple[list[Column], list[list[str]]]:
    """What fits a terminal; top-5 stands in the report, in CSV and in results.json."""
    ordered = leaderboard(results)
    # On a balanced test split the mean over classes is the accuracy itself.
    by_class = any(
        r.headline == "mean_per_class" or abs(r.mean_per_class.mean - r.top1.mean) > 5e-4
        for r in ordered
    )
    differing = varying(ordered)
    first, second = Column("top-1 %"), Column("per class %", goes=3)
    if led_by_class := shared_headline(*ordered) == "mean_per_class":
        first, second = Column("per class %, headline"), Column("top-1 %", goes=3)
    headings = [Column("probe", numeric=False), first, Column("95% interval")]
    headings += [second] * by_class
    headings += [Column("parameters", goes=4), Column("FLOPs", goes=2), Column("time", goes=1)]
    headings += [Column(name, numeric=False) for name in differing]
    rows = []
    for result in ordered:
        leads, other = result.top1, result.mean_per_class
        if led_by_class:
            leads, other = other, leads
        row = [_marked(result), percent(leads), span(leads.interval)]
        row += [percent(other)] * by_class
        row += [short(result.parameters.total), short(result.flops.per_image)]
        row += [duration(result.seconds)]
        rows.append(row + [told(result, name) for name in differing])
    return headings, rows


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
        if said := lost_note(result):
            notes.append(f"† {result.label}: {said}.")
    notes += filter(None, [few_rows(results)])
    return ["", *notes] if notes else []


def _markdown(text: str) -> str:
    for character in "\\|`*_[]<>":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
