"""Readers: modules that take a model's own output apart into tokens."""

import inspect
from typing import Any

from torch import Tensor, nn

from iceprobe.errors import IceprobeError
from iceprobe.tokens import Tokens


def is_timm(module: nn.Module) -> bool:
    """Whether ``module`` is a model of timm whose way to its tokens nobody has overridden."""
    return all(
        getattr(type(module), method, None) is not None
        and getattr(type(module), method).__module__.startswith("timm.")
        for method in ("forward_features", "forward_intermediates")
    )


class TimmReader(nn.Module):
    """Tokens of a model of timm.

    The last layer with the final norm is timm's own ``forward_features``; any other layer, and
    the last without norm, is its ``forward_intermediates``. What has a map at the end instead of
    tokens (CNNs, Swin) gives the map's cells as patch tokens and no prefix.

    Attributes:
        model: the model.
        layer: 0 for the first block (stage, for models with stages), -1 for the last.
        norm: whether the model's final norm is applied.
    """

    def __init__(self, model: Any, layer: int = -1, norm: bool = True):
        super().__init__()
        self.model: Any = model
        self.layer, self.norm = layer, norm
        self.num_prefix = _num_prefix(model)
        self.has_class = self.num_prefix > 0 and getattr(model, "cls_token", None) is not None
        parameters = inspect.signature(self.model.forward_intermediates).parameters
        self._splits_prefix = "return_prefix_tokens" in parameters
        self._options: dict[str, Any] = {"intermediates_only": True, "stop_early": True}
        if "norm" in parameters:
            self._options["norm"] = norm
        elif not norm:
            raise IceprobeError(f"{type(model).__name__} has no final norm: drop norm=false")

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of images ``(B, C, S, S)``."""
        if self.layer == -1 and self.norm:
            return self._from_features(images)
        return self._from_intermediates(images)

    def _from_features(self, images: Tensor) -> Tokens:
        features = self.model.forward_features(images)
        if not isinstance(features, Tensor):
            raise IceprobeError(
                f"{type(self.model).__name__} ends in several maps or sets of tokens: choose one "
                "of its layers with layer="
            )
        if features.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
                features = features.permute(0, 3, 1, 2)
            return tokens_of_map(features)
        return self._split(features, images)

    def _from_intermediates(self, images: Tensor) -> Tokens:
        if not self._splits_prefix:
            (features,) = self._intermediates(images, output_fmt="NCHW")
            return tokens_of_map(features)
        if not self.num_prefix:
            (patches,) = self._intermediates(images, output_fmt="NLC")
            return self._split(patches, images)
        ((patches, prefix),) = self._intermediates(
            images, output_fmt="NLC", return_prefix_tokens=True
        )
        return Tokens(patches, prefix, self._grid(images, patches.shape[1]), self.has_class)

    def _intermediates(self, images: Tensor, **options: Any) -> list[Any]:
        try:
            return self.model.forward_intermediates(
                images, indices=[self.layer], **self._options, **options
            )
        except AssertionError as error:
            # timm says "feature index 12 is out of range (0 to 11)", or that it has no norm there.
            raise IceprobeError(
                f"layer={self.layer} norm={str(self.norm).lower()} of "
                f"{type(self.model).__name__}: {error}; take another layer or norm"
            ) from error

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
    """Tokens of any module: its ``tokens(images)`` method, or its output.

    Attributes:
        model: the module.
        num_prefix: prefix tokens at the start of a ``(B, N, D)`` output.
        has_class: whether the first of them is a class token.
    """

    def __init__(self, model: nn.Module, num_prefix: int | None, has_class: bool | None):
        super().__init__()
        self.model: Any = model
        self.num_prefix, self.has_class = num_prefix, has_class

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of images ``(B, C, S, S)``.

        Raises:
            IceprobeError: if the output is neither tokens nor a map, or if tokens come without a
                stated number of prefix tokens.
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


def tokens_of_map(features: Tensor) -> Tokens:
    """The cells of ``(B, D, H, W)`` as patch tokens, row by row; no prefix."""
    patches = features.flatten(2).transpose(1, 2)
    height, width = features.shape[2:]
    return Tokens(patches, patches[:, :0], (height, width))


def square_grid(num_patches: int) -> tuple[int, int] | None:
    """The grid of a square image's patches, ``None`` if their number is no square."""
    side = round(num_patches**0.5)
    return (side, side) if side * side == num_patches else None


def _num_prefix(model: nn.Module) -> int:
    """``num_prefix_tokens``; models of timm that don't say have at most the class token."""
    stated = getattr(model, "num_prefix_tokens", None)
    return int(getattr(model, "cls_token", None) is not None) if stated is None else int(stated)


def _describe(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
