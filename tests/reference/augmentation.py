"""Random crops from their equations, on the process's generator."""

import math

import torch
from torchvision import transforms


class MaskedAutoencodersCrop(transforms.RandomResizedCrop):
    """Its one draw, from the equation: s ~ U(0.08, 1), log r ~ U, sides cut to the image's."""

    @staticmethod
    def get_params(image, scale, ratio):
        width, height = image.size
        area = torch.empty(1).uniform_(*scale).item() * height * width
        aspect = torch.empty(1).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp().item()
        w = min(width, max(1, round((area * aspect) ** 0.5)))
        h = min(height, max(1, round((area / aspect) ** 0.5)))
        top = torch.randint(0, height - h + 1, (1,)).item()
        return top, torch.randint(0, width - w + 1, (1,)).item(), h, w
