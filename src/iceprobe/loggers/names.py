"""What is logged of rows and results, under which names: the same for every tool."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iceprobe.core.text import csv_text, visible, without_credentials
from iceprobe.loggers.events import Event
from iceprobe.results.curves import CurveRow
from iceprobe.results.dense import Dense, best_first
from iceprobe.results.schema import Result
from iceprobe.results.tables import leaderboard, markdown_table, to_csv, to_markdown
from iceprobe.results.terminal import Column

COLUMNS = ("probe", "metric", "mean", "sd", "low", "high", "parameters", "flops", "seconds")


def curve_values(event: Event) -> dict[str, float]:
    """Loss and metric of each member after the epoch, by name; without those that aren't finite."""
    values: dict[str, float] = {}
    for row in event.payload:
        head = f"{visible(row.probe)}/{_setting(row)}/{event.of.replace('/', ' of ')}"
        values[f"{head} loss"] = row.train_loss
        if row.eval_accuracy is not None:
            values[f"{head} {event.metric}"] = row.eval_accuracy
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _setting(row: CurveRow) -> str:
    """``"lr 0.1 wd 0.001 seed 0"``; a probe that is solved for has no learning rate."""
    rate = f"lr {row.learning_rate:g} " if row.learning_rate else ""
    decay = f"wd {row.weight_decay:g} " if row.weight_decay or not row.learning_rate else ""
    return f"{rate}{decay}seed {row.seed}"


def score_values(results: Sequence[Result | Dense]) -> dict[str, float]:
    """Each metric of each result, and the ends of its interval, by name: ``results/ep8/top1 low``."""
    values = {}
    for result in results:
        for name, score in result.metrics.items():
            head = f"results/{visible(result.label)}/{name}"
            values[head] = score.mean
            if score.interval is not None:
                values[f"{head} low"], values[f"{head} high"] = score.interval
    return values


def score_rows(results: Sequence[Result | Dense]) -> list[list[Any]]:
    """The leaderboard, a row a probe and metric, in the order of :data:`COLUMNS`; None where there is none."""
    dense, fitted = _apart(results)
    ordered: list[Result | Dense] = [*leaderboard(fitted), *best_first(dense)]
    return [
        [
            visible(one.label), name, score.mean, score.sd, *(score.interval or (None, None)),
            one.parameters if isinstance(one, Dense) else one.parameters.total,
            one.flops.per_image, one.seconds,
        ]
        for one in ordered
        for name, score in one.metrics.items()
    ]  # fmt: skip


def csv(results: Sequence[Result | Dense]) -> str:
    """The leaderboard as CSV."""
    dense, fitted = _apart(results)
    return csv_text([COLUMNS, *_cells(dense)]) if dense else to_csv(fitted)


def markdown(results: Sequence[Result | Dense]) -> str:
    """The leaderboard as Markdown."""
    dense, fitted = _apart(results)
    if not dense:
        return to_markdown(fitted)
    columns = [Column(name, numeric=name not in ("probe", "metric")) for name in COLUMNS]
    return "\n".join(markdown_table(columns, _cells(dense))) + "\n"


def _apart(results: Sequence[Result | Dense]) -> tuple[list[Dense], list[Result]]:
    dense = [one for one in results if isinstance(one, Dense)]
    return dense, [one for one in results if isinstance(one, Result)]


def _cells(dense: Sequence[Dense]) -> list[list[str]]:
    return [
        ["" if one is None else one if isinstance(one, str) else f"{one:.6g}" for one in row]
        for row in score_rows(dense)
    ]


def run_name(run: Path, asked: str | None) -> str:
    """The name of a run in its tool: that of its folder, or the one asked for; a campaign's cell adds its own."""
    if run.parent.name == "cells":
        return f"{asked or run.parent.parent.name}--{run.name}"
    return asked or run.name


def reason(error: BaseException) -> str:
    """An error of a library in one line, without names and passwords of addresses."""
    text = " ".join(str(error).split()) or type(error).__name__
    return without_credentials(visible(text))[:300]
