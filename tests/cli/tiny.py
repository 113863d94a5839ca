"""A backbone for tests: one convolution, so that patches see colours."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from iceprobe.tokens import Tokens


class Tiny(nn.Module):
    """Patches of 8 pixels on a 2 x 2 grid, D = 12, and their mean as the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 8, stride=8)

    def tokens(self, images: Tensor) -> Tokens:
        x = self.patch(images)
        patches = x.flatten(2).transpose(1, 2)
        return Tokens(patches, patches.mean(1, keepdim=True), (x.shape[2], x.shape[3]), True)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(images).patches.mean(1)


def build() -> nn.Module:
    """Seeded weights, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny()


def build_vit() -> nn.Module:
    """A transformer of timm, D = 12, two blocks; seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=0
        )


def build_naflex() -> nn.Module:
    """timm's NaFlexVit, D = 12, two blocks, patches of 8 pixels; seeded weights."""
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    with torch.random.fork_rng():
        torch.manual_seed(0)
        cfg = NaFlexVitCfg(
            patch_size=8, embed_dim=12, depth=2, num_heads=2, class_token=True, global_pool="token"
        )
        model = NaFlexVit(cfg=cfg, num_classes=0)
    model.pretrained_cfg = {"input_size": (3, 32, 32), "first_conv": "embeds.proj"}
    return model
