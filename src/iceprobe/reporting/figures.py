"""The page's charts, each with its heading."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iceprobe.reporting.charts import Spec
from iceprobe.reporting.confusion_view import ConfusionView
from iceprobe.reporting.cost_chart import scatter
from iceprobe.reporting.sweep_charts import rank_lines, sweep_lines
from iceprobe.reporting.training_charts import learning_curves, learning_rates
from iceprobe.results.curves import FILE_NAME as CURVES_FILE
from iceprobe.results.curves import CurveRow, read_curves
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import noun_of
from iceprobe.results.sweeps import Ranking, Sweep


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification and its heading."""

    key: str
    title: str
    remark: str
    spec: Spec


def cost_and_training(ordered: Sequence[FittedResult], palette: dict[str, str]) -> list[Chart]:
    tables: dict[Path | None, list[CurveRow]] = {None: []}
    for result in ordered:
        if result.run is not None and result.run not in tables:
            digest = result.files.digests.get(CURVES_FILE)
            tables[result.run] = read_curves(result.run, digest)
    curves = [tables[result.run] for result in ordered]
    noun = noun_of(ordered)
    noun = f"{noun[0].upper()}{noun[1:]}"
    front = "Bars: 95% intervals. Dashed: the Pareto front."
    chosen = "At the chosen setting: mean over seeds, band: their range; the dot is the epoch kept."
    epoch = "Best" if any(one.selected_on_reported for one in ordered) else "Last"
    grid = f"{epoch} epoch, mean over seeds; the large dot is the rate chosen."
    made = [
        ("parameters", f"{noun} against parameters", front,
         scatter(ordered, "parameters", palette)),
        ("flops", f"{noun} against FLOPs", front,
         scatter(ordered, "flops", palette)),
        ("accuracy", "Learning curves", chosen,
         learning_curves(ordered, curves, palette)),
        ("rates", "Learning rates tried", grid,
         learning_rates(ordered, curves, palette)),
    ]  # fmt: skip
    return [Chart(key, title, remark, spec) for key, title, remark, spec in made if spec]


def across_results(
    ranked: Sequence[Ranking],
    layers: Sequence[Sweep],
    draws: Sequence[Sweep],
    palette: dict[str, str],
) -> list[Chart]:
    """Charts across backbones, layers and numbers of training images."""
    made = [
        Chart(
            f"rank-{i}",
            one.title,
            "≈: not clearly different from the one a rank better (all pairs, Holm, 5%).",
            rank_lines(one),
        )
        for i, one in enumerate(ranked)
    ]
    for key, axis, log, sweeps in (
        ("layer", "Layer, from 0", False, layers),
        ("images", "Training images (log scale)", True, draws),
    ):
        for i, one in enumerate(sweeps):
            spec = sweep_lines(one, axis, palette, log=log)
            made.append(
                Chart(f"{key}-{i}", one.title, "Bars: one standard deviation either way.", spec)
            )
    return made


def matrices(confused: Sequence[ConfusionView]) -> list[Chart]:
    return [
        Chart(
            f"confusion-{i}",
            "Confusion matrix",
            "Percent of each true class; blue: right, red: wrong, each on its own scale.",
            view.chart,
        )
        for i, view in enumerate(confused)
        if view.chart is not None
    ]
