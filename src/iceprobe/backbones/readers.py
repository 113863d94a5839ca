"""Readers: modules that run a model and return its tokens.

``norm`` has one meaning in all of them: the model's final norm is applied to every layer that is
read, as if that layer were the last. In models with stages it is applied to the last stage only,
since stages differ in width.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from iceprobe.backbones.layers import Layers, resolve_layers
from iceprobe.backbones.options import OutputOptions
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens


def is_timm(module: nn.Module) -> bool:
    """Whether ``module`` is a model of timm whose token methods are timm's own."""
    return all(
        getattr(type(module), method, None) is not None
        and getattr(type(module), method).__module__.startswith("timm.")
        for method in ("forward_features", "forward_intermediates")
    )


def timm_name(module: nn.Module) -> str:
    """``ARCHITECTURE.TAG`` of a model of timm."""
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    return f"{config.get('architecture', '')}.{config.get('tag') or ''}"


def has_pooler(module: nn.Module) -> bool:
    """Whether the module's pooled output is a learned attention pool (SigLIP, PE)."""
    return getattr(module, "attn_pool", None) is not None


class LayerReader(nn.Module):
    """Tokens of one or several layers of a model, from one forward pass.

    Attributes:
        model: the model.
        layers: counted from 0, in the order of the result.
        depth: how many there are.
        norm: whether the model's final norm is applied.
        pooled_class: whether the model was trained on the output of a learned pooler.
    """

    def __init__(self, model: nn.Module, layers: tuple[int, ...], norm: bool, depth: int):
        super().__init__()
        self.model: Any = model
        self.layers, self.norm, self.depth = layers, norm, depth
        self.pooled_class = has_pooler(model)

    def forward_layers(self, images: Any) -> list[Tokens]:
        """Tokens of images ``(B, C, S, S)``, or of what the preprocessing makes, one for each of ``layers``."""
        raise NotImplementedError

    def forward(self, images: Any) -> Tokens:
        """Tokens of images ``(B, C, S, S)``, for a reader of one layer."""
        (tokens,) = self.forward_layers(images)
        return tokens

    def single(self, layer: int) -> "LayerReader":
        """A reader of one layer, on the same model."""
        return self.at((layer,))

    def at(self, layers: tuple[int, ...]) -> "LayerReader":
        """A reader of other layers, by their numbers from 0, on the same model."""
        reader = copy.copy(self)
        reader.layers = layers
        return reader


class TimmReader(LayerReader):
    """Tokens of a model of timm.

    The last layer with the final norm comes from timm's ``forward_features``; any other layer, and
    the last without norm, from its ``forward_intermediates``. Models that end in a map (CNNs, Swin)
    give the map's cells as patch tokens and no prefix.

    ``vectors["pooled"]`` is timm's ``forward_head(pre_logits=True)``: the output of a learned
    attention pool (SigLIP, PE), or the global pooling of models that end in a map, including the
    norm or layers that follow it in some (ConvNeXt, MobileNetV3). Its width may differ from D.
    """

    def __init__(self, model: Any, layer: Layers = -1, norm: bool = True):
        count = len(model.feature_info)
        super().__init__(model, resolve_layers(layer, count, type(model).__name__), norm, count)
        self.last = count - 1
        self.num_prefix = _num_prefix(model)
        self.has_class = self.num_prefix > 0 and getattr(model, "cls_token", None) is not None
        parameters = inspect.signature(self.model.forward_intermediates).parameters
        self._splits_prefix = "return_prefix_tokens" in parameters
        # Hiera's forward_features leaves tokens in the order of its mask units, and its norm comes
        # after pooling. So only its stages are read, which timm puts back into spatial order.
        self._stages_only = hasattr(model, "reroll")
        self._options: dict[str, Any] = {"stop_early": True, "output_fmt": "NCHW"}
        if self._splits_prefix:
            self._options |= {"output_fmt": "NLC", "return_prefix_tokens": self.num_prefix > 0}
        if "norm" in parameters:
            self._options["norm"] = norm and not self._stages_only
        elif not norm:
            raise IceprobeError(f"{type(model).__name__} has no final norm: drop norm=false")

    def forward_layers(self, images: Tensor) -> list[Tokens]:
        """Tokens of images ``(B, C, S, S)``, one for each of ``layers``."""
        whole = self.norm and self.last in self.layers
        if whole and len(self.layers) == 1 and not self._stages_only:
            return [self._from_features(self.model.forward_features(images), images)]
        features, found = self._intermediates(images, whole)
        tokens = dict(zip(sorted(self.layers), found, strict=True))
        if whole and self._stages_only:
            tokens[self.last] = self._with_pooled(tokens[self.last], features)
        elif whole:
            tokens[self.last] = self._from_features(features, images)
        return [tokens[layer] for layer in self.layers]

    def _from_features(self, features: Any, images: Tensor) -> Tokens:
        if not isinstance(features, Tensor):
            raise IceprobeError(
                f"{type(self.model).__name__} ends in several maps or sets of tokens: choose one "
                "of its layers with layer="
            )
        if features.ndim == 4:
            last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            cells = features.permute(0, 3, 1, 2) if last else features
            return self._with_pooled(tokens_of_map(cells), features)
        tokens = self._split(features, images)
        return self._with_pooled(tokens, features) if has_pooler(self.model) else tokens

    def _with_pooled(self, tokens: Tokens, features: Tensor) -> Tokens:
        if "pre_logits" not in inspect.signature(self.model.forward_head).parameters:
            return tokens  # an encoder without a head, such as MobileNetV5's
        pooled = self.model.forward_head(features, pre_logits=True)
        if pooled.ndim != 2:  # built without global pooling
            return tokens
        return replace(tokens, vectors={"pooled": pooled})

    def _intermediates(self, images: Tensor, whole: bool) -> tuple[Any, list[Tokens]]:
        """The output of ``forward_features`` if ``whole``, and each layer's tokens, ascending."""
        try:
            output = self.model.forward_intermediates(
                images, indices=sorted(self.layers), intermediates_only=not whole, **self._options
            )
        except AssertionError as error:
            layers = ",".join(map(str, self.layers))
            raise IceprobeError(
                f"layer={layers} norm={str(self.norm).lower()} of {type(self.model).__name__}: "
                f"{error}; take another layer or norm"
            ) from error
        features, found = output if whole else (None, output)
        return features, [self._from_intermediate(item, images) for item in found]

    def _from_intermediate(self, found: Any, images: Tensor) -> Tokens:
        if not self._splits_prefix:
            return tokens_of_map(found)
        if not self.num_prefix:
            return self._split(found, images)
        patches, prefix = found
        return Tokens(patches, prefix, self._grid(images, patches.shape[1]), self.has_class)

    def _split(self, features: Tensor, images: Tensor) -> Tokens:
        prefix, patches = features[:, : self.num_prefix], features[:, self.num_prefix :]
        if not patches.shape[1]:
            raise IceprobeError(
                f"{type(self.model).__name__} ends in its class token alone, without patch tokens: "
                "choose a layer of it with layer= and norm=false"
            )
        return Tokens(patches, prefix, self._grid(images, patches.shape[1]), self.has_class)

    def _grid(self, images: Tensor, num_patches: int) -> tuple[int, int] | None:
        embed = getattr(self.model, "patch_embed", None)
        if embed is not None and hasattr(embed, "dynamic_feat_size"):
            rows, columns = embed.dynamic_feat_size(tuple(images.shape[-2:]))
            if rows * columns == num_patches:
                return rows, columns
        return square_grid(num_patches)


class OutputReader(nn.Module):
    """Tokens of any module: from its ``tokens(images)`` method, or its output.

    Attributes:
        model: the module.
        num_prefix: P, prefix tokens at the start of a ``(B, P + N, D)`` output; ``None``: unknown,
            so that such an output can't be read.
        has_class: whether the first of them is a class token; ``None``: if P is above 0.
        pooled_class: whether the model was trained on the output of a learned pooler.
    """

    def __init__(self, model: nn.Module, tokens: OutputOptions, pooled_class: bool):
        super().__init__()
        self.model: Any = model
        self.num_prefix, self.has_class = tokens.num_prefix, tokens.has_class
        self.pooled_class = pooled_class

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of images ``(B, C, S, S)``.

        Raises:
            IceprobeError: if the output is neither tokens nor a map, or if ``num_prefix`` of tokens
                isn't known.
        """
        name = type(self.model).__name__
        if hasattr(self.model, "tokens"):
            tokens = self.model.tokens(images)
            if not isinstance(tokens, Tokens):
                raise IceprobeError(
                    f"{name}.tokens returned {_describe(tokens)}: return an iceprobe.Tokens"
                )
            return tokens
        output = self.model(images)
        if isinstance(output, Tokens):
            return output
        if isinstance(output, Tensor) and output.ndim == 4:
            if self.num_prefix:
                raise IceprobeError(
                    f"{name} returned a map {_describe(output)}, which has no prefix tokens: "
                    f"drop num_prefix={self.num_prefix}"
                )
            return tokens_of_map(output)
        if not isinstance(output, Tensor) or output.ndim != 3:
            raise IceprobeError(
                f"{name} returned {_describe(output)}: return (B, N, D) tokens or a (B, D, H, W) "
                "map, or give the module a method tokens(images) -> iceprobe.Tokens"
            )
        if self.num_prefix is None:
            raise IceprobeError(
                f"{name} returned tokens {_describe(output)}: say how many of them are prefix "
                "tokens with num_prefix= (0 where all are patches)"
            )
        prefix, patches = output[:, : self.num_prefix], output[:, self.num_prefix :]
        has_class = self.num_prefix > 0 if self.has_class is None else self.has_class
        return Tokens(patches, prefix, square_grid(patches.shape[1]), has_class)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has its former mode."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def tokens_of_map(features: Tensor) -> Tokens:
    """The cells of ``(B, D, H, W)`` as patch tokens, row by row; no prefix."""
    patches = features.flatten(2).transpose(1, 2)
    return Tokens(patches, patches[:, :0], (features.shape[2], features.shape[3]))


def square_grid(num_patches: int) -> tuple[int, int] | None:
    """The grid of a square image's patches, ``None`` if their number isn't a square."""
    side = round(num_patches**0.5)
    return (side, side) if side * side == num_patches else None


def grid_over(size: Sequence[int], num_patches: int) -> tuple[int, int] | None:
    """The grid of square patches over an image of ``size`` (height, width); ``None`` if there is none."""
    side = (size[0] * size[1] / max(num_patches, 1)) ** 0.5
    rows, columns = round(size[0] / side), round(size[1] / side)
    return (rows, columns) if rows * columns == num_patches else None


def _num_prefix(model: nn.Module) -> int:
    """``num_prefix_tokens``; timm's models without it have at most a class token."""
    stated = getattr(model, "num_prefix_tokens", None)
    return int(getattr(model, "cls_token", None) is not None) if stated is None else int(stated)


def _describe(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
