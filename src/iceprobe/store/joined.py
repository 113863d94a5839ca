"""Stores of one layer each, read side by side as one store of several layers; nothing is written.

The stores stay what they are on disk. A tensor of layer 11 is called ``patches@11``; what every layer
has of an image (its targets, its row, its columns, its box, its mask or depth map) is read from the first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.store.layout import COLUMN, Layout
from iceprobe.store.split import StoredSplit
from iceprobe.tokens import JoinedShape, at_layer

OF_THE_IMAGE = ("label", "index", "box", "mask", "cover", "depth")


def of_the_image(tensor: str) -> bool:
    """Whether every layer has the same of an image."""
    return tensor in OF_THE_IMAGE or tensor.startswith(COLUMN)


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
                    f"the store of layer {layer} has other examples of {name!r} than that of layer "
                    f"{next(iter(parts))} (some were skipped): mend them and extract again"
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
            if not of_the_image(name)
        }
    layout |= {name: form for name, form in first.layout.items() if of_the_image(name)}

    def of(name: str) -> tuple[StoredSplit, str]:
        if of_the_image(name):
            return first, name
        tensor, _, layer = name.partition("@")
        return parts[int(layer)], tensor

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
