"""Tokens, the output of a frozen backbone on a batch of images, and their shape."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


#: Kind of the specs of tokens that `iceprobe.from_tokens` was given: nothing can be loaded by them.
GIVEN = "tokens"


@dataclass(frozen=True)
class TokenShape:
    """The shape of the tokens of one example, on which backbone, store and probe agree.

    Attributes:
        dim: D, width of the tokens.
        num_tokens: N, patch tokens; 0 where there is one vector an example, which is the mean. Where
            examples differ, their mean number, rounded.
        num_prefix: P, prefix tokens.
        grid: ``(H, W)`` of the patch tokens of an image, ``(T, H, W)`` of a clip; ``None`` without a grid.
        has_class: whether the first prefix token is a class token.
        vectors: width of each of ``Tokens.vectors``, by name.
        pooled_class: whether the backbone was trained on the output of a learned pooler, not on
            its tokens: k-NN and linear probes then read the mean of the patches.
        lengths: patch tokens of the shortest and of the longest example; ``None`` where all have N.
        coords: numbers that say where a token lies (`Tokens.coords`); 0 where nothing does but a grid.
        parts: equal parts of the N tokens, one after the other (clips of a video): a probe of tokens reads
            each by itself, and its outputs are averaged (`iceprobe.tasks.task.Task.averaged`).

    Raises:
        ValueError: if the tokens can't be cut into so many parts.
    """

    dim: int
    num_tokens: int
    num_prefix: int
    grid: tuple[int, ...] | None
    has_class: bool
    vectors: Mapping[str, int] = field(default_factory=dict)
    pooled_class: bool = False
    lengths: tuple[int, int] | None = None
    coords: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.parts == 1:
            return
        rows = self.num_tokens if self.grid is None else self.grid[0]
        if self.parts < 1 or self.ragged or not rows or rows % self.parts:
            raise ValueError(
                f"{self.num_tokens} tokens, grid {self.grid}, have no {self.parts} equal parts"
            )

    @property
    def part_grid(self) -> tuple[int, ...] | None:
        """Grid of one part: the parts follow each other along the first axis."""
        return None if self.grid is None else (self.grid[0] // self.parts, *self.grid[1:])

    @property
    def ragged(self) -> bool:
        """Whether examples may differ in their number of tokens."""
        return self.lengths is not None

    def even(self) -> "TokenShape":
        """The same shape with all examples of the mean length."""
        return replace(self, lengths=None)

    def of_mean(self, tokens: int) -> "TokenShape":
        """The same shape with another mean length, where examples differ."""
        return replace(self, num_tokens=tokens) if self.ragged else self

    @property
    def longest(self) -> int:
        """Patch tokens of the longest example."""
        return self.num_tokens if self.lengths is None else self.lengths[1]


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

    def even(self) -> "JoinedShape":
        return JoinedShape.of({n: one.even() for n, one in self.layers.items()}, self.depth)

    def of_mean(self, tokens: int) -> "JoinedShape":
        layers = {number: one.of_mean(tokens) for number, one in self.layers.items()}
        return JoinedShape.of(layers, self.depth)


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
    def grid(self) -> tuple[int, ...] | None:
        return self.shape.grid

    @property
    def has_class(self) -> bool:
        return self.shape.has_class

    @property
    def vectors(self) -> Mapping[str, int]:
        return self.shape.vectors


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch of examples.

    Attributes:
        patches: ``(B, N, D)``, one vector per image patch (or cell of a CNN's last map, tile of a bag,
            frame of a clip), row by row over the grid.
        prefix: ``(B, P, D)``, the class token first if there is one, then registers; P may be 0.
        grid: ``(H, W)`` of the patches, N = H·W, or ``(T, H, W)``, N = T·H·W; ``None`` without a grid.
        has_class: whether ``prefix[:, 0]`` is a class token.
        vectors: the model's own outputs from its last tokens, by name, each ``(B, D')`` of any
            width D'. ``pooled`` is the output of its learned attention pool (SigLIP, SigLIP2,
            PE), or of its global pooling (CNNs, Swin); ``class_projected`` is the class token in
            the space shared with text, not normalised (CLIP). Empty for layers before the last.
        mask: ``(B, N)`` bool, which of the N rows of an example are tokens; what stands in the others
            changes nothing. ``None``: all are.
        coords: ``(B, N, k)`` float32, where each token lies, in the order of a grid's axes ([time,]
            down, right): cells, pixels of a slide, or seconds. ``None`` where only a grid says it, or
            nothing does.

    Raises:
        ValueError: if the shapes contradict each other.
    """

    patches: "Tensor"
    prefix: "Tensor"
    grid: tuple[int, ...] | None = None
    has_class: bool = False
    vectors: "Mapping[str, Tensor]" = field(default_factory=dict)
    mask: "Tensor | None" = None
    coords: "Tensor | None" = None

    def __post_init__(self) -> None:
        (b, n, d), (pb, p, pd) = self.patches.shape, self.prefix.shape
        if (b, d) != (pb, pd):
            raise ValueError(f"patches {(b, n, d)} and prefix {(pb, p, pd)} differ in B or D")
        if self.grid is not None and math.prod(self.grid) != n:
            raise ValueError(f"a grid of {self.grid} has not {n} patches")
        if self.has_class and p == 0:
            raise ValueError("has_class is set but there is no prefix token")
        for name, vector in self.vectors.items():
            if vector.ndim != 2 or vector.shape[0] != b:  # len() would fix it in an exported graph
                raise ValueError(f"vector {name!r} {tuple(vector.shape)} is not of shape ({b}, D')")
        if self.mask is not None and tuple(self.mask.shape) != (b, n):
            raise ValueError(f"mask {tuple(self.mask.shape)} is not of shape {(b, n)}")
        if self.coords is not None and tuple(self.coords.shape[:2]) != (b, n):
            raise ValueError(f"coords {tuple(self.coords.shape)} are not of shape {(b, n, 'k')}")

    @property
    def shape(self) -> TokenShape:
        """Shape of one example's tokens."""
        return TokenShape(
            dim=self.patches.shape[2],
            num_tokens=self.patches.shape[1],
            num_prefix=self.prefix.shape[1],
            grid=self.grid,
            has_class=self.has_class,
            vectors={name: vector.shape[1] for name, vector in self.vectors.items()},
            lengths=None if self.mask is None else (1, self.patches.shape[1]),
            coords=0 if self.coords is None else self.coords.shape[2],
        )

    def to(self, device: "torch.device | str") -> "Tokens":
        """The same tokens on a device."""
        vectors = {name: vector.to(device) for name, vector in self.vectors.items()}
        moved = self.patches.to(device), self.prefix.to(device)
        beside = (one if one is None else one.to(device) for one in (self.mask, self.coords))
        return Tokens(*moved, self.grid, self.has_class, vectors, *beside)

    @cached_property
    def grids(self) -> list[tuple[int, ...]] | None:
        """The grid of each example; ``None`` where tokens lie on none.

        Where there is none of all, they are made of ``coords`` that number cells from 0: those of an
        example are all cells of its grid, row by row.
        """
        if self.grid is not None:
            return [self.grid] * len(self.patches)
        if self.coords is None or self.coords.shape[2] < 2:
            return None
        coords, found = self.coords.cpu(), list[tuple[int, ...]]()
        masks = [None] * len(coords) if self.mask is None else self.mask.cpu()
        for one, mask in zip(coords, masks, strict=True):
            own = one if mask is None else one[mask]
            grid = tuple(int(end) + 1 for end in own.amax(0).tolist())
            if math.prod(grid) != len(own):
                return None
            cells = itertools.product(*map(range, grid))
            if own.tolist() != [[*map(float, cell)] for cell in cells]:
                return None
            found.append(grid)
        return found

    @property
    def class_token(self) -> "Tensor | None":
        """``(B, D)``, or ``None`` if there is none."""
        return self.prefix[:, 0] if self.has_class else None

    @property
    def mean(self) -> "Tensor":
        """Mean of the patch tokens in float32, ``(B, D)``."""
        if self.mask is None:
            return self.patches.float().mean(1)
        real = self.patches.float().masked_fill(~self.mask[..., None], 0.0)
        return real.sum(1) / self.mask.sum(1, keepdim=True)


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
