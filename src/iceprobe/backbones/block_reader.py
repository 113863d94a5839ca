"""Tokens from the outputs of a model's blocks, for any library."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from iceprobe.backbones.kinds import Inputs, Ragged
from iceprobe.backbones.layers import Layers, resolve_layers
from iceprobe.backbones.readers import LayerReader, grid_over, tokens_of_map
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens


def first_tensor(output: Any, position: int) -> Tensor:
    """A block's output: a tensor, or the first item of a tuple or list."""
    return output if isinstance(output, Tensor) else output[0]


@dataclass(frozen=True)
class BlockPaths:
    """Where a model's tokens are: its blocks, its final norm, its prefix tokens.

    Attributes:
        blocks: in order; the stages of a model with stages.
        norm: the final norm over D, ``None`` if there is none.
        num_prefix: prefix tokens at the start of a sequence, the class token first.
        has_class: whether there is a class token.
        stages: whether the blocks are stages, so that the norm applies to the last one only.
        features: a block's output and its position → ``(B, P + N, D)`` or a map ``(B, D, H, W)``;
            patches lie row by row over a grid as long and wide as the images.
        inputs: images → keyword arguments of the model; ``None``: it takes the images.
        vectors: the model's output → ``Tokens.vectors`` of the last layer; ``None``: no vectors.
        pooled_class: whether the model was trained on the output of a learned pooler.
        grid: of the patches of these inputs, where they aren't those of a square image.
    """

    blocks: Sequence[nn.Module]
    norm: nn.Module | None
    num_prefix: int = 0
    has_class: bool = False
    stages: bool = False
    features: Callable[[Any, int], Tensor] = first_tensor
    inputs: Callable[[Any], dict[str, Any]] | None = None
    vectors: Callable[[Any], dict[str, Tensor]] | None = None
    pooled_class: bool = False
    grid: Callable[[Any], tuple[int, ...] | None] | None = None


class BlockReader(LayerReader):
    """Runs the whole model and keeps the outputs of its blocks."""

    def __init__(self, model: nn.Module, paths: BlockPaths, layer: Layers, norm: bool):
        name = type(model).__name__
        count = len(paths.blocks)
        super().__init__(model, resolve_layers(layer, count, name), norm, count)
        if paths.norm is None and not norm:
            raise IceprobeError(f"{name} has no final norm: drop norm=false")
        self.paths = paths
        self.pooled_class = self.pooled_class or paths.pooled_class

    def forward_layers(self, images: Any) -> list[Tokens]:
        """Tokens of images ``(B, C, H, W)``, or of what ``inputs`` takes, one for each of ``layers``.

        Raises:
            IceprobeError: if the patches of a sequence make no grid of the images' shape.
        """
        inputs = self.paths.inputs
        found, output = self.caught(images) if inputs is None else self.caught(**inputs(images))
        return [self._tokens(layer, found[layer], output, images) for layer in self.layers]

    def caught(self, *given: Any, **named: Any) -> tuple[dict[int, Tensor], Any]:
        """Outputs of the blocks of ``layers``, without the final norm, and the model's own, for its arguments."""
        found: dict[int, Tensor] = {}

        def keep(layer: int, block: nn.Module, inputs: Any, output: Any) -> None:
            found[layer] = self.paths.features(output, layer)

        with ExitStack() as hooks:
            for layer in self.layers:
                block = self.paths.blocks[layer]
                hooks.enter_context(block.register_forward_hook(partial(keep, layer)))
            return found, self.model(*given, **named)

    def normed(self, layer: int, features: Tensor) -> Tensor:
        """Features of a layer with the final norm, where it is asked for and applies."""
        if (
            self.norm
            and self.paths.norm is not None
            and (self._last(layer) or not self.paths.stages)
        ):
            features = self.paths.norm(features)
        return features

    def _last(self, layer: int) -> bool:
        return layer == self.depth - 1

    def _tokens(self, layer: int, features: Tensor, output: Any, images: Inputs) -> Tokens:
        paths, grid = self.paths, None
        if features.ndim == 4:
            cells = tokens_of_map(features)
            features, grid = cells.patches, cells.grid
        elif paths.grid is not None:
            grid = paths.grid(images)
        features = self.normed(layer, features)
        prefix, patches = features[:, : paths.num_prefix], features[:, paths.num_prefix :]
        vectors = paths.vectors(output) if paths.vectors and self._last(layer) else {}
        if isinstance(images, Ragged):
            where = images.mask, images.padded_coords
            return Tokens(patches, prefix, None, paths.has_class, vectors, *where)
        grid = grid or grid_over(images.shape[-2:], patches.shape[1])
        if grid is None:
            raise IceprobeError(
                f"{type(self.model).__name__} gave {features.shape[1]} tokens, of which {paths.num_prefix} "
                f"are prefix tokens: the rest make no {'square ' * (images.shape[-1] == images.shape[-2])}grid"
            )
        return Tokens(patches, prefix, grid, paths.has_class, vectors)
