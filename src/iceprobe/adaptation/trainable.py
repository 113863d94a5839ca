"""Which parameters the loss depends on, and their depth.

Autograd decides, not names. Of the levels

    input of block 0 → output of block 0 → … → output of block L − 1 → logits

a parameter's *depth* is the first that depends on it. So embeddings have depth 0, block i has
i + 1, and modules after the blocks (the final norm) L + 1, in any library's model. Weights that
don't affect the loss (blocks after the layer read, a norm that isn't applied) have no depth, and
are neither trained nor counted.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.backbones.block_reader import BlockReader
from iceprobe.backbones.kinds import Inputs
from iceprobe.backbones.native_readers import ByShape
from iceprobe.backbones.parts import LayersOfParts, PartReader
from iceprobe.backbones.readers import TimmReader


def innermost(reader: nn.Module) -> nn.Module:
    """The reader of one picture or clip, inside those that run it over several or shape by shape."""
    while isinstance(reader, PartReader | LayersOfParts | ByShape):
        reader = reader.reader
    return reader


def root(reader: nn.Module) -> nn.Module:
    """The model of a reader, with the parameter names of its library."""
    reader = innermost(reader)
    model = getattr(reader, "model", None)
    return model if isinstance(model, nn.Module) else reader


def block_names(reader: nn.Module) -> list[str]:
    """Names in `root` of the blocks up to the last one read; empty if they aren't known."""
    reader = innermost(reader)
    if isinstance(reader, TimmReader):
        names = [info["module"] for info in reader.model.feature_info]
    elif isinstance(reader, BlockReader):
        known = {id(module): name for name, module in root(reader).named_modules()}
        names = [known[id(block)] for block in reader.paths.blocks]
    else:
        return []
    return names[: max(reader.layers) + 1]


def depths(reader: nn.Module, probe: nn.Module, examples: Inputs) -> tuple[dict[str, int], int]:
    """Depth, by name in `root`, of the trainable parameters that the loss depends on; and L.

    Args:
        reader: examples → tokens, in evaluation mode.
        probe: on top.
        examples: as the reader takes them.
    """
    model = root(reader)
    names = block_names(reader)
    levels: dict[int, Tensor] = {}  # of the first pass: a reader may make several

    def before(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = [*inputs, *named.values()]
        levels.setdefault(0, next(value for value in given if isinstance(value, Tensor)))

    def after(level: int, block: nn.Module, inputs: Any, output: Any) -> None:
        levels.setdefault(level, output if isinstance(output, Tensor) else output[0])

    blocks = [model.get_submodule(name) for name in names]
    with ExitStack() as stack:
        for number, block in enumerate(blocks, 1):
            stack.enter_context(block.register_forward_hook(partial(after, number)))
        if blocks:
            stack.enter_context(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        stack.callback(probe.train, probe.training)
        probe.eval()
        stack.enter_context(torch.enable_grad())
        logits = probe(reader(examples))
    found: dict[str, int] = {}
    left = {name: p for name, p in model.named_parameters() if p.requires_grad}
    levels[len(blocks) + 1] = logits  # without blocks: logits alone, depth 1
    for depth, level in sorted(levels.items()):
        if not level.requires_grad or not left:
            continue
        gradients = torch.autograd.grad(
            level.sum(), list(left.values()), retain_graph=True, allow_unused=True
        )
        reached = [n for n, g in zip(left, gradients, strict=True) if g is not None]
        found |= dict.fromkeys(reached, depth)
        left = {name: p for name, p in left.items() if name not in found}
    return found, len(blocks)
