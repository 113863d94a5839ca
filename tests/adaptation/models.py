"""A small vision transformer of timm, with weights away from their ones and zeros."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import iceprobe
from iceprobe.adaptation.model import Adapted
from iceprobe.backbones import Backbone, Preprocessing
from iceprobe.probes.probe import build_for
from tests.backbones.builders import perturbed

SIDE, DIM, DEPTH, CLASSES = 16, 24, 3, 3


def vit() -> nn.Module:
    """Grey images of 16 pixels in 4 x 4 patches; D = 24, three blocks, a class token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=SIDE, patch_size=4, in_chans=1, embed_dim=DIM, depth=DEPTH, num_heads=2,
            num_classes=0,
        )  # fmt: skip
        model = perturbed(model)
    model.preprocessing = Preprocessing(SIDE, (0.4,), (0.3,), crop_pct=1.0, channels=1)
    return model


def backbone(model: nn.Module | None = None, **options) -> Backbone:
    return iceprobe.load_backbone(model or vit(), **options)


def adapted(adaptation: str, of: Backbone | None = None, probe: str = "linear", **options):
    of = of or backbone()
    return Adapted(
        of, adaptation, build_for(of.shape, probe, CLASSES, seed=0).to(dtype(of)), **options
    )


def dtype(of: Backbone) -> torch.dtype:
    return next(of.parameters()).dtype


def images(count: int, seed: int = 0, side: int = SIDE, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8
    )


def labels(count: int) -> torch.Tensor:
    return torch.arange(count) % CLASSES


def learn(model: Adapted, steps: int = 3, rate: float = 0.05) -> None:
    """A few plain steps by torch alone."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        logits = model(images(8, seed=step))
        torch.nn.functional.cross_entropy(logits, labels(8)).backward()
        optimizer.step()
