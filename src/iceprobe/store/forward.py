"""One forward pass of the frozen backbone: images → the tensors that are stored, and their checks."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from iceprobe.backbones.kinds import Inputs, plural
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Split
from iceprobe.store.examples import named
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.layout import DTYPES, STORED, Layout, token_layout
from iceprobe.store.quantisation import check_rounding, dequantise, quantise, rounding
from iceprobe.store.shards import LENGTH
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

# What `forward` gives for each image beside its tokens; it isn't stored.
FLAGS: Layout = {
    "finite": (torch.bool, ()),
    "fits": (torch.bool, ()),
    "rounding": (torch.float32, ()),
}


def autocast(device: torch.device, name: str) -> torch.autocast:
    """Autocast to the dtype called ``name``; ``float32`` switches it off."""
    dtype = DTYPES[name]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def forward(
    backbone: "Backbone", images: Inputs, device: torch.device, settings: ExtractionSettings
) -> list[dict[str, Tensor]]:
    """Tensors of each layer as they are stored, by name, and `FLAGS`.

    ``finite (b,)``: whether an image's tokens are finite; ``fits (b,)``: whether the stored dtype can
    represent them; ``rounding (b,)``: the rounding of the whole batch as a share of its variance.

    Args:
        backbone: on ``device``.
        images: ``(b, C, S, S)``, normalised, or other examples as the backbone reads them.
        device: of the forward pass.
        settings: of the extraction.

    Raises:
        IceprobeError: if the batch doesn't fit into the memory of the device.
    """
    try:
        with torch.no_grad(), autocast(device, settings.forward_dtype):
            layers = backbone.forward_layers(images.to(device, non_blocking=True))
        with torch.no_grad():
            ragged = [one.ragged for one in backbone.joined_shape.layers.values()]
            return [
                _as_stored(behind(tokens, one), settings)
                for tokens, one in zip(layers, ragged, strict=True)
            ]
    except torch.OutOfMemoryError as error:
        raise IceprobeError(
            f"a batch of {len(images)} {plural(backbone.preprocessing.kind)} doesn't fit into the "
            f"memory of {device}: try batch_size={max(1, settings.batch_size // 2)}"
        ) from error


def empty_batch(backbone: "Backbone", settings: ExtractionSettings) -> dict[str, Tensor]:
    """What :func:`forward` would give for a batch without images, for one layer."""
    layout = token_layout(backbone.shape, settings)
    return {
        name: torch.empty(0, *(max(side, 0) for side in size), dtype=dtype)
        for name, (dtype, size) in (layout | FLAGS).items()
    }


def check_finite(
    tensors: dict[str, Tensor], split: Split, rows: np.ndarray, settings: ExtractionSettings
) -> None:
    """Raise for the first of ``rows`` whose tokens aren't finite, or too large for the stored dtype.

    Also if rounding takes too much of the variance. ``tensors`` are one layer's of :func:`forward`.
    """
    for flag in ("finite", "fits"):
        if not tensors[flag].all():
            name = named(split, int(rows[int(tensors[flag].logical_not().nonzero()[0])]))
            raise IceprobeError(_not_finite(name, settings, overflow=flag == "fits"))
    check_rounding(
        rounding_share(tensors),
        f"tokens={settings.tokens}",
        f"store them with tokens={'float16' if settings.tokens == 'int8' else 'float32'}",
    )


def rounding_share(tensors: dict[str, Tensor]) -> float:
    """``rounding`` of a batch of :func:`forward`, to three digits."""
    return float(f"{float(tensors['rounding'].amax()):.3g}") if len(tensors["rounding"]) else 0.0


def _as_stored(tokens: Tokens, settings: ExtractionSettings) -> dict[str, Tensor]:
    of_patches, of_prefix = STORED[settings.tokens]
    mean, prefix = tokens.mean, tokens.prefix.to(of_prefix)
    # A NaN or an infinity in any patch makes one in the mean.
    finite = _finite(mean) & _finite(tokens.prefix)
    fits = _finite(prefix)
    tensors = {"prefix": prefix, "mean": mean}
    share = mean.new_zeros((), dtype=torch.float32)
    if settings.patches and of_patches is torch.int8:  # every finite token fits
        patches, scales = quantise(tokens.patches)
        share = _share(tokens, dequantise(patches, scales, torch.float32))
        tensors = {"patches": patches, "scales": scales, **tensors}
    elif settings.patches:
        patches = tokens.patches.to(of_patches)
        fits &= _finite(patches)
        if of_patches.itemsize < tokens.patches.dtype.itemsize:
            share = _share(tokens, patches)
        tensors = {"patches": patches, **tensors}
    if settings.patches and tokens.coords is not None:
        tensors["coords"] = tokens.coords.float()
        finite &= _finite(tokens.coords)
    if tokens.mask is not None:
        tensors[LENGTH] = tokens.mask.sum(1)
    for name, vector in tokens.vectors.items():
        tensors[name] = vector.float()
        finite &= _finite(vector)
    return tensors | {"finite": finite, "fits": fits, "rounding": share.expand(len(mean)).float()}


def behind(tokens: Tokens, ragged: bool) -> Tokens:
    """The same tokens, each example's first and zeros behind them, if examples differ in their number.

    Raises:
        ValueError: if a backbone masks tokens that says that examples have as many.
    """
    if tokens.mask is None and ragged:
        return replace(
            tokens, mask=tokens.patches.new_ones(tokens.patches.shape[:2], dtype=torch.bool)
        )
    if tokens.mask is None:
        return tokens
    if not ragged:
        raise ValueError("tokens have a mask, and those of a blank image had none: give one always")
    first = torch.argsort(tokens.mask.int(), dim=1, descending=True, stable=True)
    mask = tokens.mask.gather(1, first)

    def moved(tensor: Tensor) -> Tensor:
        there = first[..., None].expand(-1, -1, tensor.shape[2])
        return tensor.gather(1, there).masked_fill(~mask[..., None], 0.0)

    coords = None if tokens.coords is None else moved(tokens.coords)
    return replace(tokens, patches=moved(tokens.patches), mask=mask, coords=coords)


def _share(tokens: Tokens, stored: Tensor) -> Tensor:
    """`rounding` of the patches of a batch, padding left out."""
    if tokens.mask is None:
        return rounding(tokens.patches, stored)
    return rounding(tokens.patches[tokens.mask][None], stored[tokens.mask][None])


def _finite(tensor: Tensor) -> Tensor:
    """``(b,)``: whether all values of each image are finite."""
    if tensor.numel() == 0:
        return torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
    low, high = torch.aminmax(tensor.flatten(1), dim=1)  # one pass; both are NaN if one value is
    return low.isfinite() & high.isfinite()


def _not_finite(name: str, settings: ExtractionSettings, overflow: bool) -> str:
    if overflow:
        dtype = str(STORED[settings.tokens][1]).removeprefix("torch.")
        return f"tokens of {name} are too large for {dtype}: store them with tokens=bfloat16"
    if settings.forward_dtype != "float32":
        return (
            f"tokens of {name} are not finite in a {settings.forward_dtype} forward pass: "
            "use forward_dtype=float32"
        )
    return f"tokens of {name} are not finite: check it and the backbone's weights"
