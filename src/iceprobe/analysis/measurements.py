"""The raw measures of one probe, in one pass over the images for each of its fits.

In memory are the tokens of a batch, a few numbers for each predictor and image, and the descriptors for
retrieval.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.analysis.background import OtherBackgrounds
from iceprobe.analysis.box_accuracy import box_hits
from iceprobe.analysis.complementarity import complementarity
from iceprobe.analysis.concentration import entropy
from iceprobe.analysis.evidence import has_evidence, true_map
from iceprobe.analysis.importance import has_importance, replaced_logits
from iceprobe.analysis.localisation import (
    Grid,
    Size,
    box_shares,
    centroid_in_box,
    mask_shares,
    mass,
)
from iceprobe.analysis.maps import patch_maps
from iceprobe.analysis.retrieval import recall_at
from iceprobe.analysis.scoring import Scoring, Values
from iceprobe.backbones.base import Backbone
from iceprobe.results.fitted import FittedResult
from iceprobe.store import Store
from iceprobe.store.forward import autocast
from iceprobe.tasks.records import Record
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe

RECALL_AT = (1, 5, 10)
EVIDENCE = "evidence "  # before the names of measures of the evidence


class Measurements:
    """Measures of one probe on the images of a split, ``(M, n)`` each.

    Args:
        result: of the probe.
        store: that it was fitted on.
        device: where to measure.
        batch: images at a time.
        thresholds: of MaxBoxAccV2.
        probes: the fitted modules; none for the heads of the backbone.
    """

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
        # Pixels of the crop, for boxes and masks; tokens that were given have none. Images of their own shape
        # have so many a side of a patch.
        preprocessing = store.manifest.backbone.preprocessing
        self.size: int = preprocessing.get("image_size", 0)
        self.patch: int | None = preprocessing.get("patch_size")
        self.thresholds = tuple(thresholds)
        self.labels = torch.from_numpy(np.asarray(self.part.labels))
        self.groups = store.groups(result.split)  # (n,): which images aren't independent
        self.scoring = Scoring(result, self.part.labels)
        boxes = self.part.boxes
        n = len(self.part)
        self.boxes = torch.from_numpy(np.zeros((n, 4), np.float32) if boxes is None else boxes)
        # (n,): which images have a box, a mask.
        self.boxed = ((self.boxes[:, 2:] - self.boxes[:, :2]) > 0).all(1).numpy()
        self.masked = np.zeros(n, bool)
        self.fits: list[dict[str, Values]] = []  # measures of each pass
        # Of each pass: which boxes are found at which threshold.
        self.hits: list[NDArray[np.bool_]] = []
        self.evidence_hits: list[NDArray[np.bool_]] = []  # the same of the evidence
        self.records: list[list[Record]] = []  # of each fit, for its leading metric
        self.uniform: dict[str, Values] = {}  # what uniform attention scores
        self.probes = probes
        # Images with other backgrounds, and each fit's records of them.
        self.exchanged: tuple[OtherBackgrounds, list[list[Record]]] | None = None

    def over(self, source: "Probe | Backbone", progress: Callable[[int, int], None] | None) -> None:
        """Add a fit, or the heads of the backbone: one pass over the images."""
        home = next(source.parameters()).device
        source.to(self.device)
        columns: dict[str, list[Values]] = defaultdict(list)
        uniform: dict[str, list[Values]] = defaultdict(list)
        hits, of_evidence, descriptors = [], [], []
        answers: list[Record] = []
        n = len(self.part)
        for start in range(0, n, self.batch):
            rows = np.arange(start, min(start + self.batch, n))
            tokens = self._tokens(rows)
            grids = cast(Sequence[Grid], tokens.grids)
            if isinstance(source, Backbone):
                maps, share = self._heads(source, rows)
            else:
                maps, share = patch_maps(source, tokens)
                answers.append(self._answered(source, tokens, rows))
                if has_evidence(source) and (self.boxed.any() or self.outlined):
                    of_evidence += self._evident(source, tokens, rows, columns, grids)
                with torch.no_grad():
                    descriptors.append(source.descriptors(tokens).float())
            flat = torch.full_like(maps[:, :1], 1 / maps.shape[-1])
            if tokens.mask is not None:
                flat = (tokens.mask / tokens.mask.sum(1, keepdim=True)).to(maps)[:, None]
            for name, values in self._alike(self._measured, maps, rows, grids).items():
                columns[name].append(values.T)
            for name, values in self._alike(self._localised, flat, rows, grids).items():
                uniform[name].append(values.T)
            columns["prefix_share"].append(share.double().cpu().numpy().T)
            if (inside := torch.from_numpy(self.boxed[rows])).any():
                own = [grid for grid, there in zip(grids, inside, strict=True) if there]
                hits.append(self._hits(maps.mean(1)[inside], rows[inside.numpy()], own))
            if progress is not None:
                progress(int(rows[-1]) + 1, n)
        fit = _joined(columns)
        if descriptors:
            fit |= self._recalled(torch.cat(descriptors)) | self._scored(answers)
        self.uniform = _joined(uniform)
        self.fits.append(fit)
        if hits:
            self.hits.append(np.concatenate(hits))
        if of_evidence:
            self.evidence_hits.append(np.concatenate(of_evidence))
        source.to(home)

    def _heads(
        self, backbone: Backbone, rows: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :func:`patch_maps` gives them, of the backbone's own heads."""
        pictures = self.store.images(self.result.split, rows)
        preprocessing = backbone.of_images("the attention of heads")
        images = torch.stack([preprocessing.normalised(one) for one in pictures])
        with autocast(self.device, self.store.manifest.settings.forward_dtype):
            weights = backbone.attention(images.to(self.device))
        on_patches = weights.sum(-1)
        return weights / on_patches[..., None], 1 - on_patches

    def _tokens(self, rows: NDArray[np.int64]) -> Tokens:
        layers = self.probes[0].read.layers if self.probes else None
        return self.part.tokens(rows, self.device, layers or None)

    @property
    def outlined(self) -> bool:
        """Whether the data set has masks."""
        return self.part.has_masks or self.part.has_covers

    def _alike(
        self,
        measure: Callable[[torch.Tensor, NDArray[np.int64], Grid], dict[str, Values]],
        maps: torch.Tensor,
        rows: NDArray[np.int64],
        grids: Sequence[Grid],
    ) -> dict[str, Values]:
        """``measure`` of the images of each grid together, in the order of ``rows``."""
        groups = places_of(grids)
        if len(groups) == 1:
            return measure(maps[..., : math.prod(grids[0])], rows, grids[0])
        found: dict[str, list[Values]] = defaultdict(list)
        for grid, places in groups.items():
            there = torch.from_numpy(places).to(maps.device)
            part = measure(maps[there][..., : math.prod(grid)], rows[places], grid)
            for name, values in part.items():
                found[name].append(values)
        order = np.argsort(np.concatenate([*groups.values()]))
        return {name: np.concatenate(parts)[order] for name, parts in found.items()}

    def _pixels(self, grid: Grid) -> Size:
        """What an image on this grid measures."""
        return self.size if self.patch is None else (grid[0] * self.patch, grid[1] * self.patch)

    def _localised(
        self, maps: torch.Tensor, rows: NDArray[np.int64], grid: Grid
    ) -> dict[str, Values]:
        """``(b, M)`` a measure, NaN where an image has no ground truth."""
        found: dict[str, Values] = {}
        if self.boxed.any():
            boxes = self.boxes[rows].to(maps.device)
            inside = centroid_in_box(maps, boxes, grid, self._pixels(grid))
            on_box = mass(maps, box_shares(boxes, grid, self._pixels(grid)))
            found["centroid_in_box"] = _where(inside, self.boxed[rows])
            found["mass_in_box"] = _where(on_box, self.boxed[rows])
        if self.outlined:
            if self.part.has_covers:
                masks = shares = self.part.covers(rows)[:, : math.prod(grid)].to(maps.device)
            else:
                masks = self.part.masks(rows).to(maps.device)
                shares = mask_shares(masks, grid)
            self.masked[rows] = masks.flatten(1).any(1).cpu().numpy()
            on_mask = mass(maps, shares)
            found["mass_in_mask"] = _where(on_mask, self.masked[rows])
        return found

    def _measured(
        self, maps: torch.Tensor, rows: NDArray[np.int64], grid: Grid
    ) -> dict[str, Values]:
        found = {"entropy": entropy(maps).double().cpu().numpy()}
        found |= self._localised(maps, rows, grid)
        different = complementarity(maps).items()
        return found | {name: values.double().cpu().numpy()[:, None] for name, values in different}

    def _answered(self, probe: "Probe", tokens: Tokens, rows: NDArray[np.int64]) -> Record:
        """The record of the probe as it is and, where predictors can be replaced, without each of them."""
        targets = self.labels[rows].to(self.device)
        if has_importance(probe):
            before, after = replaced_logits(probe, tokens)
            return self.scoring.record(torch.cat([before[None], after]), targets)
        with torch.no_grad():
            return self.scoring.record(probe(tokens)[None], targets)

    def _scored(self, answers: list[Record]) -> dict[str, Values]:
        """``score (1, n)`` of the leading metric, how much of it is lost without each predictor, ``drops
        (M, n)``, and of classification whether each is right, ``correct (1, n)``."""
        self.records.append([{name: t[:1] for name, t in one.items()} for one in answers])
        values = self.scoring.values(answers)
        found = {"score": values[:1]}
        if len(values) > 1:
            found["drops"] = self.scoring.metric.sign * (values[:1] - values[1:])
        if self.labels.ndim == 1:
            predicted = torch.cat([one["predicted"][0] for one in answers])
            found["correct"] = (predicted == self.labels)[None].double().numpy()
        return found

    def _evident(
        self,
        probe: "Probe",
        tokens: Tokens,
        rows: NDArray[np.int64],
        columns: dict[str, list[Values]],
        grids: Sequence[Grid],
    ) -> list[NDArray[np.bool_]]:
        """Add to ``columns`` where the evidence for what is true lies, ``(1, b)`` a measure; the boxes hit."""
        maps = true_map(probe, tokens, self.labels[rows].to(self.device))
        known = maps.isfinite().all(1).cpu().numpy()
        for name, values in self._alike(self._localised, maps[:, None], rows, grids).items():
            columns[EVIDENCE + name].append(np.where(known[:, None], values, np.nan).T)
        if not (inside := known & self.boxed[rows]).any():
            return []
        own = [grid for grid, there in zip(grids, inside, strict=True) if there]
        return [self._hits(maps[torch.from_numpy(inside)], rows[inside], own)]

    def _hits(
        self, maps: torch.Tensor, rows: NDArray[np.int64], grids: Sequence[Grid]
    ) -> NDArray[np.bool_]:
        def hits(maps: torch.Tensor, rows: NDArray[np.int64], grid: Grid) -> dict[str, Values]:
            size = self._pixels(grid)
            found = box_hits(
                maps.unflatten(1, grid), self.boxes[rows], size, thresholds=self.thresholds
            )
            return {"hits": found.astype(float)}

        return self._alike(hits, maps, rows, grids)["hits"].astype(bool)

    def _recalled(self, descriptors: torch.Tensor) -> dict[str, Values]:
        """Of classes; two images may share a tag, or be near in a number, without being of a kind."""
        ks = [k for k in RECALL_AT if k < len(descriptors)]
        if not ks or self.labels.ndim > 1:
            return {}
        found = recall_at(descriptors, self.labels.to(self.device), ks)
        return {f"recall {k}": hit.double()[None].cpu().numpy() for k, hit in found.items()}


def places_of(grids: Sequence[Grid]) -> dict[Grid, NDArray[np.int64]]:
    """Which examples lie on each grid."""
    found: dict[Grid, list[int]] = defaultdict(list)
    for place, grid in enumerate(grids):
        found[grid].append(place)
    return {grid: np.array(places) for grid, places in found.items()}


def _joined(columns: dict[str, list[Values]]) -> dict[str, Values]:
    """Batches joined in their order, without measures for which no image has ground truth."""
    found = {name: np.concatenate(parts, 1) for name, parts in columns.items()}
    return {name: values for name, values in found.items() if not np.isnan(values).all()}


def _where(values: torch.Tensor, known: NDArray[np.bool_]) -> Values:
    return np.where(known[:, None], values.double().cpu().numpy(), np.nan)
