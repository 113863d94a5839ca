"""``iceprobe analyze``: where the probes of a run look, and which predictors matter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iceprobe.cli.arguments import named_result
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars, console
from iceprobe.cli.paths import check_file, check_writable
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.options import part_of
from iceprobe.settings import Analysis as AnalysisSettings
from iceprobe.settings import AnalyzeRun

if TYPE_CHECKING:
    from iceprobe.analysis import Analysis, Estimate
    from iceprobe.results.terminal import TerminalTable


@options(AnalyzeRun)
def analyze(
    given: Given,
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    trust: Trust = False,
) -> None:
    """Measure where each probe looks, and what each of its predictors is worth.

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

    config = resolve(AnalyzeRun, given)
    results = read_results(run)
    chosen = [named_result(results, one) for one in config.probe] if config.probe else results
    if config.figure is not None:
        from iceprobe import figure as draw

        check_file(config.figure, "--figure")
        written = draw(
            chosen, config.figure, images=config.images, column=config.column, trust=trust
        )
        console.print(str(written.resolve()), markup=False, soft_wrap=True)
        return
    check_writable(run, "RUN")
    with Bars() as bars:
        analyses = measure(chosen, part_of(config, AnalysisSettings), trust=trust, progress=bars)
    for one in analyses:
        if config.predictors:
            console.print(_of_predictors(one, config.predictors))
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
