"""``iceprobe analyze``: where the probes of a run look, and which predictors matter."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import iceprobe
from iceprobe.cli.arguments import named_result
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars, at_work, console, note, say, table_of
from iceprobe.cli.paths import check_file, check_writable
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.results import read_results
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.settings import Analysis as AnalysisSettings
from iceprobe.settings import AnalyzeRun

if TYPE_CHECKING:
    from iceprobe.analysis import Analysis, Estimate, Evidence, Predictor
    from iceprobe.tasks.metrics import Metric


@options(AnalyzeRun)
def analyze(
    given: Given,
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    trust: Trust = False,
) -> None:
    """Measure where each probe looks, and what each of its predictors is worth.

    Entropy, attention on boxes and masks beside what uniform attention scores, importance of
    every predictor, complementarity, MaxBoxAccV2 and retrieval go to analysis.json and
    analysis.csv in the run, with 95% intervals over images, and into its report.html. Of bags
    and recordings whose tokens lie on no grid, it is how few tokens have the attention; --attention
    FOLDER writes the weights of each back to its tokens' coordinates.

    \b
    Examples:
      iceprobe analyze runs/demo
      iceprobe analyze runs/demo --probe ep32 --probe aim12 --predictors 32
      iceprobe analyze runs/demo --background --heads
      iceprobe analyze runs/slides --attention heatmaps
      iceprobe analyze runs/demo --figure maps.pdf --probe ep12 --probe aim12 --images 4
      iceprobe analyze runs/demo --figure why.pdf --probe ep12 --evidence true
    """
    from iceprobe.analysis.files import write_analyses

    config = resolve(AnalyzeRun, given)
    results = read_results(run)
    chosen = [named_result(results, one) for one in config.probe] if config.probe else results
    if config.figure is not None:
        check_file(config.figure, "--figure")
        with at_work("figure"):
            written = iceprobe.figure(
                chosen,
                config.figure,
                images=config.images,
                column=config.column,
                evidence=config.evidence,
                trust=trust,
            )
        say(written.resolve())
        return
    if config.evidence is not None:
        raise IceprobeError(
            "--evidence is of a figure: add --figure evidence.pdf (the report shows evidence by itself)"
        )
    check_writable(run, "RUN")
    settings = part_of(config, AnalysisSettings)
    with Bars() as bars:
        analyses = iceprobe.analyze(chosen, settings, trust=trust, progress=bars)
    metric = chosen[0].metric
    for one in analyses:
        if config.predictors:
            console.print(_of_predictors(one, config.predictors, metric))
    console.print(_of_probes(analyses, metric))
    for one in analyses:
        for name, ours in one.correlation.items():
            low, high = ours.interval
            note(
                f"{one.probe}: importance and {name.replace('_', ' ')}, Spearman {ours.rho:+.2f} "
                f"[{low:+.2f}, {high:+.2f}] over {ours.predictors} predictors"
            )
        if (test := one.shortcut) is not None:
            what = "points" if metric.accuracy else metric.title
            note(
                f"{one.probe}: {_points(test.drop, metric)} {what} lost with another background "
                f"({test.background}; {test.images} images)"
            )
        if one.evidence is not None:
            note(f"{one.probe}: {_evident(one.evidence)}")
        for line in [*one.notes, *filter(None, [one.caveat])]:
            note(f"{one.probe}: {line}")
    if config.attention is not None:
        say(config.attention.expanduser().resolve())
    files = write_analyses(run, analyses)
    with at_work("report"):
        page = iceprobe.report(results, run / "report.html", trust=trust)
    for path in (*files, page):
        say(path.resolve())


def _of_predictors(one: "Analysis", rows: int, metric: "Metric") -> TerminalTable:
    shown = one.predictors[:rows]
    places: list[tuple[Column, Callable[[Predictor], str]]] = [
        (Column("centroid in box"), lambda each: _percent(each.centroid_in_box)),
        (Column("in box", goes=2), lambda each: _percent(each.mass_in_box)),
        (Column("in mask", goes=3), lambda each: _percent(each.mass_in_mask)),
    ]
    return table_of(
        shown,
        [
            (Column("seed"), lambda each: str(each.seed)),
            (Column("predictor"), lambda each: str(each.predictor)),
            (Column("importance"), lambda each: _points(each.importance, metric)),
            *([] if one.concentration else places),
            (Column("entropy", goes=1), lambda each: f"{each.entropy.mean:.2f}"),
        ],
        f"{one.probe}: {len(shown)} of its predictors",
        made_of=[],  # they are in the entry of their probe
        name="analyses",
    )


def _of_probes(analyses: "list[Analysis]", metric: "Metric | None" = None) -> TerminalTable:
    name = "accuracy" if metric is None or metric.accuracy else metric.title
    columns = [
        (Column("probe", numeric=False), lambda one: one.probe),
        (Column(name), lambda one: _figure(one.score or one.accuracy, metric)),
        *(_OF_BAGS if any(one.concentration for one in analyses) else _OF_IMAGES),
    ]
    if any(one.evidence for one in analyses):
        columns.append((Column("evidence in box / mask", goes=3), _evidence))
    if any(one.recall for one in analyses):
        columns.append((Column("recall@1", goes=2), lambda one: _percent(one.recall.get("1"))))
    title = "Where probes look, and what uniform attention scores"
    return table_of(analyses, columns, title, "analyses")


def _evident(found: "Evidence") -> str:
    name = "mass_in_mask" if found.mass_in_mask else "mass_in_box"
    return (
        f"{_percent(getattr(found, name))} of the evidence for what is true is in the {name[8:]}, "
        f"{_points(found.above_attention[name])} points more than of its attention"
    )


def _evidence(one: "Analysis") -> str:
    if (found := one.evidence) is None:
        return "–"
    return f"{_percent(found.mass_in_box)} / {_percent(found.mass_in_mask)}"


def _complementarity(one: "Analysis") -> str:
    both = [one.complementarity.get(name) for name in ("cosine", "intersection")]
    return " / ".join(f"{each.mean:.2f}" if each else "–" for each in both)


def _percent(value: "Estimate | float | None") -> str:
    from iceprobe.results.tables import tenths

    if value is None:
        return "–"
    return f"{tenths(value if isinstance(value, float) else value.mean)}%"


def _figure(estimate: "Estimate | None", metric: "Metric | None") -> str:
    from iceprobe.results.tables import figure

    unit = "%" if metric is None else metric.unit
    return "–" if estimate is None else figure(estimate.mean, metric) + unit


def _points(estimate: "Estimate | None", metric: "Metric | None" = None) -> str:
    from iceprobe.results.tables import figure

    if estimate is None:
        return "–"
    mean, low, high = (
        figure(one, metric, signed=True) for one in (estimate.mean, *estimate.interval)
    )
    return f"{mean} [{low}, {high}]"


def _beside(one: "Analysis", measure: str) -> str:
    """``"62.1% (28.0%)"``: the probe, and uniform attention."""
    ours = one.concentration.get(measure) or getattr(one, measure, None)
    return "–" if ours is None else f"{_percent(ours)} ({_percent(one.uniform[measure])})"


def _tokens(one: "Analysis") -> str:
    """``"12.4 (830)"``: effective tokens of the probe, and of uniform attention."""
    if (ours := one.concentration.get("effective_tokens")) is None:
        return "–"
    return f"{ours.mean:,.1f} ({one.uniform['effective_tokens']:,.0f})"


_OF_IMAGES: list[tuple[Column, Callable[["Analysis"], str]]] = [
    (Column("centroid in box"), lambda one: _beside(one, "centroid_in_box")),
    (Column("in box", goes=6), lambda one: _beside(one, "mass_in_box")),
    (Column("in mask", goes=7), lambda one: _beside(one, "mass_in_mask")),
    (Column("entropy", goes=4), lambda one: f"{one.entropy.mean:.2f}"),
    (Column("complementarity cos / ∩", goes=1), _complementarity),
    (Column("MaxBoxAccV2", goes=5), lambda one: _percent(one.max_box_accuracy.get("mean"))),
]
_OF_BAGS: list[tuple[Column, Callable[["Analysis"], str]]] = [
    (Column("effective tokens", goes=4), _tokens),
    (Column("on top 1%", goes=5), lambda one: _beside(one, "top_percent")),
    (Column("on top 10", goes=6), lambda one: _beside(one, "top_10")),
    (Column("entropy", goes=3), lambda one: f"{one.entropy.mean:.2f}"),
    (Column("complementarity cos / ∩", goes=1), _complementarity),
]
