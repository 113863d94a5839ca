"""The measures of all fits of a probe together: means over images with their intervals."""

from collections.abc import Sequence

import numpy as np

from iceprobe.analysis.association import Correlation, correlate, mean_intervals
from iceprobe.analysis.background import shortcut
from iceprobe.analysis.box_accuracy import DELTAS, max_box_accuracy
from iceprobe.analysis.measurements import Measurements, Values
from iceprobe.analysis.schema import HEADS, Analysis, Estimate, Predictor, Shortcut

LEAST_PREDICTORS = 32  # of a correlation over predictors
MEASURES = ("entropy", "centroid_in_box", "mass_in_box", "mass_in_mask")


def analysis_of(found: Measurements, draws: int, *, heads: bool = False) -> Analysis:
    """What all fits together say, or the heads."""
    notes: list[str] = []
    seeds = [] if heads else _seeds(found)
    rows = [(seed, j + 1) for seed in seeds or [0] for j in range(len(found.fits[0]["entropy"]))]
    stacked = {name: np.concatenate([fit[name] for fit in found.fits]) for name in found.fits[0]}
    each: dict[str, Sequence[Estimate]] = {
        name: _estimates(stacked[name], draws) for name in ("drops", *MEASURES) if name in stacked
    }
    nothing: Sequence[None] = [None] * len(rows)
    predictors = [
        Predictor(
            seed=seed,
            predictor=j,
            importance=each.get("drops", nothing)[row],
            entropy=each["entropy"][row],
            centroid_in_box=each.get("centroid_in_box", nothing)[row],
            mass_in_box=each.get("mass_in_box", nothing)[row],
            mass_in_mask=each.get("mass_in_mask", nothing)[row],
            prefix_share=float(stacked["prefix_share"][row].mean()),
        )
        for row, (seed, j) in enumerate(rows)
    ]
    if "drops" in each:
        predictors.sort(key=lambda one: one.importance.mean if one.importance else 0, reverse=True)
    elif not heads:
        notes.append("no importance: its descriptor isn't a function of what predictors pool alone")

    def known(name: str) -> Estimate:
        return _estimates(stacked[name].mean(0, keepdims=True), draws)[0]

    def overall(name: str) -> Estimate | None:
        return known(name) if name in stacked else None

    correlation, more = _correlation(stacked, draws)
    notes += more
    boxes = _max_box_accuracy(found)
    return Analysis(
        probe=HEADS if heads else found.result.label,
        store=found.store.identity,
        split=found.result.split,
        images=len(found.part),
        images_with_box=int(found.boxed.sum()),
        images_with_mask=int(found.masked.sum()),
        seeds=seeds,
        accuracy=overall("correct"),
        entropy=known("entropy"),
        centroid_in_box=overall("centroid_in_box"),
        mass_in_box=overall("mass_in_box"),
        mass_in_mask=overall("mass_in_mask"),
        prefix_share=float(stacked["prefix_share"].mean()),
        uniform={name: float(np.nanmean(values)) for name, values in found.uniform.items()},
        complementarity={k: known(k) for k in ("cosine", "intersection") if k in stacked},
        max_box_accuracy=boxes,
        recall={k[7:]: known(k) for k in stacked if k.startswith("recall ")},
        correlation=correlation,
        predictors=predictors,
        notes=[*notes, *_missing(found, boxes)],
    )


def shortcut_of(found: Measurements, draws: int) -> Shortcut | None:
    """What the exchange of backgrounds cost, where there was one."""
    if found.exchanged is None:
        return None
    others, replaced = found.exchanged
    correct = np.concatenate([fit["correct"] for fit in found.fits])[:, others.rows]
    drop = shortcut(correct, replaced)

    def mean(values: Values) -> Estimate:
        return _estimates(values.mean(0, keepdims=True), draws)[0]

    return Shortcut(
        background=others.name,
        images=len(others.rows),
        accuracy=mean(correct),
        replaced=mean(replaced),
        drop=Estimate(drop.mean, drop.interval),
    )


def _seeds(found: Measurements) -> list[int]:
    return found.result.seeds or list(range(len(found.fits)))


def _correlation(
    stacked: dict[str, Values], draws: int
) -> tuple[dict[str, Correlation], list[str]]:
    """Of importance with each measure, and why some are missing."""
    if "drops" not in stacked:
        return {}, []
    if (count := len(stacked["drops"])) < LEAST_PREDICTORS:
        return {}, [
            f"no correlation: {count} predictors, and it takes {LEAST_PREDICTORS} over all seeds"
        ]
    measures = {name: stacked[name] for name in MEASURES if name in stacked}
    found = correlate(stacked["drops"], measures, draws=draws)
    notes = [
        f"no correlation of importance with {name}: one of the two is the same everywhere"
        for name, one in found.items()
        if one is None
    ]
    return {name: one for name, one in found.items() if one is not None}, notes


def _max_box_accuracy(found: Measurements) -> dict[str, float]:
    if not found.hits:
        return {}
    best = np.mean([max_box_accuracy(hits) for hits in found.hits], 0)
    scores = {str(delta): float(one) for delta, one in zip(DELTAS, best, strict=True)}
    return scores | {"mean": float(best.mean())}


def _missing(found: Measurements, boxes: dict[str, float]) -> list[str]:
    notes = [] if boxes else ["no boxes: nothing is said of centroids, boxes and their mass"]
    if not found.masked.any():
        notes.append("no masks: nothing is said of mass in them")
    return notes


def _estimates(values: Values, draws: int) -> list[Estimate]:
    """Of each row of ``(M, n)``, over the images that are known."""
    known = values[:, ~np.isnan(values).any(0)]
    ends = mean_intervals(known, draws=draws)
    means = known.mean(1)
    return [
        Estimate(float(mean), (float(low), float(high)))
        for mean, (low, high) in zip(means, ends, strict=True)
    ]
