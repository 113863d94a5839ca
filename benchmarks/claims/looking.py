"""Where probes look, image by image: what claim 8 pairs over images and `iceprobe analyze` averages.

Each function walks the reported images once and gives an array with one row a fit.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import iceprobe
from iceprobe.analysis import cosine_complementarity, patch_maps, replace_background
from iceprobe.fitting.fitted import load_fitted
from iceprobe.probes.probe import Probe
from iceprobe.results import Result
from iceprobe.tokens import Tokens

BATCH = 100
Values = NDArray[np.float64]


def complementarity(result: Result, store: iceprobe.Store) -> Values:
    """``(S, n)``: 1 − the mean cosine between two maps of an image, of every fit."""
    fits, rows = _fits(result, store), []
    for tokens, _ in _stored(result, store):
        rows.append([cosine_complementarity(patch_maps(fit, tokens)[0]).numpy() for fit in fits])
    return np.concatenate(rows, 1).astype(np.float64)


def own_complementarity(backbone: iceprobe.Backbone, store: iceprobe.Store, split: str) -> Values:
    """``(1, n)``: the same of the maps of the class token's heads in the last block of a ViT."""
    found = []
    for images, _ in _images(backbone, store, split):
        maps = backbone.attention(images)
        found.append(cosine_complementarity(maps / maps.sum(-1, keepdim=True)).numpy())
    return np.concatenate(found)[None].astype(np.float64)


def exchanged(
    results: dict[str, Result], backbone: iceprobe.Backbone, store: iceprobe.Store
) -> dict[str, Values]:
    """``(S, n)`` a probe: whether it is right on images with another image's surroundings.

    Image i keeps what is in its box; the rest comes from image i + n/2, whose own object's box is
    painted black beforehand.
    """
    fits = {label: _fits(result, store) for label, result in results.items()}
    split = next(iter(results.values())).split
    right: dict[str, list[Values]] = {label: [] for label in fits}
    labels = torch.from_numpy(np.asarray(store[split].labels))
    boxes = store[split].boxes
    assert boxes is not None, "the background can be exchanged only where boxes are known"
    places, n = torch.from_numpy(np.asarray(boxes)), len(labels)
    black = backbone.preprocessing.normalised(_black(backbone))
    everything = torch.cat([images for images, _ in _images(backbone, store, split)])
    for rows in torch.arange(n).split(BATCH):
        other = (rows + n // 2) % n
        emptied = torch.where(
            _inside(places[other], everything.shape[-1]), black, everything[other]
        )
        with torch.no_grad():
            tokens = backbone(replace_background(everything[rows], places[rows], emptied))
            for label, of_probe in fits.items():
                correct = [(fit(tokens).argmax(1) == labels[rows]).numpy() for fit in of_probe]
                right[label].append(np.stack(correct).astype(np.float64))
    return {label: np.concatenate(parts, 1) for label, parts in right.items()}


def _inside(boxes: Tensor, side: int) -> Tensor:
    """``(B, 1, S, S)``: pixels in the box, by the same rule as `replace_background`."""
    ones = torch.ones(len(boxes), 1, side, side)
    return replace_background(ones, boxes, torch.zeros(1)).bool()


def _black(backbone: iceprobe.Backbone):  # type: ignore[no-untyped-def]
    from PIL import Image

    side = backbone.preprocessing.image_size
    return backbone.preprocessing.converted(Image.new("RGB", (side, side)))


def _fits(result: Result, store: iceprobe.Store) -> list[Probe]:
    return [load_fitted(result, store.shape, seed).cpu() for seed in result.seeds]


def _stored(result: Result, store: iceprobe.Store) -> Iterator[tuple[Tokens, Tensor]]:
    part = store[result.split]
    for rows in torch.arange(len(part)).split(BATCH):
        yield (
            Tokens(
                patches=part.patches(rows, torch.device("cpu"), torch.float32),
                prefix=part.prefix[rows].float(),
                grid=store.grid,
                has_class=store.has_class,
            ),
            rows,
        )


def _images(
    backbone: iceprobe.Backbone, store: iceprobe.Store, split: str
) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in torch.arange(len(store[split])).split(BATCH):
        pictures = store.images(split, rows.numpy())
        yield torch.stack([backbone.preprocessing.normalised(one) for one in pictures]), rows
