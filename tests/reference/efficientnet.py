"""The forward pass of EfficientNet-PyTorch (and its Lite fork) on weights by their own names, from TensorFlow's equations.

same padding      ⌈side / stride⌉ outputs; of the p rows that lack, ⌊p/2⌋ above and the rest below
batch norm        (x − mean) / √(variance + 10⁻³) · weight + bias
squeeze           x · σ(W₂ act(W₁ mean(x)))
a block           expand, depthwise, squeeze, project; plus its input where shape and stride allow
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCKS = (  # of B0 and Lite0: repetitions, kernel, stride of the first, expansion, width before and behind
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
STRIDES = tuple(1 if later else stride for count, _, stride, *_ in BLOCKS for later in range(count))


def random_weights(squeeze: bool, generator: torch.Generator) -> dict[str, Tensor]:
    """A file of B0 (``squeeze``) or Lite0 by the ports' names, in float32."""
    found = {}

    def conv(name: str, *shape: int, bias: bool = False) -> None:
        fan = math.prod(shape[1:])
        weight = torch.randn(shape, generator=generator)
        found[f"{name}.weight"] = weight * (2 / fan) ** 0.5
        if bias:
            found[f"{name}.bias"] = torch.randn(shape[0], generator=generator)

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            value = torch.rand(width, generator=generator)
            found[f"{name}.{part}"] = 0.5 + value if part in ("weight", "running_var") else value
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    number = 0
    for count, kernel, _, expansion, before, behind in BLOCKS:
        for _ in range(count):
            at, inner = f"_blocks.{number}", before * expansion
            if expansion > 1:
                conv(f"{at}._expand_conv", inner, before, 1, 1)
                norm(f"{at}._bn0", inner)
            conv(f"{at}._depthwise_conv", inner, 1, kernel, kernel)
            norm(f"{at}._bn1", inner)
            if squeeze:
                conv(f"{at}._se_reduce", before // 4, inner, 1, 1, bias=True)
                conv(f"{at}._se_expand", inner, before // 4, 1, 1, bias=True)
            conv(f"{at}._project_conv", behind, inner, 1, 1)
            norm(f"{at}._bn2", behind)
            before, number = behind, number + 1
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    conv("_fc", 1000, 1280, bias=True)
    return found


def features(
    x: Tensor,
    weights: Mapping[str, Tensor],
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """``(B, 3, H, W)`` → the last map ``(B, 1280, H', W')``."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        for axis in (2, 3):
            side, k = x.shape[axis], kernel.shape[axis]
            lack = max((math.ceil(side / stride) - 1) * stride + k - side, 0)
            low = lack // 2
            pad = (0, 0, low, lack - low) if axis == 2 else (low, lack - low, 0, 0)
            x = F.pad(x, pad)
        groups = x.shape[1] // kernel.shape[1]
        return F.conv2d(x, kernel, bias, stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-3) * scale + shift

    x = act(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for number, stride in enumerate(STRIDES):
        at, inside = f"_blocks.{number}", x
        if f"{at}._expand_conv.weight" in weights:
            x = act(norm(conv(x, f"{at}._expand_conv"), f"{at}._bn0"))
        x = act(norm(conv(x, f"{at}._depthwise_conv", stride), f"{at}._bn1"))
        if f"{at}._se_reduce.weight" in weights:
            squeezed = act(conv(x.mean((2, 3), keepdim=True), f"{at}._se_reduce"))
            x = x * torch.sigmoid(conv(squeezed, f"{at}._se_expand"))
        x = norm(conv(x, f"{at}._project_conv"), f"{at}._bn2")
        if x.shape == inside.shape:
            x = x + inside
    return act(norm(conv(x, "_conv_head"), "_bn1"))
