"""A backbone that learns with a probe: logits = probe(reader(examples)).

The backbone stays in evaluation mode: no dropout, fixed normalisation statistics. The probe is
trained as on a frozen backbone.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iceprobe.adaptation.examples import as_read
from iceprobe.adaptation.registry import ADAPTATIONS, adaptation_options, parse_adaptation
from iceprobe.adaptation.trainable import block_names, depths, root
from iceprobe.backbones.base import Backbone
from iceprobe.backbones.kinds import Inputs, Ragged
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.products import FastLinear
from iceprobe.probes.probe import Probe
from iceprobe.store.forward import behind
from iceprobe.tokens import Tokens


class Adapted(nn.Module):
    """A copy of a backbone, changed by an adaptation, with a probe on top.

    Args:
        backbone: of one layer; it doesn't change.
        adaptation: spec string.
        probe: on top.
        seed: of the adaptation's new weights.
        checkpointing: keep only the blocks' inputs for the backward pass, and run each block again
            there: less memory, a third more time.

    Attributes:
        reader: examples → tokens, the copy.
        probe: tokens → logits.
        names: of the backbone's parameters that learn, as in its library.

    Raises:
        IceprobeError: if the adaptation doesn't fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        adaptation: str,
        probe: Probe,
        *,
        seed: int = 0,
        checkpointing: bool = False,
    ):
        super().__init__()
        if next(backbone.reader.parameters(), None) is None:
            raise IceprobeError(f"{adaptation} of {backbone.spec!r}: it has no weights, take none")
        spec = parse_adaptation(adaptation)
        options = adaptation_options(spec)
        self._scale = options.pop("lr_scale")
        self._decay = options.pop("layer_decay", 1.0)
        self.preprocessing, self._ragged = backbone.preprocessing, backbone.shape.ragged
        self.reader = copy.deepcopy(backbone.reader).eval().requires_grad_(True)
        self.probe = probe.to(backbone.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            trial = _noise(self.preprocessing.blank()).to(backbone.device, self._like.dtype)
            self._change = ADAPTATIONS[spec.name].load()(self.reader, trial, **options)
        self.reader.eval()
        model = root(self.reader)
        model.requires_grad_(False)
        for name in self._change.parameters:
            model.get_parameter(name).requires_grad_(True)
        self._depths, self._blocks = depths(self.reader, self.probe, trial)
        self.names = [name for name in self._change.parameters if name in self._depths]
        for name in set(self._change.parameters) - set(self.names):
            model.get_parameter(name).requires_grad_(False)
        if not self.names:
            raise IceprobeError(
                f"{adaptation} of {backbone.spec!r}: it has nothing of the kind that the probe "
                "depends on: take another adaptation"
            )
        if not self._blocks and self._decay != 1:
            raise IceprobeError(
                f"{adaptation} of {backbone.spec!r}: its blocks aren't known, learning rates can't "
                "fall from one to the next: take layer_decay=1"
            )
        if checkpointing:
            checkpoint_blocks(self.reader)

    def forward(self, examples: Inputs) -> Tensor:
        """Logits ``(B, C)`` of a batch of `Examples`, on any device."""
        return self.probe(self.tokens(examples))

    def tokens(self, examples: Inputs) -> Tokens:
        """Tokens of a batch of `Examples`, on any device, with gradient; padding is zero, as in a store."""
        inputs = as_read(self.preprocessing, examples.to(self._like.device))
        with FastLinear():
            return behind(self.reader(inputs.to(self._like.dtype)), self._ragged)

    def train(self, mode: bool = True) -> "Adapted":
        """Sets the probe's mode; the backbone stays in evaluation mode."""
        self.training = mode
        self.probe.train(mode)
        return self

    def num_parameters(self) -> dict[str, int]:
        """Parameters that learn: ``adapter``, ``pooling``, ``classifier`` and ``total``."""
        model = root(self.reader)
        adapter = sum(model.get_parameter(name).numel() for name in self.names)
        counts = self.probe.num_parameters()
        return {**counts, "adapter": adapter, "total": adapter + counts["total"]}

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for an optimiser; ``scale`` multiplies the learning rate.

        The probe's scale is 1. The backbone's is ``lr_scale`` times ``layer_decay`` to the power of
        L − i for block i of 0 … L − 1, L + 1 for embeddings and 0 after the blocks (as in the
        fine-tuning of masked autoencoders). Vectors get no weight decay.
        """
        model = root(self.reader)
        scaled = [(parameter, 1.0) for parameter in self.probe.parameters()]
        scaled += [(model.get_parameter(name), self.scale(name)) for name in self.names]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter, scale in scaled:
            key = (scale, weight_decay if parameter.ndim > 1 else 0.0)
            groups.setdefault(key, []).append(parameter)
        return [
            {"params": params, "scale": scale, "weight_decay": decay}
            for (scale, decay), params in groups.items()
        ]

    def scale(self, name: str) -> float:
        """Factor of the learning rate of the backbone's parameter ``name``."""
        return self._scale * self._decay ** (self._blocks + 1 - self._depths[name])

    def save(self, folder: Path) -> None:
        """Write what the backbone learned (:meth:`iceprobe.adaptation.change.Change.save`)."""
        self._change.save(root(self.reader), folder)

    @property
    def _like(self) -> Tensor:
        return next(self.reader.parameters())


def _noise(like: Inputs) -> Inputs:
    """Inputs of the same form, normally distributed."""
    if isinstance(like, Ragged):
        return replace(like, values=torch.randn(like.values.shape))
    return torch.randn(like.shape)


def checkpoint_blocks(reader: nn.Module) -> None:
    """Run every block again in the backward pass instead of keeping its activations.

    It uses torch, not each library's switch: timm's has no effect on intermediate layers in older
    versions, and that of transformers none in evaluation mode.
    """
    names = block_names(reader)
    if not names:
        raise IceprobeError(
            f"checkpointing: the blocks of {type(root(reader)).__name__} aren't known; "
            "take --accumulate instead"
        )
    for name in names:
        block: Any = root(reader).get_submodule(name)
        block.forward = partial(_again, block.forward)


def _again(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
