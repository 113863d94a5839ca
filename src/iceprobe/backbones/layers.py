"""``layer=``: which blocks of a model are read. 0 is the first block, -1 the last.

One (``layer=3``), several (``layer=0,5,-1``) or all (``layer=all``). In models with stages (CNNs,
Swin, Hiera) a layer is a stage, as their library counts them.
"""

from collections.abc import Sequence
from typing import Literal

from iceprobe.core.errors import IceprobeError

Layers = int | Sequence[int] | Literal["all"]


def parse_layers(text: str) -> Layers:
    """``3``, ``0,5,-1`` or ``all``; ValueError for anything else."""
    if text == "all":
        return "all"
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError("write a number (0 is the first, -1 the last), 0,5,-1 or all") from None
    return layers if len(layers) > 1 else layers[0]


def resolve_layers(layers: Layers, count: int, model: str) -> tuple[int, ...]:
    """Layers counted from 0, in the given order, of a model with ``count`` layers.

    Raises:
        IceprobeError: for a layer out of range, a layer named twice, or no layer.
    """
    if layers == "all":
        return tuple(range(count))
    asked = (layers,) if isinstance(layers, int) else tuple(layers)
    if not asked:
        raise IceprobeError("layer= names no layer: write a number, 0,5,-1 or all")
    for layer in asked:
        if not isinstance(layer, int):
            raise IceprobeError(f"layer={layer!r}: write a number, 0,5,-1 or all")
        if not -count <= layer < count:
            raise IceprobeError(
                f"layer={layer} of {model} is out of range (0 to {count - 1}); -1 is the last"
            )
    resolved = tuple(layer % count for layer in asked)
    for layer in resolved:
        if resolved.count(layer) > 1:
            raise IceprobeError(
                f"layer={','.join(map(str, asked))} of {model} names layer {layer} twice: keep one"
            )
    return resolved
