"""Tiny models of other libraries with random weights, and images prepared by hand."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.4)


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights away from their ones and zeros, so that a norm or a bias left out is seen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    saved = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point() and buffer.ndim:
            buffer.data += 0.2 * torch.rand(buffer.shape, generator=generator)
    return model.eval()


def picture(seed: int = 0) -> Image.Image:
    """Noise of 50 x 41 pixels: another size or interpolation gives other values."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (41, 50, 3), np.uint8))


def pixels(size: int, mean=MEAN, std=STD, interpolation: str = "bilinear") -> torch.Tensor:
    """The evaluation view of ``picture()``, by torchvision alone: ``(1, 3, size, size)``."""
    view = transforms.Compose(
        [
            transforms.Resize(int(size * 256 / 224), InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return view(picture())[None]


def seen(backbone) -> torch.Tensor:
    """What the backbone makes of ``picture()`` before its forward pass."""
    return backbone.preprocessing.transform(picture())[None]
