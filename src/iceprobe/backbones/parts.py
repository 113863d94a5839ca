"""A backbone of images, or of clips, over examples of several: frames, clips of a video, images of a bag.

    example of L parts ─▶ L inputs of the backbone ─▶ L · N tokens, or one vector a part

Every part is read by itself, as the backbone reads one example. Prefix tokens and vectors are the means over
the parts.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.backbones.bag_preprocessing import BagPreprocessing
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.clip_preprocessing import ClipPreprocessing
from iceprobe.backbones.kinds import Inputs, Ragged, plural
from iceprobe.backbones.options import PartOptions
from iceprobe.backbones.readers import LayerReader
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens

AT_ONCE = 256  # parts in one pass: a batch of bags has any number of images


@dataclass(frozen=True)
class Joining:
    """How the tokens of parts become those of an example.

    Attributes:
        each: ``"patches"``: all tokens of every part; ``"pooled"``: one vector a part, the one that linear
            probes read by default: the class token where there is one, else the mean of the patches.
        parts: L, where all examples have so many; ``None`` for `Ragged` examples.
        clips: whether a part is several frames.
        pooled_class: of the backbone: the mean is read in place of the class token.
        averaged: clips that probes read each by itself (`TokenShape.parts`); 1: all tokens together.
    """

    each: str
    parts: int | None
    clips: bool = False
    pooled_class: bool = False
    averaged: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the tokens and how they are read, of a backbone's identity."""
        return {"each": self.each} | ({} if self.averaged == 1 else {"averaged": True})

    def pieces(self, examples: Inputs) -> Sequence[Tensor]:
        """The parts of the examples in batches of `AT_ONCE`; in one where a graph is exported for any number."""
        parts = self.inputs(examples)
        return [parts] if torch.compiler.is_exporting() else parts.split(AT_ONCE)

    def inputs(self, examples: Inputs) -> Tensor:
        """``(B, L, C, S, S)``, ``(B, L · T, C, S, S)`` or ragged examples → the parts, one after the other."""
        if isinstance(examples, Ragged):
            return examples.values
        if not self.clips:
            return examples.flatten(0, 1)
        assert self.parts is not None
        return examples.unflatten(1, (self.parts, -1)).flatten(0, 1)

    def tokens(self, found: Tokens, examples: Inputs) -> Tokens:
        """Tokens of the parts → of the examples."""
        patches, grid = self._patches(found)
        if isinstance(examples, Ragged):
            return self._of_ragged(found, patches, examples)
        assert self.parts is not None

        def mean(tensor: Tensor) -> Tensor:
            return tensor.unflatten(0, (-1, self.parts)).mean(1)

        vectors = {name: mean(vector) for name, vector in found.vectors.items()}
        joined = patches.unflatten(0, (-1, self.parts)).flatten(1, 2)
        return Tokens(joined, mean(found.prefix), grid, found.has_class, vectors)

    def _patches(self, found: Tokens) -> tuple[Tensor, tuple[int, ...] | None]:
        """``(ΣL, N, D)`` or ``(ΣL, 1, D)``, and the grid of an example's."""
        parts = self.parts or 0
        if self.each == "pooled":
            chosen = found.class_token if found.has_class and not self.pooled_class else None
            vector = found.mean.to(found.patches.dtype) if chosen is None else chosen
            return vector[:, None], (parts,)
        if found.grid is None:
            return found.patches, None
        time = found.grid[:-2]  # of a clip
        return found.patches, (parts * (time[0] if time else 1), *found.grid[-2:])

    def _of_ragged(self, found: Tokens, patches: Tensor, examples: Ragged) -> Tokens:
        lengths = examples.lengths

        def mean(tensor: Tensor) -> Tensor:
            full = examples.padded(tensor.flatten(1)).sum(1) / lengths[:, None]
            return full.unflatten(1, tensor.shape[1:])

        each = patches.shape[1]
        padded = examples.padded(patches).flatten(1, 2)
        mask = examples.mask.repeat_interleave(each, 1)
        coords = examples.padded_coords
        if coords is not None:  # of all tokens of an image: where the image lies
            coords = coords.repeat_interleave(each, 1)
        vectors = {name: mean(vector) for name, vector in found.vectors.items()}
        return Tokens(padded, mean(found.prefix), None, found.has_class, vectors, mask, coords)


def _together(pieces: Sequence[Tokens]) -> Tokens:
    """The tokens of several batches of parts, as of one."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    return replace(
        first,
        patches=torch.cat([one.patches for one in pieces]),
        prefix=torch.cat([one.prefix for one in pieces]),
        vectors={name: torch.cat([one.vectors[name] for one in pieces]) for name in first.vectors},
    )


class PartReader(nn.Module):
    """Runs a reader without a choice of layers over the parts of examples."""

    def __init__(self, reader: nn.Module, joining: Joining):
        super().__init__()
        self.reader, self.joining = reader, joining
        self.pooled_class: bool = joining.pooled_class
        self.averaged = joining.averaged

    def forward(self, examples: Inputs) -> Tokens:
        """Tokens of ``(B, L, C, S, S)`` or ragged examples."""
        found = [self.reader(piece) for piece in self.joining.pieces(examples)]
        return self.joining.tokens(_together(found), examples)


class LayersOfParts(LayerReader):
    """The same of a reader of layers."""

    def __init__(self, reader: LayerReader, joining: Joining):
        super().__init__(reader.model, reader.layers, reader.norm, reader.depth)
        self.reader, self.joining = reader, joining
        self.pooled_class = joining.pooled_class
        self.averaged = joining.averaged

    def forward_layers(self, examples: Inputs) -> list[Tokens]:
        """Tokens of ``(B, L, C, S, S)`` or ragged examples, one for each of ``layers``."""
        pieces = self.joining.pieces(examples)
        found = zip(*(self.reader.forward_layers(piece) for piece in pieces), strict=True)
        return [self.joining.tokens(_together(one), examples) for one in found]

    def at(self, layers: tuple[int, ...]) -> "LayersOfParts":
        reader = copy.copy(self)
        reader._modules = {**self._modules, "reader": self.reader.at(layers)}
        reader.layers = layers
        return reader


def over_parts(reader: nn.Module, joining: Joining) -> nn.Module:
    """``reader`` over the parts of examples."""
    if isinstance(reader, LayerReader):
        return LayersOfParts(reader, joining)
    return PartReader(reader, joining)


def of_parts(backbone: Backbone, asked: PartOptions) -> Backbone:
    """A backbone of images that reads clips frame by frame, or bags image by image; ``asked`` has an option.

    Raises:
        IceprobeError: if the backbone reads other examples than images, or the options don't say how many
            frames, or exclude each other.
    """
    spec = backbone.spec
    name, value = next(iter(asked.given.items()))
    if (kind := backbone.preprocessing.kind) != "image":
        raise IceprobeError(
            f"{spec} reads {plural(kind)}, and {name}={value} is of models of images: drop it"
        )
    if asked.reads == "bags":
        return _of_bags(backbone, asked)
    if asked.frames is None:
        raise IceprobeError(
            f"{spec}: {name}={value} is of examples of several images: say how many frames of a video are "
            "read, frames=8, or that these are bags, reads=bags"
        )
    preprocessing = ClipPreprocessing(
        backbone.of_images("reading frame by frame"),
        asked.frames,
        asked.stride,
        asked.fps,
        1 if asked.clips is None else asked.clips,
    )
    each = asked.each or "patches"
    alone = each == "pooled" and preprocessing.frames == 1
    joining = Joining(
        each,
        preprocessing.shape[0],
        pooled_class=backbone.pooled_class,
        averaged=averaged_clips(spec, asked, preprocessing.clips, alone),
    )
    return backbone.with_reader(
        over_parts(backbone.reader, joining),
        preprocessing,
        joining.settings,
        spread(spec, preprocessing),
    )


def averaged_clips(spec: str, asked: PartOptions, clips: int, alone: bool) -> int:
    """How many clips of an example probes read each by itself; 1 where ``asked`` doesn't say so.

    Args:
        spec: of the backbone.
        asked: its options.
        clips: that it reads of an example.
        alone: whether it keeps one vector of each.

    Raises:
        IceprobeError: if there is one clip, or nothing to pool in each.
    """
    if not asked.averaged:
        return 1
    if clips == 1:
        raise IceprobeError(
            f"{spec}: averaged=true is of several clips of a video, and one is read: add clips=3, or drop it"
        )
    if alone:
        raise IceprobeError(
            f"{spec}: averaged=true lets probes pool each clip by itself, and each=pooled keeps one vector of it: "
            "drop one of them"
        )
    return clips


def _of_bags(backbone: Backbone, asked: PartOptions) -> Backbone:
    for name in ("frames", "stride", "fps", "clips", "averaged"):
        if (value := getattr(asked, name)) is not None:
            raise IceprobeError(
                f"{backbone.spec}: {name}={value} is of clips and reads=bags of bags: keep one"
            )
    each = asked.each or "pooled"
    joining = Joining(each, None, pooled_class=backbone.pooled_class)
    preprocessing = BagPreprocessing(backbone.of_images("reading image by image"))
    lines = [] if asked.each else [
        f"{backbone.spec}: one vector of each image of a bag is a token, the one that linear probes read "
        "(each=patches takes all of its tokens)"
    ]  # fmt: skip
    reader = over_parts(backbone.reader, joining)
    return backbone.with_reader(reader, preprocessing, joining.settings, lines)


def spread(spec: str, preprocessing: ClipPreprocessing) -> list[str]:
    """A line if nothing says which frames are read."""
    if preprocessing.stride is not None or preprocessing.fps is not None:
        return []
    return [
        f"{spec}: {preprocessing.frames} frames are spread evenly over each video (stride= or fps= reads a "
        "window of it)"
    ]
