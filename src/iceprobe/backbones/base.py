"""Backbone: a frozen encoder with its preprocessing, examples → tokens."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.backbones.attention import CaughtAttention
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged, plural, singular
from iceprobe.backbones.layers import resolve_layers
from iceprobe.backbones.native import NativePreprocessing
from iceprobe.backbones.options import NATIVE
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.backbones.readers import LayerReader, TimmReader, evaluating
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.datasets.base import Dataset
from iceprobe.machine.products import FastLinear
from iceprobe.tokens import HasTokenShape, JoinedShape, JoinedTokens, Tokens, TokenShape

#: How a backbone of images reads other kinds.
PART_BY_PART = {
    "bag": "add reads=bags to the backbone, which then reads the images of each one by one",
    "clip": "add frames=8 to the backbone, which then reads 8 frames of each one by one",
}


class Backbone(HasTokenShape, nn.Module):
    """A frozen encoder: always in eval mode and without gradients.

    ``train()`` does nothing. A ``borrowed`` module, which may still be in training, keeps its
    training mode and ``requires_grad`` flags: it is in eval mode during forward passes only.

    :meth:`forward_layers` returns all layers of a backbone from one pass. :meth:`per_layer` splits
    it into backbones of one layer each; only these have the attributes from ``shape`` on.

    Attributes:
        spec: the spec string that loads it.
        name: short, for folders and tables.
        paradigm: how it was pre-trained; ``"unknown"`` if its name doesn't show it.
        preprocessing: example → input of ``forward``, and the kind of examples that it reads.
        assumed: assumptions about its weights or preprocessing, a line each: logged when it is
            loaded, kept in the store and in every result (docs/assumptions.md).
        pooled_class: whether the model was trained on the output of a learned pooler rather than
            on its tokens, so that k-NN and linear probes read the mean of patches.
        layers: the layers it reads, counted from 0, in the given order; ``(0,)`` for a module
            without a choice of layers.
        depth: how many layers it has; ``None`` for such a module.
        shape: of one image's tokens. Its fields (``dim``, ``num_tokens``, ``num_prefix``, ``grid``,
            ``has_class``, ``vectors``) are attributes too.
    """

    def __init__(
        self,
        reader: nn.Module,
        preprocessing: ExamplePreprocessing,
        *,
        spec: str,
        name: str,
        paradigm: str = "unknown",
        settings: Mapping[str, Any] | None = None,
        borrowed: bool = False,
        assumed: Sequence[str] = (),
    ):
        """
        Args:
            reader: a batch as ``preprocessing`` makes it, ``(B, C, S, S)`` of images → ``Tokens``; a
                ``LayerReader`` if it has a choice of layers.
            settings: what else determines the tokens (architecture, norm, …) besides weights,
                preprocessing and layer, as JSON values; part of the identity.
            borrowed: whether the module is in use elsewhere, so that its training mode and
                ``requires_grad`` flags must not change.

        Raises:
            IceprobeError: if the reader doesn't make tokens of examples of this preprocessing.
        """
        super().__init__()
        self.reader = reader
        self.preprocessing = preprocessing
        self.spec, self.name, self.paradigm = spec, name, paradigm
        self.pooled_class: bool = getattr(reader, "pooled_class", False)
        self.assumed = tuple(assumed)
        self._settings = dict(settings or {})
        self.training = False
        if not borrowed:
            reader.eval().requires_grad_(False)
        self.layers = reader.layers if isinstance(reader, LayerReader) else (0,)
        self.depth = reader.depth if isinstance(reader, LayerReader) else None
        self._shapes = tuple(tokens.shape for tokens in self._tokens_of_blank())

    @torch.no_grad()
    def forward(self, images: Inputs) -> Tokens:
        """Tokens of normalised images ``(B, C, S, S)``, or of other examples, without gradient.

        They are cast to the dtype of the weights, and must be on the same device.

        Raises:
            IceprobeError: if the backbone reads several layers.
        """
        self._only_one("forward")
        return self.forward_layers(images)[0]

    @torch.no_grad()
    def forward_layers(self, images: Inputs) -> list[Tokens]:
        """Tokens of each of ``layers`` from one forward pass; otherwise as :meth:`forward`."""
        images = images.to(self._like.dtype)
        with evaluating(self.reader), FastLinear():
            if isinstance(self.reader, LayerReader):
                return self.reader.forward_layers(images)
            return [self.reader(images)]

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """Attention weights of the class token in the block that is read (default: the last).

        Args:
            images: normalised, ``(B, C, S, S)``, as for :meth:`forward`.

        Returns:
            ``(B, heads, N)``, one map over the patches for each head, in float32 (float64 if the
            backbone is). The weights of prefix tokens are left out, so a map sums to at most 1.

        Raises:
            IceprobeError: if the backbone reads several layers, has no class token, or isn't built
                of attention blocks like timm's vision transformers and the bundled ones.
        """
        shape = self._only_one("attention")
        if not shape.has_class:
            raise IceprobeError(
                f"backbone {self.spec!r} has no class token, so there is no attention of it: take "
                "the attention of a probe"
            )
        blocks = getattr(getattr(self.reader, "model", None), "blocks", None)
        if not isinstance(self.reader, TimmReader) or not isinstance(
            blocks, nn.Sequential | nn.ModuleList
        ):
            raise IceprobeError(
                f"the attention of backbone {self.spec!r} can't be read: only that of timm's vision "
                "transformers and of bundled ones can"
            )
        caught = CaughtAttention()
        with caught.within(blocks[self.layers[0]]):
            self.forward_layers(images)
        expected = shape.num_prefix + shape.num_tokens
        if caught.weights is None or caught.weights.shape[-1] != expected:
            raise IceprobeError(
                f"block {self.layers[0]} of backbone {self.spec!r} has no attention of the class "
                "token over all patches: choose another with layer="
            )
        return caught.weights[:, :, shape.num_prefix :]

    def per_layer(self) -> list["Backbone"]:
        """A backbone of one layer for each of ``layers``, all on the same module.

        Each equals the model loaded with only that ``layer=``: same tokens, identity and spec.
        """
        if len(self.layers) == 1:
            return [self]
        return list(map(self._single, self.layers, self._shapes))

    def at_layers(self, layers: Sequence[int]) -> "Backbone":
        """The same module read at ``layers``: numbers from 0, or from −1, the last.

        Raises:
            IceprobeError: for a module without a choice of layers, or a layer that it doesn't have.
        """
        if not isinstance(self.reader, LayerReader):
            raise IceprobeError(
                f"backbone {self.spec!r} has no choice of layers: take one of timm:, transformers:, "
                "open_clip: or bundled:, or a probe without layers="
            )
        resolved = resolve_layers(tuple(layers), self.reader.depth, self.name)
        spec = parse_spec(self.spec)
        other = copy.copy(self)
        other._modules = {"reader": self.reader.at(resolved)}
        other.layers = resolved
        text = ",".join(map(str, resolved))
        other.spec = str(replace(spec, options={**spec.options, "layer": text}))
        other._shapes = tuple(tokens.shape for tokens in other._tokens_of_blank())
        return other

    def with_reader(
        self,
        reader: nn.Module,
        preprocessing: ExamplePreprocessing,
        settings: Mapping[str, Any],
        assumed: Sequence[str] = (),
    ) -> "Backbone":
        """The same weights, read by another reader of other examples.

        Args:
            reader: around the same module, with as many layers.
            preprocessing: of the examples.
            settings: what else determines the tokens.
            assumed: further lines.
        """
        other = copy.copy(self)
        other._modules = {"reader": reader}
        other.preprocessing = preprocessing
        other._settings = {**self._settings, **settings}
        other.assumed = (*self.assumed, *assumed)
        other._shapes = tuple(tokens.shape for tokens in other._tokens_of_blank())
        return other

    def _single(self, layer: int, shape: TokenShape) -> "Backbone":
        assert isinstance(self.reader, LayerReader)
        spec = parse_spec(self.spec)
        single = copy.copy(self)  # shares the dict of submodules too: replaced in the next line
        single._modules = {"reader": self.reader.single(layer)}
        single.layers, single._shapes = (layer,), (shape,)
        single.spec = str(replace(spec, options={**spec.options, "layer": str(layer)}))
        return single

    @property
    def shape(self) -> TokenShape:
        return self._stated(self._only_one("shape"))

    @property
    def joined_shape(self) -> JoinedShape:
        """Shape of the tokens of all layers that it reads, side by side."""
        return JoinedShape.of(
            dict(zip(self.layers, map(self._stated, self._shapes), strict=True)), self.depth
        )

    def _stated(self, shape: TokenShape) -> TokenShape:
        """With what its tokens alone don't show."""
        parts = getattr(self.reader, "averaged", 1)
        return replace(shape, pooled_class=self.pooled_class, parts=parts)

    def joined(self, images: Inputs) -> JoinedTokens:
        """Tokens of all layers that it reads, from one forward pass."""
        return JoinedTokens.of(dict(zip(self.layers, self.forward_layers(images), strict=True)))

    def _only_one(self, asked: str) -> TokenShape:
        if len(self._shapes) > 1:
            raise IceprobeError(
                f"backbone {self.spec!r} reads {len(self._shapes)} layers, {asked} is of one: "
                "use forward_layers(images), or per_layer() for a backbone of each"
            )
        return self._shapes[0]

    def check_reads(self, dataset: Dataset) -> None:
        """Refuse a data set whose examples are of another kind than those that it reads.

        Raises:
            IceprobeError: naming both kinds.
        """
        read, held = self.preprocessing.kind, dataset.kind
        if read != held:
            of_one_size = isinstance(self.preprocessing, Preprocessing)
            remedy = PART_BY_PART.get(held) if of_one_size else None
            raise IceprobeError(
                f"backbone {self.spec!r} reads {plural(read)}, and {dataset.spec} holds {plural(held)}: "
                + (remedy or f"take a backbone of {plural(held)}, or data of {plural(read)}")
            )

    def of_images(self, what: str) -> Preprocessing:
        """Its preprocessing, for what reads single images only: ``what``, ``"an ONNX file"``.

        Raises:
            IceprobeError: if it reads other examples, or images of their own shape.
        """
        if isinstance(self.preprocessing, NativePreprocessing):
            raise IceprobeError(
                f"{what} is of images of one size, and backbone {self.spec!r} keeps their shape: give image_size= "
                f"a number of pixels in place of {NATIVE}"
            )
        if not isinstance(self.preprocessing, Preprocessing):
            raise IceprobeError(
                f"{what} is of images, and backbone {self.spec!r} reads {plural(self.preprocessing.kind)}: "
                "take a backbone of images, or iceprobe run"
            )
        return self.preprocessing

    def train(self, mode: bool = True) -> "Backbone":
        """Does nothing: a backbone is frozen."""
        return self

    def identity(self) -> dict[str, Any]:
        """All that determines the tokens, as JSON values: equal identities mean equal tokens.

        Weights (parameters and buffers) are hashed by name, dtype, shape and bytes at each call.

        Raises:
            IceprobeError: if the backbone reads several layers, or weights are on the meta device.
        """
        self._only_one("identity")
        layer = {"layer": self.layers[0]} if isinstance(self.reader, LayerReader) else {}
        vectors = {"vectors": dict(self.vectors)} if self.vectors else {}
        return {
            **self._settings,
            **layer,
            **vectors,
            "num_prefix": self.num_prefix,
            "has_class": self.has_class,
            "preprocessing": self.preprocessing.as_dict(),
            "weights": _hash_weights(self.reader),
        }

    def macs(self) -> int:
        """Multiply-accumulates of one blank example's forward pass, counted in a real pass."""
        with FlopCounterMode(display=False) as counter:
            self.forward_layers(self._blank())
        return counter.get_total_flops() // 2

    @property
    def device(self) -> torch.device:
        """The device of its weights, where its inputs must be."""
        return self._like.device

    @property
    def _like(self) -> Tensor:
        return next(self.reader.parameters(), torch.empty(0))

    def _blank(self) -> Inputs:
        return self.preprocessing.blank().to(self.device)

    def _tokens_of_blank(self) -> list[Tokens]:
        blank = self._blank()
        try:
            return self.forward_layers(blank)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            shape = blank.values.shape if isinstance(blank, Ragged) else blank.shape[1:]
            size, kind = "x".join(map(str, shape)), self.preprocessing.kind
            check = (
                "image_size, mean and std" if kind == "image" else f"how {plural(kind)} are read"
            )
            raise IceprobeError(
                f"backbone {self.spec!r} failed on a blank {size} {singular(kind)} "
                f"({' '.join(str(error).split())}): check {check}"
            ) from error


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            raise IceprobeError(f"weights {name!r} are on the meta device: load them first")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
