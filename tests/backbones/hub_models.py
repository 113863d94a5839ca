"""Entries of ``hub/hubconf.py``: models shaped as those of published hubs are."""

import timm
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet


class PlainViT(nn.Module):
    """DINO's and DINOv2's layout: class token, registers, patches; blocks, then the norm."""

    def __init__(self, registers: int = 0):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 8, stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.num_register_tokens = registers
        self.register_tokens = nn.Parameter(torch.randn(1, registers, 16))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0) for _ in range(3)
        )
        self.norm = nn.LayerNorm(16)
        self.norm.weight.data.normal_()

    def sequence(self, images):
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1)
        tokens = tokens + self.pos_embed
        registers = self.register_tokens.expand(len(images), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)

    def forward(self, images):
        tokens = self.sequence(images)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 10, 6))

    def forward(self, images):
        return self.table + images.mean((1, 2, 3))[:, None, None]


def dino_tiny(pretrained: bool = True) -> nn.Module:
    return PlainViT()


def dinov2_tiny_reg(weights: str = "") -> nn.Module:
    model = PlainViT(registers=2)
    model.given_weights = weights
    return model


def ibot_tiny() -> nn.Module:
    return PlainViT()


def mocov3_resnet() -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1])


def timm_tiny() -> nn.Module:
    return timm.create_model("test_vit", num_classes=0)


def sequence() -> nn.Module:
    return Sequence()


def nothing() -> None:
    return None


def broken() -> nn.Module:
    raise RuntimeError("its weights\nare elsewhere")
