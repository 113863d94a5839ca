"""Logits of patches and pixels against plain formulas, and what the equations promise."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.segmentation import build, upsample
from tests.reference import segmentation as plain

B, N, D, C = 3, 12, 7, 4


def random_probe(name: str, seed: int = 0):
    probe = build(name, D, C).double()
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*probe.parameters(), probe.mean]:
        tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    probe.std.uniform_(0.5, 2, generator=generator)
    return probe


def random_tokens(seed: int = 9):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, N, D, generator=generator, dtype=torch.float64)


def by_hand(probe, tokens):
    """Logits ``(B, N, C)`` by the plain formulas."""
    x = ((tokens - probe.mean) / probe.std).numpy()
    given = [p.detach().numpy() for p in probe.parameters()]
    return np.stack([(plain.ep if len(given) > 2 else plain.linear)(one, *given) for one in x])


@pytest.mark.parametrize("name", ["linear", "ep1", "ep3"])
def test_logits_are_those_of_the_equation(name):
    probe, tokens = random_probe(name), random_tokens()
    np.testing.assert_allclose(probe(tokens).detach(), by_hand(probe, tokens), rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "ep3"])
def test_members_lie_side_by_side(name):
    probes, tokens = [random_probe(name, seed) for seed in (0, 1)], random_tokens()
    for probe in probes[1:]:
        probe.mean, probe.std = probes[0].mean, probes[0].std
    stacked = {
        key: torch.stack([p.get_parameter(key) for p in probes])
        for key, _ in probes[0].named_parameters()
    }
    both = functional_call(probes[0], stacked, (tokens,))
    assert both.shape == (2, B, N, C)
    for one, probe in zip(both, probes, strict=True):
        torch.testing.assert_close(one, probe(tokens), rtol=1e-12, atol=1e-12)


def test_mean_over_patches_is_what_linear_and_ep_say_of_the_image():
    probe, tokens = random_probe("ep3"), random_tokens()
    x = (tokens - probe.mean) / probe.std
    pooled = torch.stack(
        [
            torch.from_numpy(np.stack([plain.attention(one, u) @ one for u in probe.query.detach().numpy()]))
            for one in x.numpy()
        ]
    )  # fmt: skip
    of_ep = torch.einsum("bmd,mcd->bc", pooled, probe.evidence) / 3
    image = x.mean(1) @ probe.weight.mT + probe.bias + of_ep
    torch.testing.assert_close(probe(tokens).mean(1), image, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(probe.attention(tokens).sum(-1), torch.ones(B, 3).double())


@pytest.mark.parametrize("name", ["linear", "ep3"])
def test_gradients_reach_every_parameter(name):
    probe = random_probe(name)
    (random_probe(name, 5)(random_tokens()).detach() * probe(random_tokens())).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in probe.parameters())


@pytest.mark.parametrize("name", ["linear", "ep3"])
def test_parameters_and_multiply_adds_have_closed_forms(name):
    probe = build(name, D, C)
    queries = 0 if name == "linear" else 3
    count = sum(p.numel() for p in probe.parameters())
    assert count == C * D + C + queries * D + queries * C * D
    macs = N * C * D + queries * (2 * N * D + C * D + N * C)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        probe(random_tokens().float()[:1])
    assert 2 * probe.macs(N) == 2 * macs == counter.get_total_flops()


@pytest.mark.parametrize(("grid", "side"), [((3, 5), 15), ((4, 4), 16), ((3, 2), 7)])
def test_upsampling_is_bilinear_between_centres(grid, side):
    logits = torch.randn(2, 3, grid[0] * grid[1], 2, dtype=torch.float64)
    pixels = upsample(logits, grid, side)
    assert pixels.shape == (2, 3, 2, side, side)
    for member in range(2):
        for image in range(3):
            for c in range(2):
                cells = logits[member, image, :, c].view(*grid).numpy()
                wanted = plain.bilinear(cells, side)
                np.testing.assert_allclose(pixels[member, image, c], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["knn", "aim12", "ep8?out_dim=96", "linear?input=mean"])
def test_other_probes_do_not_segment(name):
    with pytest.raises(IceprobeError, match="doesn't segment: take linear or an EP"):
        build(name, D, C)
