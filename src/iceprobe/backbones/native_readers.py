"""Tokens of images of their own shape (`backbones/native.py`).

Models of the NaFlex kind mask padding in their attention, so a batch of several shapes is one forward pass.
Others know no padding: images of the same shape are a forward pass together, the rest are on their own.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.backbones.kinds import ExamplePreprocessing, Ragged
from iceprobe.backbones.native import Grid, NativePreprocessing, pixels_of
from iceprobe.backbones.options import NATIVE
from iceprobe.backbones.readers import LayerReader, TimmReader, evaluating
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import one_line
from iceprobe.tokens import Tokens

TRIED = ((2, 3), (3, 2))  # grids that a model must take


def grids_of(images: Ragged) -> list[Grid]:
    """Rows and columns of each image."""
    assert images.coords is not None
    ends = [own.amax(0) for own in images.coords.split(images.lengths.tolist())]
    return [(int(rows) + 1, int(columns) + 1) for rows, columns in torch.stack(ends).tolist()]


def is_naflex(model: nn.Module) -> bool:
    """Whether it is timm's NaFlexVit, which older versions don't have."""
    return any(kind.__name__ == "NaFlexVit" for kind in type(model).__mro__)


class NaFlexReader(TimmReader):
    """Tokens of timm's NaFlexVit, which masks padding."""

    def forward_layers(self, images: Any) -> list[Tokens]:
        """Tokens of a `Ragged` of patches, one for each of ``layers``."""
        patches, mask, coords = images.padded(), images.mask, images.padded_coords
        assert coords is not None
        if not getattr(self.model.embeds, "channels_last", True):
            cells = patches.unflatten(2, (*self.model.embeds.patch_size, -1))
            patches = cells.permute(0, 1, 4, 2, 3).flatten(2)
        whole = self.norm and self.last in self.layers and self.pooled_class
        output = self.model.forward_intermediates(
            {"patches": patches, "patch_coord": coords.long(), "patch_valid": mask},
            indices=sorted(self.layers),
            intermediates_only=not whole,
            **self._options,
        )
        features, found = output if whole else (None, output)
        tokens = {}
        for layer, one in zip(sorted(self.layers), found, strict=True):
            own, prefix = one if self.num_prefix else (one, one[:, :0])
            vectors = {}
            if whole and layer == self.last:
                vectors["pooled"] = self.model.forward_head(
                    features, pre_logits=True, patch_valid=mask
                )
            tokens[layer] = Tokens(own, prefix, None, self.has_class, vectors, mask, coords)
        return [tokens[layer] for layer in self.layers]


class ByShape(LayerReader):
    """Tokens of a reader of pictures ``(B, C, H, W)``, those of the same shape in one forward pass."""

    def __init__(self, reader: LayerReader, preprocessing: NativePreprocessing):
        super().__init__(reader.model, reader.layers, reader.norm, reader.depth)
        del self.model  # the reader's alone
        self.reader, self.patch = reader, preprocessing.patch_size
        self.pooled_class = reader.pooled_class

    def forward_layers(self, images: Any) -> list[Tokens]:
        """Tokens of a `Ragged` of patches, one for each of ``layers``.

        Raises:
            IceprobeError: if the reader gives another number of tokens than an image has patches.
        """
        rows_of: dict[Grid, list[int]] = defaultdict(list)
        for row, grid in enumerate(grids_of(images)):
            rows_of[grid].append(row)
        own = images.values.split(images.lengths.tolist())
        found = [
            self.reader.forward_layers(
                pixels_of(torch.stack([own[row] for row in rows]), grid, self.patch)
            )
            for grid, rows in rows_of.items()
        ]
        for grid, layers in zip(rows_of, found, strict=True):
            for tokens in layers:
                if tokens.patches.shape[1] != grid[0] * grid[1]:
                    raise IceprobeError(
                        f"gives {tokens.patches.shape[1]} tokens of an image of {grid[0]} x {grid[1]} patches"
                    )
        order = torch.tensor([row for rows in rows_of.values() for row in rows]).argsort()
        order = order.to(images.device)
        return [_together(list(layer), order, images) for layer in zip(*found, strict=True)]

    def at(self, layers: tuple[int, ...]) -> "ByShape":
        other = super().at(layers)
        assert isinstance(other, ByShape)
        other._modules = {"reader": self.reader.at(layers)}
        return other


def _together(parts: list[Tokens], order: Tensor, images: Ragged) -> Tokens:
    """Tokens of images by shape → of all, in their ``order``, with padding."""
    most = int(images.lengths.max())
    padded = [F.pad(one.patches, (0, 0, 0, most - one.patches.shape[1])) for one in parts]
    return Tokens(
        torch.cat(padded)[order],
        torch.cat([one.prefix for one in parts])[order],
        None,
        parts[0].has_class,
        {name: torch.cat([one.vectors[name] for one in parts])[order] for name in parts[0].vectors},
        images.mask,
        images.padded_coords,
    )


def native_reader(
    reader: LayerReader, preprocessing: ExamplePreprocessing, spec: str, masks: bool = False
) -> LayerReader:
    """A reader of images of their own shape around the one of pictures, which it is if images have one size.

    Args:
        reader: of pictures ``(B, C, H, W)``.
        masks: whether it takes a `Ragged` itself.

    Raises:
        IceprobeError: if the model takes images of one shape alone.
    """
    if not isinstance(preprocessing, NativePreprocessing):
        return reader
    model = reader.model
    if isinstance(reader, TimmReader) and is_naflex(model) and model.embeds.is_linear:
        made: LayerReader = NaFlexReader(model, reader.layers, reader.norm)
    else:
        made = reader if masks else ByShape(reader, preprocessing)
    patch, channels = preprocessing.patch_size, preprocessing.channels
    tried = Ragged.together(
        [
            preprocessing.patchified(torch.zeros(channels, rows * patch, columns * patch))
            for rows, columns in TRIED
        ]
    )
    like = next(model.parameters())
    try:
        with torch.no_grad(), evaluating(made):
            made.forward_layers(tried.to(like.device, like.dtype))
    except (RuntimeError, ValueError, TypeError, AssertionError, IceprobeError) as error:
        raise IceprobeError(
            f"{spec}: image_size={NATIVE} is for models that take images of any shape, and "
            f"{type(model).__name__} doesn't ({one_line(error, 120)}): give image_size= a number of pixels"
        ) from error
    return made
