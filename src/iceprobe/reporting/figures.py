"""The page's charts, each with its heading."""

from collections.abc import Sequence
from pathlib import Path

from iceprobe.reporting.charts import Chart
from iceprobe.reporting.confusion_view import ConfusionView
from iceprobe.reporting.cost_chart import scatter
from iceprobe.reporting.sweep_charts import rank_lines, sweep_lines
from iceprobe.reporting.training_charts import learning_curves, learning_rates
from iceprobe.results.curves import FILE_NAME as CURVES_FILE
from iceprobe.results.curves import CurveRow, read_curves
from iceprobe.results.examples import examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import capital, noun_of
from iceprobe.results.sweeps import Ranking, Sweep

MOST = 24  # results whose training is drawn; more lines can't be told apart


def cost_and_training(ordered: Sequence[FittedResult], palette: dict[str, str]) -> list[Chart]:
    tables: dict[Path | None, list[CurveRow]] = {None: []}
    for result in ordered:
        if result.run is not None and result.run not in tables:
            digest = result.files.digests.get(CURVES_FILE)
            tables[result.run] = read_curves(result.run, digest)
    drawn = ordered[:MOST]
    curves = [tables[result.run] for result in drawn]
    best = f" The best {MOST} of {len(ordered)}." if len(ordered) > MOST else ""
    noun = capital(noun_of(ordered))
    front = "Bars: 95% intervals. Dashed: the Pareto front."
    chosen = "At the chosen setting: mean over seeds, band: their range; the dot is the epoch kept."
    epoch = "Best" if any(one.selected_on_reported for one in ordered) else "Last"
    grid = f"{epoch} epoch, mean over seeds; the large dot is the rate chosen."
    cost, flops = (scatter(ordered, name, palette) for name in ("parameters", "flops"))
    made = [
        ("parameters", f"{noun} against parameters", front, cost),
        ("flops", f"{noun} against FLOPs", front, flops),
        ("accuracy", "Learning curves", chosen + best, learning_curves(drawn, curves, palette)),
        ("rates", "Learning rates tried", grid + best, learning_rates(drawn, curves, palette)),
    ]
    return [Chart(key, title, remark, spec) for key, title, remark, spec in made if spec]


def across_results(
    ranked: Sequence[Ranking],
    layers: Sequence[Sweep],
    draws: Sequence[Sweep],
    palette: dict[str, str],
) -> list[Chart]:
    """Charts across backbones, layers and numbers of training images."""
    tied = "≈: not clearly different from the one a rank better (all pairs, Holm, 5%)."
    made = [Chart(f"rank-{i}", one.title, tied, rank_lines(one)) for i, one in enumerate(ranked)]
    bars = "Bars: one standard deviation either way."
    axes = ("layer", "Layer, from 0", layers), ("images", "Training {examples} (log scale)", draws)
    for key, axis, sweeps in axes:
        for i, one in enumerate(sweeps):
            drawn = [result for line in one.lines.values() for _, result in line]
            title = axis.format(examples=examples_of(*drawn))
            spec = sweep_lines(one, title, palette, log=key == "images")
            made.append(Chart(f"{key}-{i}", one.title, bars, spec))
    return made


def matrices(confused: Sequence[ConfusionView]) -> list[Chart]:
    scales = "Percent of each true class; blue: right, red: wrong, each on its own scale."
    return [
        Chart(f"confusion-{i}", "Confusion matrix", scales, view.chart)
        for i, view in enumerate(confused)
        if view.chart is not None
    ]
