"""``iceprobe compare``: which probe is better, image by image and replicate by replicate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iceprobe.cli.arguments import named_result
from iceprobe.cli.compare_published import show_published
from iceprobe.cli.console import answers, console, note, say
from iceprobe.core.errors import IceprobeError
from iceprobe.results import FittedResult, read_results
from iceprobe.results.caveats import covered, few_rows, lost_note
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.results.varying import value_of, varying

if TYPE_CHECKING:
    from iceprobe.results import Comparison

_NAMES = ("label", "backbone", "layer", "dataset", "protocol", "split", "shots", "fraction")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Two run folders, or one to compare its own probes.")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare every probe with this one (with one run: k-NN or the best linear)."
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Also report whether the two are equivalent within ± this many points."),
    ] = None,
    mistakes: Annotated[
        int,
        typer.Option(
            min=0, help="Images to name per pair that only one of the two classifies correctly."
        ),
    ] = 2,
    published: Annotated[
        bool,
        typer.Option("--published", help="Lay one run beside published figures of its encoder."),
    ] = False,
    as_encoder: Annotated[
        str | None,
        typer.Option("--as", help="published: the encoder, where its spec doesn't tell."),
    ] = None,
    on_data: Annotated[
        str | None,
        typer.Option("--on", help="published: the data set, where its spec doesn't tell."),
    ] = None,
) -> None:
    """Compare probes image by image: difference, 95% interval, p-value, and equivalence.

    p, and whether a difference is clear, are Holm's for all comparisons with one reference.

    \b
    Examples:
      iceprobe compare runs/demo
      iceprobe compare runs/demo --against aim12 --margin 1.5
      iceprobe compare runs/mae runs/dino
      iceprobe compare runs/mae --published
      iceprobe compare runs/mae --published --as "MAE ViT-S/16" --on imagenet1k
    """
    from iceprobe.results import compare as compare_runs
    from iceprobe.results.comparison import compare_pairs, corrected

    if published:
        _check_published(runs, {"--against": against, "--margin": margin})
        show_published(read_results(runs[0]), as_encoder, on_data)
        return
    if as_encoder is not None or on_data is not None:
        raise IceprobeError("--as and --on name what published figures are of: add --published")
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
                compare_pairs((one, reference) for one in cell if one is not reference)
            )
        labels = ["", " or ".join(dict.fromkeys(references))]
    for line in _undertrained(comparisons):
        note(line)
    console.print(_table(comparisons, margin, labels))
    misread = _mistakes(comparisons, mistakes) if mistakes else []
    if not answers("mistakes", misread):
        for line in misread:
            say(line)


def _check_published(runs: Sequence[Path], others: dict[str, object]) -> None:
    """Refuse several runs, and options that are of runs against each other."""
    if len(runs) > 1:
        raise IceprobeError(f"--published with {len(runs)} runs: name one")
    for flag, value in others.items():
        if value is not None:
            raise IceprobeError(
                f"--published with {flag}, which is of probes of runs: leave one out"
            )


def _cells(results: Sequence[FittedResult]) -> list[list[FittedResult]]:
    """The results of each run of a campaign, or those of an ordinary run."""
    names = varying(results)
    cells: dict[tuple[str, ...], list[FittedResult]] = {}
    for result in results:
        cells.setdefault(tuple(value_of(result, name) for name in names), []).append(result)
    return list(cells.values())


def _reference(results: Sequence[FittedResult], against: str | None) -> FittedResult:
    from iceprobe.results.comparison import best_baseline

    if against is not None:
        return named_result(results, against)
    if (reference := best_baseline(results)) is None:
        raise IceprobeError(f"the run has neither knn nor linear: add --against {results[0].label}")
    return reference


def _undertrained(comparisons: Sequence["Comparison"]) -> list[str]:
    """A line for each undertrained result, which can't be ranked."""
    from iceprobe.results.tables import undertrained_note

    found = {id(one): one for pair in comparisons for one in pair.undertrained}
    several = len({one.backbone for one in found.values()}) > 1
    return [
        f"{one.label}{f' on {one.backbone}' if several else ''}: {undertrained_note(one)}"
        for one in found.values()
    ]


def _mistakes(comparisons: Sequence["Comparison"], count: int) -> list[str]:
    """A line for each side of each pair with images that only this side classifies correctly."""
    from iceprobe.results.disagreement import misread_by_name

    lines = []
    for one in comparisons:
        for right, wrong in ((one.probe, one.against), (one.against, one.probe)):
            ours, theirs = right.predictions(), wrong.predictions()
            assert ours, "compare_pairs() has read them"
            assert theirs, "compare_pairs() has read them"
            if misread := misread_by_name(ours, theirs, right.class_names, count):
                a, b = right.label, wrong.label
                if a == b:
                    a, b = f"{a} on {right.backbone}", f"{b} on {wrong.backbone}"
                lines.append(f"{a} reads and {b} doesn't: {', '.join(misread)}")
    return lines


def _table(
    comparisons: Sequence["Comparison"], margin: float | None, labels: Sequence[str]
) -> TerminalTable:
    from iceprobe.results.statistics import same_within
    from iceprobe.results.tables import figure, span

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
        # Of a probe that is frozen in one run and adapted in the other, the adapted one is named.
        named = one.against if labels[0] and one.probe.adaptation is None else one.probe
        mark = ("*" if one.undertrained else "") + ("†" if one.probe.lost_seeds else "")
        row = [
            f"{named.label}{mark}",
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
    return TerminalTable(
        columns,
        rows,
        notes=_notes(comparisons, margin),
        name="comparisons",
        made_of=[_entry(one, margin) for one in comparisons],
    )


def _entry(one: "Comparison", margin: float | None) -> dict[str, Any]:
    """A comparison for programs; of a percentage all numbers are fractions, those of the margin too."""
    from iceprobe.results.statistics import same_within

    within = None if margin is None else margin / one.metric.scale
    same = within is not None and same_within(one.difference, within).holds
    return {
        "metric": one.metric.name,
        **{
            side: {
                **{name: getattr(result, name) for name in _NAMES},
                "run": result.run,
                "score": result.score,
            }
            for side, result in (("probe", one.probe), ("against", one.against))
        },
        "difference": {"mean": one.shown.mean, "interval": one.shown.interval},
        "p": one.p,
        "among": one.among,
        "clear": one.clear,
        "margin": within,
        "same": None if within is None else same and not one.undertrained,
        "undertrained": [result.label for result in one.undertrained],
    }


def _notes(comparisons: Sequence["Comparison"], margin: float | None) -> list[str]:
    """What the intervals are over, what p is corrected for, and which seeds were lost."""
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
