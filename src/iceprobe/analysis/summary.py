"""The measures of all fits of a probe together: means over images with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.analysis.association import Correlation, correlate, mean_intervals
from iceprobe.analysis.bags import lengths_of
from iceprobe.analysis.box_accuracy import DELTAS, max_box_accuracy
from iceprobe.analysis.evidence import has_evidence
from iceprobe.analysis.measurements import EVIDENCE, Measurements
from iceprobe.analysis.schema import HEADS, Analysis, Estimate, Evidence, Predictor, Shortcut
from iceprobe.analysis.scoring import Values
from iceprobe.core.text import counted
from iceprobe.results.enough import FEW, UNTRUSTED, caveat
from iceprobe.results.intervals import difference_of
from iceprobe.results.units import number_of
from iceprobe.store.examples import example_noun, without_grid
from iceprobe.tasks.metrics import Metric, mean_over_strata
from iceprobe.tasks.records import Arrays, Record, joined

LEAST_PREDICTORS = 32  # of a correlation over predictors
MEASURES = ("entropy", "centroid_in_box", "mass_in_box", "mass_in_mask")
CONCENTRATION = ("effective_tokens", "top_percent", "top_10")  # of tokens on no grid
SCORES = ("score", "drops")  # of the leading metric: means over its strata


@dataclass(frozen=True)
class _Images:
    """The images that means are over, and how others are drawn for their intervals.

    Attributes:
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        metric: that leads.
        targets: ``(n, …)``.
    """

    draws: int
    groups: NDArray | None
    metric: Metric
    targets: NDArray

    @property
    def strata(self) -> NDArray | None:
        return self.metric.strata_of(self.targets)

    def mean(self, values: Values, name: str = "") -> Estimate:
        """Of the mean row of ``(M, n)``."""
        return self.means(values.mean(0, keepdims=True), name)[0]

    def means(self, values: Values, name: str = "") -> list[Estimate]:
        """Of each row of ``(M, n)``, of the measure called ``name``, over the images that are known."""
        known = ~np.isnan(values).any(0)
        groups, strata = (
            None if one is None else one[known]
            for one in (self.groups, self.strata if name in SCORES else None)
        )
        ends = mean_intervals(values[:, known], groups=groups, strata=strata, draws=self.draws)
        if name == "score":  # linearised values may leave the range
            least, most = self.metric.range
            ends = ends.clip(-np.inf if least is None else least, np.inf if most is None else most)
        means = mean_over_strata(values[:, known], strata)
        return [
            Estimate(float(mean), (float(low), float(high)))
            for mean, (low, high) in zip(means, ends, strict=True)
        ]


def analysis_of(
    found: Measurements, draws: int, *, heads: bool = False, notes: Sequence[str] = ()
) -> Analysis:
    """What all fits together say, or the heads; ``notes`` stand behind its own."""
    seeds = [] if heads else found.result.seeds or list(range(len(found.fits)))
    rows = [(seed, j + 1) for seed in seeds or [0] for j in range(len(found.fits[0]["entropy"]))]
    stacked = {name: np.concatenate([fit[name] for fit in found.fits]) for name in found.fits[0]}
    over = _Images(draws, found.groups, found.scoring.metric, found.scoring.targets)
    each = {
        name: over.means(stacked[name], name) for name in ("drops", *MEASURES) if name in stacked
    }

    def of(name: str, row: int) -> Any:
        return each[name][row] if name in each else None

    predictors = [
        Predictor(
            seed=seed,
            predictor=j,
            importance=of("drops", row),
            **{name: of(name, row) for name in MEASURES},
            prefix_share=float(stacked["prefix_share"][row].mean()),
        )
        for row, (seed, j) in enumerate(rows)
    ]
    missing: list[str] = []
    if "drops" in each:
        predictors.sort(key=lambda one: one.importance.mean if one.importance else 0, reverse=True)
    elif not heads:
        missing.append(
            "no importance: its descriptor isn't a function of what predictors pool alone"
        )
    means: dict[str, Any] = {
        name: over.mean(values, name)
        for name, values in stacked.items()
        if name not in ("drops", "prefix_share")
    }
    measured: dict[str, Any] = {name: means.get(name) for name in MEASURES}
    correlation, more = _correlation(stacked, over)
    boxes = _max_box_accuracy(found.hits)
    return Analysis(
        probe=HEADS if heads else found.result.label,
        store=found.store.identity,
        split=found.result.split,
        images=len(found.part),
        images_with_box=int(found.boxed.sum()),
        images_with_mask=int(found.masked.sum()),
        seeds=seeds,
        accuracy=means.get("correct"),
        metric=found.result.primary,
        score=means.get("score"),
        evidence=_evidence(found, stacked, over),
        **measured,
        prefix_share=float(stacked["prefix_share"].mean()),
        uniform={name: float(np.nanmean(values)) for name, values in found.uniform.items()},
        complementarity={k: means[k] for k in ("cosine", "intersection") if k in means},
        max_box_accuracy=boxes,
        recall={k[7:]: means[k] for k in means if k.startswith("recall ")},
        correlation=correlation,
        predictors=predictors,
        notes=[*missing, *more, *_missing(found, boxes, heads), *notes],
        groups=None if found.groups is None else number_of(found.groups, len(found.part)),
        caveat=_caveat(found, heads),
        concentration={name: means[name] for name in CONCENTRATION if name in means},
        example=example_noun(found.store.manifest),
    )


def shortcut_of(found: Measurements, draws: int) -> Shortcut | None:
    """What the exchange of backgrounds cost, where there was one."""
    if found.exchanged is None:
        return None
    others, exchanged = found.exchanged
    rows, metric, targets = others.rows, found.scoring.metric, found.scoring.targets[others.rows]
    groups = None if found.groups is None else found.groups[rows]
    before, after = (_of_fits(of_fits) for of_fits in (found.records, exchanged))
    before = {name: tensor[:, rows] for name, tensor in before.items()}
    drop = difference_of(metric, Arrays(before), Arrays(after), targets, groups, replicates=True)
    drop = drop if metric.higher_is_better else -drop
    over = _Images(draws, groups, metric, targets)
    score, replaced = (
        over.mean(np.asarray(metric.needed_scores(Arrays(one), targets), np.float64), "score")
        for one in (before, after)
    )
    return Shortcut(
        background=others.name,
        images=len(rows),
        accuracy=score if metric.accuracy else None,
        replaced=replaced,
        drop=Estimate(drop.mean, drop.interval),
        score=score,
    )


def _of_fits(parts: list[list[Record]]) -> Record:
    """The record of all fits, a row each, from the parts of each."""
    each = [joined(of_fit) for of_fit in parts]
    return {name: torch.cat([one[name] for one in each]) for name in each[0]}


def _caveat(found: Measurements, heads: bool) -> str | None:
    """Which intervals can't be trusted and why, in words; None where there is no reason."""
    metric, targets = found.scoring.metric, found.scoring.targets
    if (said := caveat(metric, targets, found.groups)) is None:
        return None
    reason = said.removeprefix(f"{UNTRUSTED}: ")
    if number_of(found.groups, len(targets)) < FEW:
        return f"no interval can be trusted: {reason}"
    return (
        None if heads else f"intervals of {metric.title} and importance can't be trusted: {reason}"
    )


def _evidence(found: Measurements, stacked: dict[str, Values], over: _Images) -> Evidence | None:
    names = [name for name in MEASURES if EVIDENCE + name in stacked]
    if not names:
        return None
    ours = {name: stacked[EVIDENCE + name].mean(0, keepdims=True) for name in names}
    each = {name: over.mean(ours[name]) for name in names}
    return Evidence(
        centroid_in_box=each.get("centroid_in_box"),
        mass_in_box=each.get("mass_in_box"),
        mass_in_mask=each.get("mass_in_mask"),
        max_box_accuracy=_max_box_accuracy(found.evidence_hits),
        above_attention={
            name: over.mean(ours[name] - stacked[name].mean(0, keepdims=True)) for name in names
        },
    )


def _correlation(
    stacked: dict[str, Values], over: _Images
) -> tuple[dict[str, Correlation], list[str]]:
    """Of importance with each measure, and why some are missing."""
    if "drops" not in stacked:
        return {}, []
    if (count := len(stacked["drops"])) < LEAST_PREDICTORS:
        return {}, [
            f"no correlation: {count} predictors, and it takes {LEAST_PREDICTORS} over all seeds"
        ]
    measures = {name: stacked[name] for name in MEASURES if name in stacked}
    found = correlate(
        stacked["drops"], measures, groups=over.groups, strata=over.strata, draws=over.draws
    )
    notes = [
        f"no correlation of importance with {name}: one of the two is the same everywhere"
        for name, one in found.items()
        if one is None
    ]
    return {name: one for name, one in found.items() if one is not None}, notes


def _max_box_accuracy(of_fits: list[NDArray[np.bool_]]) -> dict[str, float]:
    if not of_fits:
        return {}
    best = np.mean([max_box_accuracy(hits) for hits in of_fits], 0)
    scores = {str(delta): float(one) for delta, one in zip(DELTAS, best, strict=True)}
    return scores | {"mean": float(best.mean())}


def _missing(found: Measurements, boxes: dict[str, float], heads: bool) -> list[str]:
    outputs, example = found.scoring.task.outputs, example_noun(found.store.manifest)
    if without_grid(found.store.manifest):
        notes = [
            f"no grid: tokens of {example}s lie on none, so nothing is said of boxes, masks and MaxBoxAccV2"
        ]
        if alone := int((lengths_of(found.part) < 2).sum()):
            notes.append(f"the entropy leaves out {counted(alone, example)} of one token")
    else:
        notes = [] if boxes else ["no boxes: nothing is said of centroids, boxes and their mass"]
        if not found.masked.any():
            notes.append("no masks: nothing is said of mass in them")
    if found.labels.ndim > 1 and not heads:
        notes.append(f"no retrieval: it asks for {example}s of one class, and these have {outputs}")
    if not heads and (boxes or found.masked.any()) and not has_evidence(found.probes[0]):
        notes.append(f"no evidence: {found.probes[0].pooling.entangled}")
    return notes
