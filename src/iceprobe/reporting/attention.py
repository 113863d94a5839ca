"""Where each probe looks and what speaks for its answers: fitted probes on test images.

The evidence of the patches for up to three outputs (`iceprobe.analysis.evidence`), then one map a predictor.

More predictors than there is room for are grouped by spherical k-means over their maps on all images shown. A column
is the mean map of a group, the same group in every row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from iceprobe.analysis.evidence import has_evidence, patch_evidence
from iceprobe.analysis.layouts import Layout, layout_of
from iceprobe.analysis.maps import gridded, patch_maps
from iceprobe.analysis.parts import spherical_kmeans
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.fitted import load_fitted
from iceprobe.reporting.answers import Answer, Namer, spread, spread_rule
from iceprobe.reporting.pictures import evidence_picture, image_uri, map_uri, picture_uri
from iceprobe.reporting.spectrograms import Spectrograms, spectrograms
from iceprobe.reporting.strips import Moments, moments
from iceprobe.results.fitted import FittedResult
from iceprobe.store.examples import example_noun
from iceprobe.store.format import FOLDS
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe
    from iceprobe.store import Store

MAX_COLUMNS = 8  # maps beside an image, with evidence among them; more predictors are grouped
_IN_TIME: dict[Layout | None, Callable[..., Moments | Spectrograms]] = {
    "moments": moments,
    "spectrogram": spectrograms,
}


@dataclass(frozen=True)
class Row:
    """One image and its maps, as data URIs.

    Attributes:
        maps: of evidence, then of attention; empty where there is none in a column.
        captions: below the maps, empty below attention.
    """

    name: str
    label: str
    predicted: str
    correct: bool | None  # None of numbers
    image: str
    maps: list[str]
    captions: list[str]


@dataclass(frozen=True)
class Gallery:
    """The attention of one probe on the images shown, and the evidence.

    Attributes:
        strips: what pictures are that aren't single images, as part of a sentence; empty of images.
        example: what is shown in a row: image, recording or clip.
        columns: titles of the maps.
        evidence: how many of them are evidence, the first ones.
        rule: how the images were chosen, as part of a sentence.
        remark: why there is no evidence; empty if there is.
        centred: whether the evidence counts from the average training image, as a batch norm makes it.
    """

    result: FittedResult
    predictors: int
    columns: list[str]
    rows: list[Row]
    boxes: bool
    seed: int | None
    evidence: int
    rule: str
    remark: str
    centred: bool
    strips: str = ""
    example: str = "image"


class Album:
    """Images of a split, by row, and their tokens once they are asked for.

    Of a clip ``images`` and ``pictures`` have one frame, and ``strips`` several; of a recording its spectrogram.

    Raises:
        IceprobeError: if the images can't be found.
    """

    def __init__(self, store: "Store", split: str, rows: NDArray[np.int64]):
        part = store[split]
        self.store, self.split, self.rows = store, split, rows
        drawn = _IN_TIME.get(layout_of(store))
        self.moments = None if drawn is None else drawn(store, split, rows)
        shown = store.images(split, rows) if self.moments is None else self.moments.middle
        self.images: list[Image.Image] = list(shown)
        self.boxes = None if part.boxes is None else np.asarray(part.boxes)[rows]
        self.labels = np.asarray(part.labels)[rows]
        self.names = store.names(split, rows)
        self.task = get_task(store.task)
        units = store.dataset().units if self.task.outputs == "numbers" else ()
        self.namer = Namer(self.task, store.classes, units)
        self.titles = [self.namer.label(label) for label in self.labels]
        self.rule = spread_rule(self.labels, store.classes)
        boxes = [None] * len(rows) if self.boxes is None else self.boxes
        self.pictures = [image_uri(*one) for one in zip(self.images, boxes, strict=True)]

    @cached_property
    def tokens(self) -> Tokens:
        """Of the images. Raises as :func:`check_maps`."""
        check_maps(self.store, self.split)
        return self.store[self.split].tokens(self.rows)

    @classmethod
    def spread(cls, store: "Store", split: str, count: int) -> Self:
        """``count`` images for maps, whatever probes predict (`answers.spread`).

        Raises:
            IceprobeError: as the class, and as :func:`check_maps`.
        """
        check_maps(store, split)
        return cls(store, split, spread(np.asarray(store[split].labels), count))

    def probe(self, result: FittedResult, seed: int | None = None) -> "Probe | None":
        """A seed (the first) of a fitted probe; None of k-NN.

        Raises:
            IceprobeError: if the fitted probe is missing or doesn't fit its description.
        """
        return None if result.method == "knn" else load_fitted(result, self.store.shape, seed)

    def maps(self, probe: "Probe | None") -> Tensor | None:
        """The maps of a probe, ``(B, M, N)``; None without attention."""
        if probe is None or not getattr(probe.pooling, "num_predictors", 0):
            return None
        return patch_attention(probe, self.tokens_on(next(probe.parameters()).device))

    @cached_property
    def strips(self) -> list[Image.Image]:
        """The images, or of each clip several frames side by side."""
        return self.images if self.moments is None else self.moments.strips

    @property
    def frames(self) -> int:
        """Frames of each of ``strips``."""
        return 1 if self.moments is None else self.moments.aside

    def overlays(self, maps: Tensor, *, strips: bool = False) -> list[list[str]]:
        """Maps ``(B, K, N)`` over the images, K pictures an image; over ``strips`` of clips if asked."""
        if self.moments is None:
            grids = [one.numpy() for one in self.gridded(maps)]
        else:
            grids = [*self.moments.shares(maps, one=not strips)]
        images, frames = (self.strips, self.frames) if strips else (self.images, 1)
        return [
            [map_uri(image, grid, frames) for grid in each]
            for image, each in zip(images, grids, strict=True)
        ]

    def gridded(self, maps: Tensor) -> list[Tensor]:
        """Maps ``(B, K, N)`` on the grid of each image: ``(K, H, W)`` each."""
        return gridded(maps, self.tokens.grids or [])

    def answers(self, probe: "Probe") -> list[Answer]:
        """What the probe reads in each image."""
        return self.namer.answers(self.logits(probe), self.labels)

    def logits(self, probe: "Probe") -> Tensor:
        """``(B, K)``."""
        with torch.no_grad():
            return probe(self.tokens_on(next(probe.parameters()).device)).cpu()

    def evidence(self, probe: "Probe", outputs: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Of the patches for these outputs of each image: ``(B, K')`` → ``(K', H, W)`` each.

        Of clips those of the moments shown, side by side.
        """
        tokens = self.tokens_on(next(probe.parameters()).device)
        found = patch_evidence(probe, tokens, torch.from_numpy(outputs)).cpu()
        if self.moments is not None:
            return [*self.moments.cells(found)]
        return [one.numpy() for one in self.gridded(found)]

    def tokens_on(self, device: torch.device) -> Tokens:
        """The tokens of the images, where a probe is."""
        return self.tokens.to(device)


def check_maps(store: "Store", split: str) -> None:
    """See that probes have maps of a split's images.

    Raises:
        IceprobeError: if the store has no patch tokens, or they lie on no grid, or no probe of the split's images
            was kept.
    """
    if split == FOLDS:
        raise IceprobeError("it was tested by folds, whose probes aren't kept")
    if not store.has_patches:
        raise IceprobeError("its store has no patch tokens")
    layout = layout_of(store)
    if layout == "bag" or not (layout in _IN_TIME or store[split].on_grids):
        raise IceprobeError(f"tokens of {example_noun(store.manifest)}s lie on no grid")


def draw_gallery(result: FittedResult, album: Album) -> Gallery | None:
    """Maps of the first seed of a fitted probe; None where it has neither attention nor evidence.

    Raises as `Album.probe`.
    """
    if (probe := album.probe(result)) is None:
        return None
    found, spoken = album.maps(probe), has_evidence(probe)
    if found is None and not spoken:
        return None
    answers = album.answers(probe)
    titles = album.namer.columns(album.labels) if spoken else []
    evident = _evidence_overlays(probe, album, answers) if titles else [[] for _ in answers]
    maps, columns = evident, list[str]()
    if found is not None:
        means, columns = columns_of(found, MAX_COLUMNS - len(titles))
        both = zip(evident, album.overlays(means, strips=True), strict=True)
        maps = [[*first, *then] for first, then in both]
    pictures = (
        album.pictures
        if album.moments is None
        else [image_uri(strip, frames=album.frames) for strip in album.strips]
    )
    rows = [
        Row(
            name=album.names[i],
            label=answer.label,
            predicted=answer.predicted,
            correct=answer.correct,
            image=pictures[i],
            maps=maps[i],
            captions=[one.caption if one else "" for one in answer.asked[: len(titles)]]
            + [""] * len(columns),
        )
        for i, answer in enumerate(answers)
    ]
    return Gallery(
        result,
        0 if found is None else found.shape[1],
        [*titles, *columns],
        rows,
        album.boxes is not None,
        result.seeds[0] if result.seeds else None,
        len(titles),
        album.rule,
        "" if spoken else f"No evidence of patches: {probe.pooling.entangled}.",
        isinstance(probe.norm, nn.BatchNorm1d),
        "" if album.moments is None else album.moments.said,
        example_noun(album.store.manifest),
    )


def _evidence_overlays(probe: "Probe", album: Album, answers: Sequence[Answer]) -> list[list[str]]:
    """One picture an asked output; those of an image on one scale, but numbers, of several units, on their own."""
    asked = [answer.asked for answer in answers]
    outputs = np.array([[one.output if one else 0 for one in each] for each in asked])
    there = np.array([[one is not None for one in each] for each in asked])
    maps = album.evidence(probe, outputs)
    full = np.where(there, [np.abs(one).max((1, 2)) for one in maps], 0.0)
    if album.task.outputs != "numbers":
        full[:] = full.max(1, keepdims=True)
    return [
        [
            picture_uri(evidence_picture(image, e, float(f), album.frames)) if shown else ""
            for e, f, shown in zip(*of_image, strict=True)
        ]
        for image, *of_image in zip(album.strips, maps, full, there, strict=True)
    ]


def patch_attention(probe: "Probe", tokens: Tokens) -> Tensor:
    """Where each predictor of an attentive probe looks: ``(B, M, N)``, each map sums to 1."""
    return patch_maps(probe, tokens)[0].cpu()


def columns_of(weights: Tensor, most: int = MAX_COLUMNS) -> tuple[Tensor, list[str]]:
    """At most ``most`` maps an image: ``(B, M, N)`` → ``(B, K, N)`` and K titles."""
    groups, titles = group_predictors(weights, most)
    return mean_of_groups(weights, groups), titles


def mean_of_groups(weights: Tensor, groups: list[Tensor]) -> Tensor:
    """The mean map of each group of predictors: ``(B, M, N)`` → ``(B, K, N)``."""
    return torch.stack([weights[:, group].mean(1) for group in groups], 1)


def group_predictors(weights: Tensor, most: int = MAX_COLUMNS) -> tuple[list[Tensor], list[str]]:
    """At most ``most`` groups of predictors, by their maps ``(B, M, N)``: K index tensors and
    K titles."""
    predictors = weights.shape[1]
    if predictors <= most:
        alone = list(torch.arange(predictors).split(1))
        titles = [f"predictor {j + 1}" for j in range(predictors)]
        return alone, titles if predictors > 1 else ["attention"]
    assigned = spherical_kmeans(weights.transpose(0, 1).flatten(1), most)
    groups = [torch.nonzero(assigned == k).flatten() for k in range(most)]
    kept = sorted((group for group in groups if len(group)), key=len, reverse=True)
    return kept, [f"group {i + 1}: {len(g)} of {predictors}" for i, g in enumerate(kept)]
