"""Complete repetitions of a fit → one result whose deviation is over everything random."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from iceprobe.results.building import scores_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import EarlyStopping, Result, Score, SelectedScore


def merged(results: Sequence[FittedResult]) -> FittedResult:
    """One result of one probe's replicates, with one value a replicate.

    Replicate r has the seed r; one whose member has diverged is left out. Selected settings that differ
    between replicates are listed: ``"0.01, 0.03"``. Parameters, FLOPs and provenance are the first's.
    """
    first = results[0]
    parts = [result.predictions() for result in results]
    predictions = Predictions.joined([part for part in parts if part is not None])
    last = [result.last_epoch for result in results if result.last_epoch is not None]
    return first.replaced(
        predictions=predictions,
        probes=[probe for one in results for probe in one.probes or []],
        metrics=scores_of(predictions, first.task, first.metrics),
        last_epoch=Score.of([v for score in last for v in score.values]) if last else None,
        folds=_folds(results),
        seeds=[s for result in results for s in result.seeds] or list(range(len(results))),
        variance="replicates",
        **common_fields(results, "replicates"),
    )


def common_fields(results: Sequence[FittedResult], what: str) -> dict[str, Any]:
    """The fields that are put together alike of replicates and of folds; ``what`` says which."""
    spreads = [r.best_minus_median for r in results if r.best_minus_median is not None]
    return {
        "selected": {key: _side_by_side(key, results) for key in results[0].selected},
        "best_minus_median": float(np.mean(spreads)) if spreads else None,
        "seconds": sum(result.seconds for result in results),
        "early_stopping": _stopped_in_any(results),
        "undertrained": _undertrained(results),
        "warnings": _warnings(results, what),
        "selected_score": _held_out(results),
    }


def _folds(results: Sequence[Result]) -> Score | None:
    """Each fold's mean over replicates."""
    known = [one.folds.values for one in results if one.folds is not None]
    return Score.of(np.mean(known, 0).tolist()) if known else None


def _stopped_in_any(results: Sequence[Result]) -> EarlyStopping | None:
    """What stopped early; the seed of each says in which replicate."""
    known = [result.early_stopping for result in results if result.early_stopping is not None]
    stopped = [one for early in known for one in early.stopped]
    return known[0].model_copy(update={"stopped": stopped}) if known else None


def _undertrained(results: Sequence[Result]) -> list[str]:
    """The signs of the first of them where more than half show some."""
    found = [result.undertrained for result in results if result.undertrained]
    return found[0] if 2 * len(found) > len(results) else []


def _warnings(results: Sequence[Result], what: str) -> list[str]:
    """Warnings of any of them, and of how many; those that differ only in numbers are one.

    Undertraining is a warning where too few are undertrained to take the probe out of comparisons.
    """
    found: dict[str, list[str]] = {}
    left_out = bool(_undertrained(results))
    for result in results:
        signs = [] if left_out else result.undertrained
        said = [f"undertrained: {', '.join(signs)}"] if signs else []
        for warning in [*said, *result.warnings]:
            found.setdefault(re.sub(r"\d[\d.,e+-]*", "#", warning), []).append(warning)
    warnings = []
    for same in found.values():
        of = "" if len(same) == len(results) else f"in {len(same)} of {len(results)} {what}"
        if len(set(same)) > 1:
            of = f"{of or f'in all {len(same)} {what}'}, numbers of the first"
        warnings.append(f"{of}: {same[0]}" if of else same[0])
    return warnings


def _held_out(results: Sequence[Result]) -> SelectedScore | None:
    """The mean of the held-out scores, with the standard error of the first."""
    found = [result.selected_score for result in results if result.selected_score is not None]
    if not found:
        return None
    return found[0].model_copy(update={"mean": float(np.mean([one.mean for one in found]))})


def _side_by_side(key: str, results: Sequence[Result]) -> Any:
    values = [result.selected[key] for result in results]
    return values[0] if len(set(values)) == 1 else ", ".join(f"{value}" for value in values)
