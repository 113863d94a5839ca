"""All measures of all attentive probes of a run, over the reported images of its store.

Tokens are read once a probe, a batch at a time; what stays in memory are a few numbers for each
predictor and image, and the descriptors for retrieval.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.analysis.association import DRAWS, Correlation, correlate, mean_intervals
from iceprobe.analysis.background import OtherBackgrounds, shortcut
from iceprobe.analysis.box_accuracy import DELTAS, box_hits, max_box_accuracy
from iceprobe.analysis.complementarity import (
    cosine_complementarity,
    intersection_complementarity,
)
from iceprobe.analysis.concentration import entropy
from iceprobe.analysis.files import write_analyses
from iceprobe.analysis.importance import has_importance, replaced_logits
from iceprobe.analysis.localisation import box_shares, centroid_in_box, mask_shares, mass
from iceprobe.analysis.maps import patch_maps
from iceprobe.analysis.retrieval import recall_at
from iceprobe.analysis.schema import HEADS, Analysis, Estimate, Predictor, Shortcut
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.fitted import load_fitted
from iceprobe.fitting.members import Shape
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.results.fitted import FittedResult
from iceprobe.results.stores import store_of
from iceprobe.store import Store
from iceprobe.store.pipeline import autocast
from iceprobe.store.recorded import recorded_backbone
from iceprobe.store.request import choose_device
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe

LEAST_PREDICTORS = 32  # that a correlation over predictors is told of
RECALL_AT = (1, 5, 10)
MEASURES = ("entropy", "centroid_in_box", "mass_in_box", "mass_in_mask")

Values = NDArray[np.float64]


@checked
@shows_progress
def analyze(
    results: Sequence[FittedResult],
    *,
    output: str | Path | None = None,
    thresholds: int = 100,
    draws: int = DRAWS,
    batch_size: int = 64,
    device: str | None = None,
    background: bool = False,
    heads: bool = False,
    trust: bool = False,
    progress: ProgressCallback | bool | None = None,
) -> list[Analysis]:
    """Measure where every probe with attention looks.

    Args:
        results: of a run, with its fitted probes and its store of patch tokens.
        output: a folder for ``analysis.json`` and ``analysis.csv``; nothing is written without.
        thresholds: of MaxBoxAccV2, at even distances in [0, 1).
        draws: of the bootstrap over images.
        batch_size: images at a time.
        device: ``"cpu"``, ``"cuda"``; by default CUDA where there is one.
        background: whether to test what each probe loses when everything outside the objects'
            boxes is exchanged (see `OtherBackgrounds`); needs the backbone and the images.
        heads: whether to add the backbone's own attention (`Backbone.attention`), an entry `HEADS`
            a store; needs the same.
        trust: whether code may run, and other hosts be asked, that the results' files name.
        progress: called with ``(probe, images done, images)``; by default a bar
            in a terminal or a notebook, and ``False`` shows nothing.

    Returns:
        One entry a probe with attention, in the order of the results.

    Raises:
        IceprobeError: if no probe has attention, tokens or fitted weights are missing, an option
            is wrong; with ``background`` or ``heads`` also if the backbone has changed or can't be
            loaded, or lacks such attention, or the data set has no boxes.
    """
    for name, number in (("thresholds", thresholds), ("draws", draws), ("batch_size", batch_size)):
        if number < 1:
            raise IceprobeError(f"{name}={number}: give a number of at least 1")
    where = choose_device(device)
    stores: dict[str, Store] = {}
    walks: list[_Walk] = []
    for result in results:
        if result.method == "knn" or result.adaptation is not None:
            continue
        store = _opened(result, stores, trust)
        fits = _fits(result, store)
        if not fits[0].pooling.num_predictors:
            continue
        if store.grid is None or not store.has_patches:
            raise IceprobeError(
                f"store {store.path} of {result.label!r} has no patch tokens on a grid, so there "
                "are no maps: extract with patches, from a backbone that has some"
            )
        steps = [t / thresholds for t in range(thresholds)]
        walks.append(_Walk(result, store, where, batch_size, steps, fits))
    groups = _by_store(walks) if background or heads else []
    # What a backbone or a data set hasn't is said before the first pass, not after it.
    backbones = [
        recorded_backbone(store.manifest.backbone, store.path, trust=trust).to(where)
        for store in (group[0].store for group in groups)
    ]
    others = [
        OtherBackgrounds(g[0].store, g[0].result.split, backbone)
        for g, backbone in zip(groups, backbones, strict=True)
        if background
    ]
    told = callback(progress)
    for walk in walks:
        for number, fit in enumerate(walk.probes):
            count = None if told is None else _counted(told, walk.result, number, walk.probes)
            walk.over(fit, count)
    found = [walk.analysis(draws) for walk in walks]
    if background:
        for group, exchanged in zip(groups, others, strict=True):
            _exchange(group, exchanged, told)
            for walk in group:
                place = walks.index(walk)
                found[place] = replace(found[place], shortcut=walk.shortcut(draws))
    if heads:
        for (first, *_), backbone in zip(groups, backbones, strict=True):
            walk = _Walk(first.result, first.store, where, batch_size, first.thresholds)
            walk.over(backbone, None if told is None else partial(told, HEADS))
            found.append(walk.analysis(draws, heads=True))
    if not found:
        probes = ", ".join(result.label for result in results) or "nothing"
        raise IceprobeError(
            f"no probe on a frozen backbone with attention among {probes}: run one that has, such "
            "as --probe ep12"
        )
    if output is not None:
        write_analyses(output, found)
    return found


class _Walk:
    """The images of a split, and what each fit of one probe does on them, ``(M, n)`` a measure."""

    def __init__(
        self,
        result: FittedResult,
        store: Store,
        device: torch.device,
        batch: int,
        thresholds: Sequence[float],
        probes: Sequence["Probe"] = (),
    ):
        self.result, self.store, self.device, self.batch = result, store, device, batch
        self.part = store[result.split]
        self.size = Preprocessing.from_dict(store.manifest.backbone.preprocessing).image_size
        self.thresholds = tuple(thresholds)
        self.grid: tuple[int, int] = store.grid or (0, 0)
        self.labels = torch.from_numpy(np.asarray(self.part.labels))
        boxes = self.part.boxes
        n = len(self.part)
        self.boxes = torch.from_numpy(np.zeros((n, 4), np.float32) if boxes is None else boxes)
        self.boxed = ((self.boxes[:, 2:] - self.boxes[:, :2]) > 0).all(1).numpy()
        self.masked = np.zeros(n, bool)
        self.fits: list[dict[str, Values]] = []
        self.hits: list[NDArray[np.bool_]] = []
        self.notes: list[str] = []
        self.uniform: dict[str, Values] = {}
        self.probes = probes
        self.exchanged: tuple[OtherBackgrounds, Values] | None = None

    def over(self, source: "Probe | Backbone", progress: Callable[[int, int], None] | None) -> None:
        """Add a fit, or the heads of the backbone: one pass over the images."""
        home = next(source.parameters()).device
        source.to(self.device)
        columns: dict[str, list[Values]] = {}
        uniform: dict[str, list[Values]] = {}
        hits, descriptors = [], []
        n = len(self.part)
        for start in range(0, n, self.batch):
            rows = np.arange(start, min(start + self.batch, n))
            tokens = self._tokens(rows)
            if isinstance(source, Backbone):
                maps, share = self._heads(source, rows)
            else:
                maps, share = patch_maps(source, tokens)
                for name, values in self._answered(source, tokens, rows).items():
                    columns.setdefault(name, []).append(values)
                with torch.no_grad():
                    descriptors.append(source.pooling(source.select(tokens)).float())
            flat = torch.full_like(maps[:, :1], 1 / maps.shape[-1])
            for name, values in self._measured(maps, rows).items():
                columns.setdefault(name, []).append(values.T)
            for name, values in self._localised(flat, rows).items():
                uniform.setdefault(name, []).append(values.T)
            columns.setdefault("prefix_share", []).append(share.double().cpu().numpy().T)
            if (inside := self.boxed[rows]).any():
                mean = maps.mean(1).unflatten(1, self.grid)[torch.from_numpy(inside)]
                boxes = self.boxes[rows][torch.from_numpy(inside)]
                hits.append(box_hits(mean, boxes, self.size, thresholds=self.thresholds))
            if progress is not None:
                progress(int(rows[-1]) + 1, n)
        fit = _joined(columns)
        if descriptors:
            fit |= self._recalled(torch.cat(descriptors))
        self.uniform = _joined(uniform)
        self.fits.append(fit)
        if hits:
            self.hits.append(np.concatenate(hits))
        source.to(home)

    def _heads(
        self, backbone: Backbone, rows: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :func:`patch_maps` gives them, of the backbone's own heads."""
        pictures = self.store.images(self.result.split, rows)
        images = torch.stack([backbone.preprocessing.normalised(one) for one in pictures])
        with autocast(self.device, self.store.manifest.settings.amp):
            weights = backbone.attention(images.to(self.device))
        on_patches = weights.sum(-1)
        return weights / on_patches[..., None], 1 - on_patches

    def _tokens(self, rows: NDArray[np.int64]) -> Tokens:
        picked, store = torch.from_numpy(rows), self.store
        return Tokens(
            patches=self.part.patches(picked, self.device, torch.float32),
            prefix=self.part.prefix[picked].to(self.device).float(),
            grid=self.grid,
            has_class=store.has_class,
            vectors={
                name: self.part.vector(name)[picked].to(self.device) for name in store.vectors
            },
        )

    def _localised(self, maps: torch.Tensor, rows: NDArray[np.int64]) -> dict[str, Values]:
        """``(b, M)`` a measure, NaN where an image has no ground truth."""
        found: dict[str, Values] = {}
        if self.boxed.any():
            boxes = self.boxes[rows].to(maps.device)
            inside = centroid_in_box(maps, boxes, self.grid, self.size)
            on_box = mass(maps, box_shares(boxes, self.grid, self.size))
            found["centroid_in_box"] = _where(inside, self.boxed[rows])
            found["mass_in_box"] = _where(on_box, self.boxed[rows])
        if self.part.has_masks:
            masks = self.part.masks(rows).to(maps.device)
            self.masked[rows] = masks.flatten(1).any(1).cpu().numpy()
            on_mask = mass(maps, mask_shares(masks, self.grid))
            found["mass_in_mask"] = _where(on_mask, self.masked[rows])
        return found

    def _measured(self, maps: torch.Tensor, rows: NDArray[np.int64]) -> dict[str, Values]:
        found = {"entropy": entropy(maps).double().cpu().numpy()} | self._localised(maps, rows)
        if maps.shape[1] > 1:
            for name, measure in (
                ("cosine", cosine_complementarity),
                ("intersection", intersection_complementarity),
            ):
                found[name] = measure(maps).double().cpu().numpy()[:, None]
        return found

    def _answered(
        self, probe: "Probe", tokens: Tokens, rows: NDArray[np.int64]
    ) -> dict[str, Values]:
        """``correct (1, b)`` and, where predictors can be replaced, ``drops (M, b)``."""
        labels = self.labels[rows].to(self.device)
        if not has_importance(probe):
            with torch.no_grad():
                correct = (probe(tokens).argmax(1) == labels).double()
            return {"correct": correct[None].cpu().numpy()}
        before, after = replaced_logits(probe, tokens)
        correct = (before.argmax(-1) == labels).double()
        drops = correct - (after.argmax(-1) == labels).double()
        return {"correct": correct[None].cpu().numpy(), "drops": drops.cpu().numpy()}

    def _recalled(self, descriptors: torch.Tensor) -> dict[str, Values]:
        ks = [k for k in RECALL_AT if k < len(descriptors)]
        if not ks:
            return {}
        found = recall_at(descriptors, self.labels.to(self.device), ks)
        return {f"recall {k}": hit.double()[None].cpu().numpy() for k, hit in found.items()}

    def shortcut(self, draws: int) -> Shortcut | None:
        """What the exchange of backgrounds cost, where there was one."""
        if self.exchanged is None:
            return None
        others, replaced = self.exchanged
        correct = np.concatenate([fit["correct"] for fit in self.fits])[:, others.rows]
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

    def analysis(self, draws: int, *, heads: bool = False) -> Analysis:
        """What all fits together say, or the heads."""
        seeds = [] if heads else self._seeds()
        rows = [(seed, j + 1) for seed in seeds or [0] for j in range(len(self.fits[0]["entropy"]))]
        stacked = {name: np.concatenate([fit[name] for fit in self.fits]) for name in self.fits[0]}
        each: dict[str, Sequence[Estimate]] = {
            name: _estimates(stacked[name], draws)
            for name in ("drops", *MEASURES)
            if name in stacked
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
            predictors.sort(
                key=lambda one: one.importance.mean if one.importance else 0, reverse=True
            )
        elif not heads:
            self.notes.append(
                "no importance: its descriptor isn't a function of what predictors pool alone"
            )

        def known(name: str) -> Estimate:
            return _estimates(stacked[name].mean(0, keepdims=True), draws)[0]

        def overall(name: str) -> Estimate | None:
            return known(name) if name in stacked else None

        boxes = self._max_box_accuracy()
        return Analysis(
            probe=HEADS if heads else self.result.label,
            store=self.store.identity,
            split=self.result.split,
            images=len(self.part),
            images_with_box=int(self.boxed.sum()),
            images_with_mask=int(self.masked.sum()),
            seeds=seeds,
            accuracy=overall("correct"),
            entropy=known("entropy"),
            centroid_in_box=overall("centroid_in_box"),
            mass_in_box=overall("mass_in_box"),
            mass_in_mask=overall("mass_in_mask"),
            prefix_share=float(stacked["prefix_share"].mean()),
            uniform={name: float(np.nanmean(values)) for name, values in self.uniform.items()},
            complementarity={k: known(k) for k in ("cosine", "intersection") if k in stacked},
            max_box_accuracy=boxes,
            recall={k[7:]: known(k) for k in stacked if k.startswith("recall ")},
            correlation=self._correlation(stacked, draws),
            predictors=predictors,
            notes=self._all_notes(boxes),
        )

    def _seeds(self) -> list[int]:
        return self.result.seeds or list(range(len(self.fits)))

    def _correlation(self, stacked: dict[str, Values], draws: int) -> dict[str, Correlation]:
        if "drops" not in stacked:
            return {}
        if (count := len(stacked["drops"])) < LEAST_PREDICTORS:
            self.notes.append(
                f"no correlation: {count} predictors, and it takes {LEAST_PREDICTORS} over all seeds"
            )
            return {}
        measures = {name: stacked[name] for name in MEASURES if name in stacked}
        found = correlate(stacked["drops"], measures, draws=draws)
        self.notes += [
            f"no correlation of importance with {name}: one of the two is the same everywhere"
            for name, one in found.items()
            if one is None
        ]
        return {name: one for name, one in found.items() if one is not None}

    def _max_box_accuracy(self) -> dict[str, float]:
        if not self.hits:
            return {}
        best = np.mean([max_box_accuracy(hits) for hits in self.hits], 0)
        scores = {str(delta): float(one) for delta, one in zip(DELTAS, best, strict=True)}
        return scores | {"mean": float(best.mean())}

    def _all_notes(self, boxes: dict[str, float]) -> list[str]:
        missing = [] if boxes else ["no boxes: nothing is said of centroids, boxes and their mass"]
        if not self.masked.any():
            missing.append("no masks: nothing is said of mass in them")
        return self.notes + missing


def _by_store(walks: Sequence[_Walk]) -> list[list[_Walk]]:
    """Walks over the same images side by side."""
    groups: dict[tuple[str, str], list[_Walk]] = {}
    for walk in walks:
        groups.setdefault((walk.store.identity, walk.result.split), []).append(walk)
    return list(groups.values())


def _exchange(
    walks: Sequence[_Walk], others: OtherBackgrounds, progress: ProgressCallback | None
) -> None:
    """What every fit says of the images with other backgrounds: one pass of the backbone for all."""
    first = walks[0]
    right: list[list[Values]] = [[] for _ in walks]
    for start in range(0, len(others.rows), first.batch):
        rows = others.rows[start : start + first.batch]
        tokens, labels = others.tokens(rows), first.labels[rows]
        for walk, parts in zip(walks, right, strict=True):
            with torch.no_grad():
                answers = [fit.to(walk.device)(tokens).argmax(1).cpu() for fit in walk.probes]
            parts.append((torch.stack(answers) == labels).double().numpy())
        if progress is not None:
            progress("other backgrounds", start + len(rows), len(others.rows))
    for walk, parts in zip(walks, right, strict=True):
        walk.exchanged = others, np.concatenate(parts, 1)


def _joined(columns: dict[str, list[Values]]) -> dict[str, Values]:
    """Batches one behind the other, without measures that no image has the ground truth for."""
    found = {name: np.concatenate(parts, 1) for name, parts in columns.items()}
    return {name: values for name, values in found.items() if not np.isnan(values).all()}


def _where(values: torch.Tensor, known: NDArray[np.bool_]) -> Values:
    return np.where(known[:, None], values.double().cpu().numpy(), np.nan)


def _estimates(values: Values, draws: int) -> list[Estimate]:
    """Of each row of ``(M, n)``, over the images that are known."""
    known = values[:, ~np.isnan(values).any(0)]
    ends = mean_intervals(known, draws=draws)
    means = known.mean(1)
    return [
        Estimate(float(mean), (float(low), float(high)))
        for mean, (low, high) in zip(means, ends, strict=True)
    ]


def _opened(result: FittedResult, stores: dict[str, Store], trust: bool) -> Store:
    if result.open_store is not None or result.store.path is None:
        return store_of(result, trust=trust)
    if result.store.path not in stores:
        stores[result.store.path] = store_of(result, trust=trust)
    return stores[result.store.path].asked_as(result.backbone, result.dataset)


def _fits(result: FittedResult, store: Store) -> list["Probe"]:
    shape = Shape.of(store.manifest)
    seeds: list[int | None] = [*result.seeds] or [None]
    return [load_fitted(result, shape, seed) for seed in seeds]


def _counted(
    progress: ProgressCallback, result: FittedResult, number: int, fits: Sequence["Probe"]
) -> Callable[[int, int], None]:
    """Images of all fits of a probe in one count."""
    return lambda done, of: progress(result.label, number * of + done, of * len(fits))
