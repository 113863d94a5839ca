"""Where each probe looks: fitted probes on test images, one map a predictor.

More than eight predictors are grouped by spherical k-means over their maps on all images shown. A column
is the mean map of a group, the same group in every row.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from iceprobe.analysis.maps import patch_maps
from iceprobe.analysis.parts import spherical_kmeans
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.fitted import load_fitted
from iceprobe.reporting.pictures import image_uri, map_uri
from iceprobe.results.fitted import FittedResult
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe
    from iceprobe.store import Store

MAX_COLUMNS = 8  # maps beside an image; more predictors are grouped


@dataclass(frozen=True)
class Row:
    """One image and its maps, as data URIs."""

    name: str
    label: str
    predicted: str
    correct: bool
    image: str
    maps: list[str]


@dataclass(frozen=True)
class Gallery:
    """The attention of one probe on the images shown."""

    result: FittedResult
    predictors: int
    columns: list[str]
    rows: list[Row]
    boxes: bool
    seed: int | None


class Album:
    """Images of a split, by row, with their tokens.

    Raises:
        IceprobeError: if the store has no patch grid, or its images can't be found.
    """

    def __init__(self, store: "Store", split: str, rows: NDArray[np.int64]):
        if store.grid is None or not store.has_patches:
            raise IceprobeError("its store has no patch tokens on a grid")
        part = store[split]
        self.store, self.split, self.rows = store, split, rows
        self.images: list[Image.Image] = list(store.images(split, rows))
        self.boxes = None if part.boxes is None else np.asarray(part.boxes)[rows]
        self.labels = np.asarray(part.labels)[rows]
        self.names = store.names(split, rows)
        boxes = [None] * len(rows) if self.boxes is None else self.boxes
        self.pictures = [image_uri(*one) for one in zip(self.images, boxes, strict=True)]
        self.tokens = part.tokens(rows)

    @classmethod
    def spread(cls, store: "Store", split: str, count: int) -> Self:
        """``count`` images, one of each class first, in the order of the split, whatever probes predict."""
        return cls(store, split, spread_over_classes(np.asarray(store[split].labels), count))

    def maps(self, result: FittedResult, seed: int | None = None) -> tuple["Probe", Tensor] | None:
        """A seed (the first) of a fitted probe and its maps ``(B, M, N)``; None without attention.

        Raises:
            IceprobeError: if the fitted probe is missing or doesn't fit its description.
        """
        if result.method == "knn":
            return None
        probe = load_fitted(result, self.store.shape, seed)
        if not getattr(probe.pooling, "num_predictors", 0):
            return None
        return probe, patch_attention(probe, self.tokens_on(next(probe.parameters()).device))

    def overlays(self, maps: Tensor) -> list[list[str]]:
        """Maps ``(B, K, N)`` over the images, K pictures an image."""
        grids = maps.unflatten(2, self.tokens.grid or (0, 0)).numpy()
        return [
            [map_uri(image, grid) for grid in each]
            for image, each in zip(self.images, grids, strict=True)
        ]

    def tokens_on(self, device: torch.device) -> Tokens:
        """The tokens of the images, where a probe is."""
        return self.tokens.to(device)


def draw_gallery(result: FittedResult, album: Album) -> Gallery | None:
    """Maps of the first seed of a fitted probe; None where it has no attention. Raises as `Album.maps`."""
    if (found := album.maps(result)) is None:
        return None
    probe, weights = found
    with torch.no_grad():
        tokens = album.tokens_on(next(probe.parameters()).device)
        predicted: list[int] = probe(tokens).argmax(1).tolist()
    maps, columns = columns_of(weights)
    classes = list(album.store.classes)
    rows = [
        Row(
            name=album.names[i],
            label=classes[label],
            predicted=classes[predicted[i]],
            correct=predicted[i] == label,
            image=album.pictures[i],
            maps=overlays,
        )
        for i, (label, overlays) in enumerate(
            zip(album.labels.tolist(), album.overlays(maps), strict=True)
        )
    ]
    seed = result.seeds[0] if result.seeds else None
    return Gallery(result, weights.shape[1], columns, rows, album.boxes is not None, seed)


def spread_over_classes(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``count`` rows: the first image of each class, then the second of each, in class order.

    With more classes than rows, classes are taken at even distances.
    """
    classes = np.unique(labels)
    if len(classes) > count > 0:
        classes = classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]
    queues = [np.flatnonzero(labels == one) for one in classes]
    longest = max((len(queue) for queue in queues), default=0)
    rows = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return np.array(rows[:count], dtype=np.int64)


def patch_attention(probe: "Probe", tokens: Tokens) -> Tensor:
    """Where each predictor of an attentive probe looks: ``(B, M, N)``, each map sums to 1."""
    return patch_maps(probe, tokens)[0].cpu()


def columns_of(weights: Tensor) -> tuple[Tensor, list[str]]:
    """At most :data:`MAX_COLUMNS` maps an image: ``(B, M, N)`` → ``(B, K, N)`` and K titles."""
    groups, titles = group_predictors(weights)
    return mean_of_groups(weights, groups), titles


def mean_of_groups(weights: Tensor, groups: list[Tensor]) -> Tensor:
    """The mean map of each group of predictors: ``(B, M, N)`` → ``(B, K, N)``."""
    return torch.stack([weights[:, group].mean(1) for group in groups], 1)


def group_predictors(weights: Tensor) -> tuple[list[Tensor], list[str]]:
    """At most :data:`MAX_COLUMNS` groups of predictors, by their maps ``(B, M, N)``: K index tensors and
    K titles."""
    predictors = weights.shape[1]
    if predictors <= MAX_COLUMNS:
        alone = list(torch.arange(predictors).split(1))
        titles = [f"predictor {j + 1}" for j in range(predictors)]
        return alone, titles if predictors > 1 else ["attention"]
    assigned = spherical_kmeans(weights.transpose(0, 1).flatten(1), MAX_COLUMNS)
    groups = [torch.nonzero(assigned == k).flatten() for k in range(MAX_COLUMNS)]
    kept = sorted((group for group in groups if len(group)), key=len, reverse=True)
    return kept, [f"group {i + 1}: {len(g)} of {predictors}" for i, g in enumerate(kept)]
