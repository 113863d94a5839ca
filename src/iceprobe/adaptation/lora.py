"""LoRA by Hugging Face's peft: W + (α/r)·B A, with A ``(r, D_in)``, B ``(D_out, r)``; B starts at 0.

By default it is on the value projection of every block that is read. A fused projection of q, k and
v is split first (:mod:`iceprobe.adaptation.qkv`). A saved adapter is loaded with peft alone::

    model = timm.create_model(...)
    iceprobe.adaptation.split_qkv(model)                # only where qkv was fused
    model = peft.PeftModel.from_pretrained(model, "runs/NAME/adapters/lora-linear-seed0")
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from iceprobe.adaptation.change import Change
from iceprobe.adaptation.qkv import fused_names, split_qkv, values_are_last
from iceprobe.adaptation.trainable import block_names, root
from iceprobe.backbones.block_reader import BlockReader
from iceprobe.backbones.kinds import Inputs
from iceprobe.backbones.layers import Layers, resolve_layers
from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.specs import unknown

#: Names of attention's projections: timm, transformers, CLIP-like, diffusers.
PROJECTIONS = {
    "query": ("q", "query", "q_proj", "to_q"),
    "key": ("k", "key", "k_proj", "to_k"),
    "value": ("v", "value", "v_proj", "to_v"),
}


def attach(
    reader: nn.Module,
    examples: Inputs,
    *,
    rank: int = 8,
    alpha: float | None = None,
    blocks: Layers = "all",
    target: Sequence[str] = ("value",),
    modules: Sequence[str] | None = None,
) -> Change:
    """Put LoRA into the model of ``reader``, in place.

    Args:
        reader: of a model.
        examples: a batch to try the model with, as the reader takes it.
        rank: r.
        alpha: α; default: the rank, so that the factor is 1.
        blocks: of those that are read, counted from 0.
        target: some of ``query``, ``key`` and ``value``.
        modules: ends of names of linear layers, ``mlp.fc1``, instead of ``target``.

    Raises:
        IceprobeError: if peft isn't installed, no such module exists or it isn't linear, or a fused
            projection can't be split.
    """
    peft = require("peft", "peft", "lora")
    model = root(reader)
    block_names = _block_names(reader, blocks)
    asked = target if modules is None else modules
    if modules is None:
        for name in target:
            if name not in PROJECTIONS:
                raise IceprobeError(unknown("target of lora", name, PROJECTIONS))
        _split(reader, model, examples, block_names)
        modules = [ending for name in target for ending in PROJECTIONS[name]]
    endings = tuple(f".{ending}" for ending in modules)
    inside = _within(model, block_names)
    chosen = [name for name in inside if f".{name}".endswith(endings)]
    if not chosen:
        linear = [name for name, module in inside.items() if isinstance(module, nn.Linear)]
        there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear)) or "none"
        raise IceprobeError(
            f"lora: no module of {type(model).__name__} is {' or '.join(asked)}: name modules= of "
            f"its linear layers ({there})"
        )
    for name in chosen:
        _check(name, inside[name], rank)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha or rank, lora_dropout=0.0, bias="none", target_modules=chosen
    )
    wrapped: Any = peft.get_peft_model(model, config)
    return Change([n for n, p in model.named_parameters() if p.requires_grad], wrapped)


def _block_names(reader: nn.Module, blocks: Layers) -> list[str]:
    """Names of the requested blocks; ``[""]`` (everywhere) if not all blocks are known."""
    names = block_names(reader)
    stages = isinstance(reader, BlockReader) and reader.paths.stages
    if blocks == "all" and (stages or not names):
        return [""]  # only the last block of a stage is known
    if not names:
        raise IceprobeError(
            f"blocks={blocks} of lora: the blocks of {type(root(reader)).__name__} aren't known, "
            "name modules= instead"
        )
    return [names[i] for i in resolve_layers(blocks, len(names), "the blocks that are read")]


def _within(model: nn.Module, block_names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules inside the blocks of these names."""
    prefixes = tuple(f"{name}." if name else "" for name in block_names)
    return {name: one for name, one in model.named_modules() if name.startswith(prefixes)}


def _split(
    reader: nn.Module, model: nn.Module, examples: Inputs, block_names: Sequence[str]
) -> None:
    inside = _within(model, block_names)
    fused = [name for name in fused_names(model) if name in inside]
    for name in fused:
        if not values_are_last(model, name, lambda: reader(examples)):
            raise IceprobeError(
                f"lora: {name} of {type(model).__name__} isn't in the order q, k, v, so its value "
                "part can't be found: name modules=, such as attn.proj"
            )
    split_qkv(model, fused)


def _check(name: str, module: nn.Module, rank: int) -> None:
    if not isinstance(module, nn.Linear):
        raise IceprobeError(
            f"lora: {name} is a {type(module).__name__}, not a linear layer: name others"
        )
    most = min(module.in_features, module.out_features)
    if rank > most:
        raise IceprobeError(f"rank={rank} of lora: {name} has rank {most} itself: take less")
