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
from iceprobe.store.layout import COLUMN
from iceprobe.store.split import memory_split
from iceprobe.tasks.targets import UNKNOWN
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


def targets_of(split: str, task: str) -> Tensor:
    """The classes, a tag of each, or two numbers of them; a few cells aren't known."""
    labels = labels_of(split)
    if task == "classification":
        return labels
    if task == "regression":
        found, unknown = torch.stack([1000.0 + 50 * labels, -0.01 * labels], 1).double(), torch.nan
    else:
        found, unknown = torch.nn.functional.one_hot(labels, CLASSES).to(torch.uint8), UNKNOWN
    found[::7, 1] = unknown
    return found


def columns_of(split: str) -> dict[str, Tensor]:
    """Five images a patient, and two sites; one of their names looks like a layer's tensor."""
    rows = torch.arange(SIZES[split])
    return {"patient": rows // 5, "site@4": rows % 2}


def store_of(
    tensors: dict[str, dict[str, Tensor]],
    shape: TokenShape,
    layer: int | None = None,
    task: str = "classification",
) -> Store:
    """A store in memory: ``patches``, ``prefix`` and ``mean`` of each split, in their own dtype.

    Of another task than classes it has columns too.
    """
    splits, plain = {}, task == "classification"
    for name, found in tensors.items():
        labels = targets_of(name, task)
        given = {**found, "label": labels, "index": torch.arange(len(labels))}
        if not plain:
            given |= {COLUMN + column: codes for column, codes in columns_of(name).items()}
        splits[name] = memory_split(given, shape)
    columns = {} if plain else {
        "group": "patient",
        "slices": ["site@4"],
        "values": {"patient": [f"p{i}" for i in range(30)], "site@4": ["north", "south"]},
    }  # fmt: skip
    identity = {"weights": "w"} if layer is None else {"weights": "w", "layer": layer}
    manifest = Manifest(
        backbone=BackboneRecord(
            spec="test:planted", name="planted", paradigm="none", pooled_class=False,
            identity=identity, preprocessing={},
        ),
        dataset=DatasetRecord(
            spec="test:planted", name="planted", task=task, **columns,
            classes=["big", "small"] if task == "regression" else list("abc"),
        ),
        settings=ExtractionSettings(tokens="float32", patches="patches" in tensors["train"]),
        shape=shape,
        splits={
            name: SplitRecord(
                images=count, listed=count, content={"listing": name}, boxes=False, shards=[],
                columns=list(columns.get("values", [])),
            )
            for name, count in SIZES.items()
        },
        versions={},
    )  # fmt: skip
    return Store(manifest, splits, depth=DEPTH)


def one_layer(
    layer: int, dtype: torch.dtype, patches: bool = True, task: str = "classification"
) -> Store:
    tensors = {}
    for name in SIZES:
        tokens, prefix = (one.to(dtype) for one in arrays(name, layer))
        tensors[name] = {"prefix": prefix, "mean": tokens.mean(1)}
        if patches:
            tensors[name]["patches"] = tokens
    return store_of(tensors, TokenShape(DIM, 4, 1, GRID, has_class=True), layer, task)


def layers(
    dtype: torch.dtype = torch.float32,
    numbers: Sequence[int] = LAYERS,
    task: str = "classification",
) -> list[Store]:
    """A store of each layer."""
    return [one_layer(number, dtype, task=task) for number in numbers]


def by_hand(kind: str, dtype: torch.dtype = torch.float32, task: str = "classification") -> Store:
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
    return store_of(tensors, TokenShape(width, count, 0, grid, has_class=False), task=task)
