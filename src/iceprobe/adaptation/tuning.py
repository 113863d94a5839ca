"""Adaptations that add nothing: they choose which of the backbone's own parameters learn.

Each names what learns; the rest stays as it is, bit by bit.
"""

from typing import Any

from torch import nn

from iceprobe.adaptation.change import Change
from iceprobe.adaptation.trainable import root

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)


def biases(reader: nn.Module, images: Any) -> Change:
    """All bias vectors, those of norms and of projections kept apart included (BitFit)."""
    return Change([name for name, _ in root(reader).named_parameters() if name.endswith("bias")])


def norms(reader: nn.Module, images: Any) -> Change:
    """Weight and bias of every normalisation layer; never its running statistics."""
    return Change(
        [
            f"{name}.{own}" if name else own
            for name, module in root(reader).named_modules()
            if isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")
            for own, _ in module.named_parameters(recurse=False)
        ]
    )


def everything(reader: nn.Module, images: Any) -> Change:
    """All parameters."""
    return Change([name for name, _ in root(reader).named_parameters()])
