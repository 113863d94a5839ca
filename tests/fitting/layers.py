"""Stores in memory of several layers with something to learn, and what a hand concatenates of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from iceprobe.store import Store
from iceprobe.store.format import (
    BackboneRecord,
    DatasetRecord,
    ExtractionSettings,
    Manifest,
    SplitRecord,
)
from iceprobe.store.split import memory_split
from iceprobe.tokens import TokenShape

DIM, GRID, CLASSES, LAYERS, DEPTH = 8, (2, 2), 3, (4, 5), 6
SIZES = {"train": 150, "test": 60}


def arrays(split: str, layer: int) -> tuple[Tensor, Tensor]:
    """Patches ``(n, N, D)`` and class tokens ``(n, 1, D)``, each layer with a faint sign of the class."""
    generator = torch.Generator().manual_seed(10 * layer + len(split))
    count, labels = SIZES[split], labels_of(split)
    patches = torch.randn(count, GRID[0] * GRID[1], DIM, generator=generator)
    patches[torch.arange(count), torch.arange(count) % 4, labels + layer % 2] += 2.5
    prefix = torch.randn(count, 1, DIM, generator=generator)
    prefix[torch.arange(count), 0, 2 + labels] += 1.5
    return patches, prefix


def labels_of(split: str) -> Tensor:
    return torch.arange(SIZES[split]) % CLASSES


def store_of(
    tensors: dict[str, dict[str, Tensor]], shape: TokenShape, layer: int | None = None
) -> Store:
    """A store in memory: ``patches``, ``prefix`` and ``mean`` of each split, in their own dtype."""
    splits = {}
    for name, found in tensors.items():
        labels = labels_of(name)
        given = {**found, "label": labels, "index": torch.arange(len(labels))}
        splits[name] = memory_split(given, shape)
    identity = {"weights": "w"} if layer is None else {"weights": "w", "layer": layer}
    manifest = Manifest(
        backbone=BackboneRecord(
            spec="test:planted", name="planted", paradigm="none", pooled_class=False,
            identity=identity, preprocessing={},
        ),
        dataset=DatasetRecord(spec="test:planted", name="planted", classes=list("abc")),
        settings=ExtractionSettings(tokens="float32", patches="patches" in tensors["train"]),
        shape=shape,
        splits={
            name: SplitRecord(
                images=count, listed=count, content={"listing": name}, boxes=False, shards=[]
            )
            for name, count in SIZES.items()
        },
        versions={},
    )  # fmt: skip
    return Store(manifest, splits, depth=DEPTH)


def one_layer(layer: int, dtype: torch.dtype, patches: bool = True) -> Store:
    tensors = {}
    for name in SIZES:
        tokens, prefix = (one.to(dtype) for one in arrays(name, layer))
        tensors[name] = {"prefix": prefix, "mean": tokens.mean(1)}
        if patches:
            tensors[name]["patches"] = tokens
    return store_of(tensors, TokenShape(DIM, 4, 1, GRID, has_class=True), layer)


def layers(dtype: torch.dtype = torch.float32, numbers: Sequence[int] = LAYERS) -> list[Store]:
    """A store of each layer."""
    return [one_layer(number, dtype) for number in numbers]


def by_hand(kind: str, dtype: torch.dtype = torch.float32) -> Store:
    """One ordinary store of what layers give side by side: ``vector``, ``tokens`` or ``width``."""
    tensors = {}
    for name in SIZES:
        found = [arrays(name, layer)[0].to(dtype) for layer in LAYERS]
        patches = torch.cat(found, 2 if kind == "width" else 1)
        vector = patches.mean(1)
        if kind == "vector":
            cls = [arrays(name, layer)[1][:, 0].to(dtype) for layer in LAYERS]
            vector = torch.cat([*cls, found[-1].mean(1)], 1)
            patches = vector[:, None]
        tensors[name] = {"patches": patches, "prefix": patches[:, :0], "mean": vector}
    _, count, width = tensors["train"]["patches"].shape
    grid = GRID if kind == "width" else None
    return store_of(tensors, TokenShape(width, count, 0, grid, has_class=False))
