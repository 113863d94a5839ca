"""Stores of one layer each, read side by side as one store of several layers; nothing is written.

The stores stay what they are on disk. A tensor of layer 11 is called ``patches@11``; what every layer
has of an image (its label, its row, its box, its mask) is read from the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from typing import Any

import numpy as np
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.store.format import BackboneRecord, Manifest
from iceprobe.store.layout import Layout
from iceprobe.store.split import StoredSplit
from iceprobe.tokens import JoinedShape, at_layer

OF_THE_IMAGE = ("label", "index", "box", "mask")


def joined_manifest(manifests: Sequence[Manifest], depth: int | None = None) -> Manifest:
    """The manifest of several layers' stores side by side; its identity follows from theirs.

    Args:
        manifests: of stores of one layer each, in order.
        depth: layers of the backbone, where that is known.

    Raises:
        IceprobeError: if they aren't of different layers of one backbone on the same images, extracted
            alike.
    """
    first, *others = manifests
    layers = [layer_of(one) for one in manifests]
    for layer in layers:
        if layers.count(layer) > 1:
            raise IceprobeError(f"two stores are of layer {layer}: give one of each layer")
    for one, layer in zip(others, layers[1:], strict=True):
        for what, ours, theirs in zip(_ALIKE, _alike(first), _alike(one), strict=True):
            if ours != theirs:
                raise IceprobeError(
                    f"the stores of layers {layers[0]} and {layer} differ in {what}: extract both by "
                    "one iceprobe.extract_layers(…), or one iceprobe run --layers"
                )
    patches = any(one.settings.patches for one in manifests)
    shapes = dict(zip(layers, (one.shape for one in manifests), strict=True))
    return first.model_copy(
        update={
            "backbone": joined_backbone([one.backbone for one in manifests]),
            "settings": first.settings.model_copy(update={"patches": patches}),
            "shape": JoinedShape.of(shapes, depth),
        }
    )


def joined_backbone(records: Sequence[BackboneRecord]) -> BackboneRecord:
    """The record of a backbone that reads the layers of ``records`` in one pass."""
    first = records[0]
    spec, layers = parse_spec(first.spec), [one.identity["layer"] for one in records]
    text = ",".join(map(str, layers))
    differing = {
        key: [one.identity.get(key) for one in records]
        for key in dict.fromkeys(key for one in records for key in one.identity)
        if any(one.identity.get(key) != first.identity.get(key) for one in records)
    }
    return first.model_copy(
        update={
            "spec": str(changed(spec, options={**spec.options, "layer": text})),
            "identity": {**first.identity, **differing, "layer": layers},
        }
    )


def joined_splits(
    stores: Sequence[Mapping[str, StoredSplit]], shape: JoinedShape
) -> dict[str, StoredSplit]:
    """The splits of ``stores`` together, each by name, of the layers of ``shape``.

    Raises:
        IceprobeError: if a store lacks images that another has.
    """
    found = {}
    for name in stores[0]:
        parts = dict(zip(shape.layers, (store[name] for store in stores), strict=True))
        for layer, part in parts.items():
            if part.live:
                raise IceprobeError(
                    "live tokens are of one layer: store them with iceprobe.extract_layers(…)"
                )
            if not np.array_equal(part.index, stores[0][name].index):
                raise IceprobeError(
                    f"the store of layer {layer} has other images of {name!r} than that of layer "
                    f"{next(iter(parts))} (some were skipped): mend the images and extract again"
                )
        found[name] = joined_split(parts, shape)
    return found


def joined_split(parts: Mapping[int, StoredSplit], shape: JoinedShape) -> StoredSplit:
    """One split of several layers: the same rows of each."""
    first = next(iter(parts.values()))
    layout: Layout = {}
    for layer, part in parts.items():
        layout |= {
            at_layer(name, layer): form
            for name, form in part.layout.items()
            if name not in OF_THE_IMAGE
        }
    layout |= {name: form for name, form in first.layout.items() if name in OF_THE_IMAGE}

    def of(name: str) -> tuple[StoredSplit, str]:
        tensor, _, layer = name.partition("@")
        return (parts[int(layer)] if layer else first), tensor

    def tensors(name: str) -> Tensor:
        part, tensor = of(name)
        return part.tensor(tensor)

    def gather(name: str, rows: np.ndarray, out: Tensor) -> None:
        part, tensor = of(name)
        part.gather(tensor, rows, out)

    views = {layer: part.views for layer, part in parts.items() if part.views is not None}
    return StoredSplit(
        tensors,
        gather,
        shape=shape,
        layout=layout,
        resident=np.all([part.resident for part in parts.values()], 0),
        in_memory=all(part.in_memory for part in parts.values()),
        views=joined_split(views, shape) if views else None,
    )


def layer_of(manifest: Manifest) -> int:
    """The layer that a store is of, from 0.

    Raises:
        IceprobeError: if it is of a module without a choice of layers, or of several already.
    """
    layer = manifest.backbone.identity.get("layer")
    if not isinstance(layer, int):
        raise IceprobeError(
            f"the store of {manifest.backbone.spec!r} is not of one layer by its number: give stores "
            "of iceprobe.extract_layers(…)"
        )
    return layer


_ALIKE = (
    "the backbone",
    "its preprocessing",
    "how they were extracted",
    "the classes",
    "the images",
)
_OF_A_LAYER = ("layer", "vectors", "num_prefix", "has_class")


def _alike(manifest: Manifest) -> tuple[Any, ...]:
    """What stores of different layers have in common, in the order of `_ALIKE`."""
    backbone = manifest.backbone
    return (
        {key: value for key, value in backbone.identity.items() if key not in _OF_A_LAYER},
        backbone.preprocessing,
        manifest.settings.model_copy(update={"patches": True}),
        manifest.dataset.classes,
        {
            name: (one.content, one.images, one.listed, one.masks)
            for name, one in manifest.splits.items()
        },
    )
