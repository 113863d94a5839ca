"""The manifests of one layer each → that of all of them side by side. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.store.format import BackboneRecord, Manifest
from iceprobe.tokens import JoinedShape


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
    "the task",
    "the classes",
    "the columns",
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
        manifest.dataset.task,
        manifest.dataset.classes,
        manifest.dataset.values,
        {
            name: (one.content, one.images, one.listed, one.masks, one.depths)
            for name, one in manifest.splits.items()
        },
    )
