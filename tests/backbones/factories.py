"""Factories as a user would write them, for `python:tests.backbones.factories:NAME`."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from iceprobe.backbones import Preprocessing


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 4, stride=4)


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0
    )
    model.preprocessing = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
    return model


def nothing() -> None:
    return None


def of_depth(depth: int) -> nn.Module:
    return nn.Sequential(*(nn.Identity() for _ in range(depth)))


def fails() -> nn.Module:
    raise ValueError("no such\nwidth")
