"""``iceprobe compare``: which probe is better, image by image and replicate by replicate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iceprobe.cli.arguments import named_result
from iceprobe.cli.console import console
from iceprobe.core.errors import IceprobeError

if TYPE_CHECKING:
    from iceprobe.results import Comparison, FittedResult
    from iceprobe.results.terminal import TerminalTable


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Two run folders, or one to compare its own probes.")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare every probe with this one (with one run: k-NN or the best linear).",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Also say whether the two are equivalent within ± this many points.",
            show_default=False,
        ),
    ] = None,
    mistakes: Annotated[
        int,
        typer.Option(
            min=0, help="Images named for each pair that one reads and the other doesn't."
        ),
    ] = 2,
) -> None:
    """Compare probes image by image: difference, 95% interval, p-value, and equivalence.

    p, and whether a difference is clear, are Holm's for all comparisons with one reference.

    \b
    Examples:
      iceprobe compare runs/demo
      iceprobe compare runs/demo --against aim12 --margin 1.5
      iceprobe compare runs/mae runs/dino
    """
    from iceprobe.results import compare as compare_runs
    from iceprobe.results import compare_pair, read_results
    from iceprobe.results.comparison import corrected

    if margin is not None and margin <= 0:
        raise IceprobeError(f"--margin {margin}: give a number of points above 0, such as 1.5")
    if len(runs) > 2:
        raise IceprobeError(f"{len(runs)} runs named: compare takes one or two")
    results = [read_results(run) for run in runs]
    if len(runs) == 2 and against is None:
        comparisons = compare_runs(*results)
        labels = [str(run) for run in runs]
    else:
        comparisons, references = [], []
        for cell in _cells(results[0]) if len(runs) == 1 else results[:1]:
            reference = _reference(cell if len(runs) == 1 else results[-1], against)
            references.append(reference.label)
            comparisons += corrected(
                [compare_pair(result, reference) for result in cell if result is not reference]
            )
        labels = ["", " or ".join(dict.fromkeys(references))]
    for line in _undertrained(comparisons):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_table(comparisons, margin, labels))
    for line in _mistakes(comparisons, mistakes):
        console.print(line, markup=False, soft_wrap=True)


def _cells(results: Sequence["FittedResult"]) -> list[list["FittedResult"]]:
    """The results of each run of a campaign; all of them of an ordinary run."""
    from iceprobe.results.varying import value_of, varying

    names = varying(results)
    cells: dict[tuple[str, ...], list[FittedResult]] = {}
    for result in results:
        cells.setdefault(tuple(value_of(result, name) for name in names), []).append(result)
    return list(cells.values())


def _reference(results: Sequence["FittedResult"], against: str | None) -> "FittedResult":
    from iceprobe.results.comparison import best_baseline

    if against is None:
        reference = best_baseline(results)
        if reference is None:
            raise IceprobeError(
                f"the run has neither knn nor linear: say --against {results[0].label}"
            )
        return reference
    return named_result(results, against)


def _name(one: "Comparison", in_both: bool) -> str:
    """The probe compared; of one in both runs, frozen in one and adapted in the other, the adapted one."""
    return one.against.label if in_both and one.probe.adaptation is None else one.probe.label


def _undertrained(comparisons: Sequence["Comparison"]) -> list[str]:
    """A line for each result that no order can be read from, before the table."""
    from iceprobe.results.tables import undertrained_note

    found = {id(one): one for pair in comparisons for one in pair.undertrained}
    several = len({one.backbone for one in found.values()}) > 1
    return [
        f"{one.label}{f' on {one.backbone}' if several else ''}: {undertrained_note(one)}"
        for one in found.values()
    ]


def _mistakes(comparisons: Sequence["Comparison"], count: int) -> list[str]:
    """A line for each side of each pair that reads images which the other doesn't."""
    from iceprobe.results.disagreement import misread_by_name

    lines = []
    for one in comparisons if count else []:
        for right, wrong in ((one.probe, one.against), (one.against, one.probe)):
            ours, theirs = right.predictions(), wrong.predictions()
            assert ours, "compare_pair() has read them"
            assert theirs, "compare_pair() has read them"
            if misread := misread_by_name(ours, theirs, right.class_names, count):
                same = right.label == wrong.label
                of = [
                    f"{each.label} on {each.backbone}" if same else each.label
                    for each in (right, wrong)
                ]
                lines.append(f"{of[0]} reads and {of[1]} doesn't: {', '.join(misread)}")
    return lines


def _table(
    comparisons: Sequence["Comparison"], margin: float | None, labels: Sequence[str]
) -> "TerminalTable":
    from iceprobe.results.statistics import same_within
    from iceprobe.results.tables import figure, span
    from iceprobe.results.terminal import Column, TerminalTable
    from iceprobe.results.varying import value_of, varying

    names = varying([one.probe for one in comparisons])
    columns = [Column("probe", numeric=False), *(Column(name, numeric=False) for name in names)]
    metric = " or ".join(dict.fromkeys(one.metric.title for one in comparisons))
    columns += [Column(labels[0] or metric, goes=2), Column(labels[1], goes=3)]
    points = "points" if all(one.metric.percent for one in comparisons) else "difference"
    columns += [Column(points), Column("95% interval"), Column("p", goes=1)]
    columns += [Column("clear", numeric=False, goes=4)]
    if margin is not None:
        columns.append(Column(f"same ±{margin:g}", numeric=False))
    rows = []
    for one in comparisons:
        difference = one.difference
        mark = ("*" if one.undertrained else "") + ("†" if one.probe.lost_seeds else "")
        row = [
            f"{_name(one, bool(labels[0]))}{mark}",
            *(value_of(one.probe, name) for name in names),
            figure(one.probe.score.mean, one.metric),
            figure(one.against.score.mean, one.metric),
            figure(one.shown.mean, one.metric, signed=True),
            span(one.shown.interval, one.metric, signed=True),
            f"{one.p:.3f}" if one.p >= 0.001 else "<.001",
            "yes" if one.clear else "no",
        ]
        if margin is not None:
            holds = same_within(difference, margin / one.metric.scale).holds
            row.append("yes" if holds and not one.undertrained else "not shown")
        rows.append(row)
    return TerminalTable(columns, rows, notes=_notes(comparisons, margin))


def _notes(comparisons: Sequence["Comparison"], margin: float | None) -> list[str]:
    """What the intervals are over, what p is corrected for, and what was lost."""
    from iceprobe.results.caveats import covered, few_rows, lost_note

    if not comparisons:
        return []
    over = dict.fromkeys(covered(one.probe, one.against) for one in comparisons)
    most = max(one.among for one in comparisons)
    notes = [f"Intervals: each comparison's own, over {'; '.join(over)}."]
    if most > 1:
        same = "; same: each comparison's own" if margin is not None else ""
        notes.append(f"p and clear: corrected for {most} comparisons (Holm){same}.")
    sides = {id(one): one for pair in comparisons for one in (pair.against, pair.probe)}
    notes += [f"† {one.label}: {said}." for one in sides.values() if (said := lost_note(one))]
    return [*notes, *filter(None, [few_rows(list(sides.values()))])]
