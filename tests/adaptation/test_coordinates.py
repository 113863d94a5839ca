"""Probes on an adapted backbone learn in the frozen tokens' coordinates, and come out published."""

import pytest
import torch
from torch.nn import functional as F

from iceprobe.adaptation.coordinates import enter, published
from iceprobe.probes import build
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.probe import build_for
from iceprobe.tokens import TokenShape

SHAPE = TokenShape(24, 12, 0, (3, 4), has_class=False)


def trained(label: str, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the probe and of what is kept of it, after a few steps on tokens × ``scale``."""
    generator = torch.Generator().manual_seed(0)
    tokens = scale * torch.randn(40, 12, 24, generator=generator)
    labels = torch.arange(40) % 3
    probe = enter(
        build_for(SHAPE, label, 3, seed=1), {"patches": Coordinates.of(tokens.flatten(0, 1))}
    )
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(probe(tokens), labels).backward()
        optimizer.step()
    plain = build(label, 24, 3, (3, 4))
    plain.load_state_dict(published(probe))
    with torch.no_grad():
        return probe.eval()(tokens), plain.eval()(tokens)


@pytest.mark.parametrize(
    "label", ["ep4", "ep4?query=sliced", "mhca4", "siglip4", "delf", "vjepa4", "abmilp", "block4"]
)
def test_numbers_dont_hang_on_the_units_and_what_is_kept_is_the_probe(label):
    here, kept = trained(label, 1.0)
    torch.testing.assert_close(kept, here, rtol=1e-4, atol=1e-4)
    smaller, kept = trained(label, 1e-3)
    torch.testing.assert_close(kept, smaller, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(smaller, here, rtol=0.05, atol=0.05)
