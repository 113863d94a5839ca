"""Tokens, the output of a frozen backbone on a batch of images, and their shape."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


#: Kind of the specs of tokens that `iceprobe.from_tokens` was given: nothing can be loaded by them.
GIVEN = "tokens"


@dataclass(frozen=True)
class TokenShape:
    """The shape of the tokens of one image, on which backbone, store and probe agree.

    Attributes:
        dim: D, width of the tokens.
        num_tokens: N, patch tokens; 0 where there is one vector an example, which is the mean.
        num_prefix: P, prefix tokens.
        grid: rows and columns ``(H, W)`` of the patch tokens; ``None`` without a grid.
        has_class: whether the first prefix token is a class token.
        vectors: width of each of ``Tokens.vectors``, by name.
        pooled_class: whether the backbone was trained on the output of a learned pooler, not on
            its tokens: k-NN and linear probes then read the mean of the patches.
    """

    dim: int
    num_tokens: int
    num_prefix: int
    grid: tuple[int, int] | None
    has_class: bool
    vectors: Mapping[str, int] = field(default_factory=dict)
    pooled_class: bool = False


@dataclass(frozen=True)
class JoinedShape(TokenShape):
    """The shape of several layers of one backbone side by side; its own fields are the deepest's.

    Attributes:
        layers: shape of each layer's tokens, by its number from 0.
        depth: layers of the backbone, from which negative numbers count; ``None`` if unknown.
    """

    layers: Mapping[int, TokenShape] = field(default_factory=dict)
    depth: int | None = None

    @classmethod
    def of(cls, layers: Mapping[int, TokenShape], depth: int | None = None) -> Self:
        """The shape of ``layers`` together, at least one."""
        return cls(**_own(layers[max(layers)], TokenShape), layers=dict(layers), depth=depth)


def at_layer(name: str, layer: int | None) -> str:
    """Name of a tensor of one layer, where there are several: ``patches@11``."""
    return name if layer is None else f"{name}@{layer}"


def without_layer(name: str) -> str:
    """``patches`` of ``patches@11``."""
    return name.partition("@")[0]


class HasTokenShape:
    """The fields of ``shape`` as attributes."""

    @property
    def shape(self) -> TokenShape:
        """Shape of the tokens of one image."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        return self.shape.dim

    @property
    def num_tokens(self) -> int:
        return self.shape.num_tokens

    @property
    def num_prefix(self) -> int:
        return self.shape.num_prefix

    @property
    def grid(self) -> tuple[int, int] | None:
        return self.shape.grid

    @property
    def has_class(self) -> bool:
        return self.shape.has_class

    @property
    def vectors(self) -> Mapping[str, int]:
        return self.shape.vectors


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch of images.

    Attributes:
        patches: ``(B, N, D)``, one vector per image patch (or cell of a CNN's last map), row by
            row over the grid.
        prefix: ``(B, P, D)``, the class token first if there is one, then registers; P may be 0.
        grid: rows and columns ``(H, W)`` of the patches, N = H·W; ``None`` without a grid.
        has_class: whether ``prefix[:, 0]`` is a class token.
        vectors: the model's own outputs from its last tokens, by name, each ``(B, D')`` of any
            width D'. ``pooled`` is the output of its learned attention pool (SigLIP, SigLIP2,
            PE), or of its global pooling (CNNs, Swin); ``class_projected`` is the class token in
            the space shared with text, not normalised (CLIP). Empty for layers before the last.

    Raises:
        ValueError: if the shapes contradict each other.
    """

    patches: "Tensor"
    prefix: "Tensor"
    grid: tuple[int, int] | None = None
    has_class: bool = False
    vectors: "Mapping[str, Tensor]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        (b, n, d), (pb, p, pd) = self.patches.shape, self.prefix.shape
        if (b, d) != (pb, pd):
            raise ValueError(f"patches {(b, n, d)} and prefix {(pb, p, pd)} differ in B or D")
        if self.grid is not None and self.grid[0] * self.grid[1] != n:
            raise ValueError(f"a grid of {self.grid} has not {n} patches")
        if self.has_class and p == 0:
            raise ValueError("has_class is set but there is no prefix token")
        for name, vector in self.vectors.items():
            if vector.ndim != 2 or len(vector) != b:
                raise ValueError(f"vector {name!r} {tuple(vector.shape)} is not of shape ({b}, D')")

    @property
    def shape(self) -> TokenShape:
        """Shape of one image's tokens."""
        return TokenShape(
            dim=self.patches.shape[2],
            num_tokens=self.patches.shape[1],
            num_prefix=self.prefix.shape[1],
            grid=self.grid,
            has_class=self.has_class,
            vectors={name: vector.shape[1] for name, vector in self.vectors.items()},
        )

    def to(self, device: "torch.device | str") -> "Tokens":
        """The same tokens on a device."""
        vectors = {name: vector.to(device) for name, vector in self.vectors.items()}
        moved = self.patches.to(device), self.prefix.to(device)
        return Tokens(*moved, self.grid, self.has_class, vectors)

    @property
    def class_token(self) -> "Tensor | None":
        """``(B, D)``, or ``None`` if there is none."""
        return self.prefix[:, 0] if self.has_class else None

    @property
    def mean(self) -> "Tensor":
        """Mean of the patch tokens in float32, ``(B, D)``."""
        return self.patches.float().mean(1)


@dataclass(frozen=True)
class JoinedTokens(Tokens):
    """Tokens of several layers of one backbone; its own fields are the deepest's.

    Attributes:
        layers: tokens of each layer, by its number from 0.
    """

    layers: Mapping[int, Tokens] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Mapping[int, Tokens]) -> Self:
        """The tokens of ``layers`` together, at least one."""
        return cls(**_own(layers[max(layers)], Tokens), layers=dict(layers))

    def to(self, device: "torch.device | str") -> "JoinedTokens":
        return JoinedTokens.of({layer: one.to(device) for layer, one in self.layers.items()})


def _own(one: TokenShape | Tokens, kind: type) -> dict[str, Any]:
    """The fields of ``kind`` of one layer."""
    return {part.name: getattr(one, part.name) for part in fields(kind)}
