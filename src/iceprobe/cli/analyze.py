"""``iceprobe analyze``: where the probes of a run look, and which predictors matter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iceprobe.cli.arguments import named_result
from iceprobe.cli.console import Bars, console
from iceprobe.cli.paths import check_file, check_writable
from iceprobe.cli.signature import Device, Trust

if TYPE_CHECKING:
    from iceprobe.analysis import Analysis, Estimate
    from iceprobe.results.terminal import TerminalTable

_FIGURE = "A figure for a paper"


def analyze(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    probe: Annotated[
        list[str] | None,
        typer.Option(help="Probes to look at (all with attention).", show_default=False),
    ] = None,
    predictors: Annotated[
        int, typer.Option(help="Rows of a probe's table; the files have all.", min=0)
    ] = 16,
    thresholds: Annotated[int, typer.Option(help="Thresholds of MaxBoxAccV2.", min=1)] = 100,
    background: Annotated[
        bool, typer.Option(help="Test what is lost when all but the object is exchanged.")
    ] = False,
    heads: Annotated[bool, typer.Option(help="Add the backbone's own attention heads.")] = False,
    device: Device = None,
    trust: Trust = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw maps into one .pdf, .svg or .png, and measure nothing.",
            show_default=False,
            rich_help_panel=_FIGURE,
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(help="Rows: test images.", min=1, rich_help_panel=_FIGURE)
    ] = 6,
    column: Annotated[
        bool, typer.Option(help="As wide as one column of a paper.", rich_help_panel=_FIGURE)
    ] = False,
) -> None:
    """Tell where each probe looks, and what each of its predictors is worth.

    Entropy, attention on boxes and masks beside what uniform attention scores, importance of
    every predictor, complementarity, MaxBoxAccV2 and retrieval go to analysis.json and
    analysis.csv in the run, with 95% intervals over images, and into its report.html.

    \b
    Examples:
      iceprobe analyze runs/demo
      iceprobe analyze runs/demo --probe ep32 --probe aim12 --predictors 32
      iceprobe analyze runs/demo --background --heads
      iceprobe analyze runs/demo --figure maps.pdf --probe ep12 --probe aim12 --images 4
    """
    from iceprobe import report as write_report
    from iceprobe.analysis.files import write_analyses
    from iceprobe.analysis.running import analyze as measure
    from iceprobe.results import read_results

    results = read_results(run)
    chosen = [named_result(results, one) for one in probe] if probe else results
    if figure is not None:
        from iceprobe import figure as draw

        check_file(figure, "--figure")
        written = draw(chosen, figure, images=images, column=column, trust=trust)
        console.print(str(written.resolve()), markup=False, soft_wrap=True)
        return
    check_writable(run, "RUN")
    with Bars() as bars:
        analyses = measure(
            chosen,
            thresholds=thresholds,
            device=device,
            background=background,
            heads=heads,
            trust=trust,
            progress=bars,
        )
    for one in analyses:
        if predictors:
            console.print(_of_predictors(one, predictors))
    console.print(_of_probes(analyses))
    for one in analyses:
        for name, ours in one.correlation.items():
            low, high = ours.interval
            text = f"{one.probe}: importance and {name.replace('_', ' ')}, Spearman {ours.rho:+.2f}"
            text += f" [{low:+.2f}, {high:+.2f}] over {ours.predictors} predictors"
            console.print(text, markup=False, soft_wrap=True)
        if (test := one.shortcut) is not None:
            text = f"{one.probe}: {_points(test.drop)} points lost with another background"
            text += f" ({test.background}; {test.images} images)"
            console.print(text, markup=False, soft_wrap=True)
        for note in one.notes:
            console.print(f"{one.probe}: {note}", markup=False, soft_wrap=True)
    files = write_analyses(run, analyses)
    for path in (*files, write_report(results, run / "report.html", trust=trust)):
        console.print(str(path.resolve()), markup=False, soft_wrap=True)


def _of_predictors(one: "Analysis", rows: int) -> "TerminalTable":
    from iceprobe.results.terminal import Column, TerminalTable

    columns = [
        Column("seed"),
        Column("predictor"),
        Column("importance"),
        Column("centroid in box"),
        Column("in box", goes=2),
        Column("in mask", goes=3),
        Column("entropy", goes=1),
    ]
    shown = [
        [
            str(each.seed),
            str(each.predictor),
            _points(each.importance),
            _percent(each.centroid_in_box),
            _percent(each.mass_in_box),
            _percent(each.mass_in_mask),
            f"{each.entropy.mean:.2f}",
        ]
        for each in one.predictors[:rows]
    ]
    return TerminalTable(columns, shown, f"{one.probe}: {len(shown)} of its predictors")


def _of_probes(analyses: "list[Analysis]") -> "TerminalTable":
    from iceprobe.results.tables import tenths
    from iceprobe.results.terminal import Column, TerminalTable

    columns = [
        Column("probe", numeric=False),
        Column("accuracy"),
        Column("centroid in box"),
        Column("in box", goes=5),
        Column("in mask", goes=6),
        Column("entropy", goes=3),
        Column("complementarity cos / ∩", goes=1),
        Column("MaxBoxAccV2", goes=4),
        Column("recall@1", goes=2),
    ]
    rows = []
    for one in analyses:
        both = [one.complementarity.get(name) for name in ("cosine", "intersection")]
        rows.append(
            [
                one.probe,
                _percent(one.accuracy),
                _beside(one, "centroid_in_box"),
                _beside(one, "mass_in_box"),
                _beside(one, "mass_in_mask"),
                f"{one.entropy.mean:.2f}",
                " / ".join(f"{each.mean:.2f}" if each else "–" for each in both),
                f"{tenths(one.max_box_accuracy['mean'])}%" if one.max_box_accuracy else "–",
                _percent(one.recall.get("1")),
            ]
        )
    return TerminalTable(columns, rows, "Where probes look, and what uniform attention scores")


def _percent(estimate: "Estimate | None") -> str:
    from iceprobe.results.tables import tenths

    return "–" if estimate is None else f"{tenths(estimate.mean)}%"


def _points(estimate: "Estimate | None") -> str:
    from iceprobe.results.tables import signed_points

    if estimate is None:
        return "–"
    low, high = map(signed_points, estimate.interval)
    return f"{signed_points(estimate.mean)} [{low}, {high}]"


def _beside(one: "Analysis", measure: str) -> str:
    """``"62.1% (28.0%)"``: the probe, and uniform attention."""
    from iceprobe.results.tables import tenths

    ours = getattr(one, measure)
    return "–" if ours is None else f"{_percent(ours)} ({tenths(one.uniform[measure])}%)"
