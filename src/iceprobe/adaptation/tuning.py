"""Adaptations that add no weights: they name the backbone's parameters that learn.

All other parameters keep their exact values.
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


def biases(reader: nn.Module, examples: Any) -> Change:
    """All bias vectors, including those of norms and separate bias parameters (BitFit)."""
    return Change([name for name, _ in root(reader).named_parameters() if name.endswith("bias")])


def norms(reader: nn.Module, examples: Any) -> Change:
    """Weight and bias of every normalisation layer; never its running statistics."""
    return Change(
        [
            f"{name}.{own}" if name else own
            for name, module in root(reader).named_modules()
            if isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")
            for own, _ in module.named_parameters(recurse=False)
        ]
    )


def everything(reader: nn.Module, examples: Any) -> Change:
    """All parameters."""
    return Change([name for name, _ in root(reader).named_parameters()])
