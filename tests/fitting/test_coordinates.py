"""Probes learn in standardised coordinates: no number hangs on the units of the features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.engine import JointTrainer, forward
from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.members import Group, Member, make_groups
from iceprobe.probes import build, coordinates
from iceprobe.probes.coordinates import Coordinates, location_and_scale, published, usual
from iceprobe.protocols.protocol import get_protocol
from iceprobe.tokens import TokenShape
from tests.fitting.conftest import CLASSES, DIM, GRID, PlantedSplit, planted

ZOO = [
    "ep4",
    "ep4?value=identity",
    "ep4?query=sliced",
    "ep4?out_dim=12",
    "ep4?batch_norm=false",
    "capi4?batch_norm=false",
    "mhca4",
    "aim4",
    "abmilp",
    "abmilp?depth=1",
    "abmilp?self_attention=true",
    "simpool",
    "simpool?linear=false",
    "clip4",
    "siglip4",
    "vjepa4",
    "cait4",
    "block4",
    "cae4",
    "coca4",
    "delf",
    "cbam",
    "capi4",
    "slot4",
]
SHAPE = TokenShape(DIM, GRID[0] * GRID[1], 0, GRID, has_class=False)
CPU = torch.device("cpu")


def changed(change: str) -> Tensor:
    """What tokens are multiplied by, or what is added, ``(D,)``."""
    generator = torch.Generator().manual_seed(5)
    match change:
        case "diagonal":
            return torch.logspace(-2, 2, DIM)[torch.randperm(DIM, generator=generator)]
        case "constant":
            return 10 * torch.randn(DIM, generator=generator)
    return torch.full((DIM,), float(change))


def apply(tokens: Tensor, change: str) -> Tensor:
    if change == "none":
        return tokens
    return tokens + changed(change) if change == "constant" else tokens * changed(change)


def fitted(label: str, change: str, steps: int = 24) -> Group:
    """A group of one member after a few steps on changed tokens."""
    split = planted(150, seed=0)
    split = PlantedSplit(apply(split.tokens, change), split.prefix, split.labels)
    feed = Feed(split, np.arange(150), {"patches"}, CPU, torch.float32)
    at = {"patches": Coordinates.of(feed.sample("patches", 0))}
    (group,) = make_groups([Member(label, 1e-3, 0.0, 0)], SHAPE, CLASSES, CPU, None, at)
    trainer = JointTrainer([group], "adamw", steps=steps, warmup=2)
    for epoch in range(steps // 3):
        for batch in feed.shuffled(50, 0, epoch):
            trainer.train_step(batch)
    return group


def logits(label: str, change: str) -> Tensor:
    """Of the probe that comes out, on changed test tokens."""
    probe = fitted(label, change).probe(0)
    with torch.no_grad():
        return probe(apply(planted(90, seed=1).tokens, change))


@pytest.mark.parametrize("label", ZOO)
def test_no_probe_hangs_on_the_scale_of_the_tokens(label):
    before = logits(label, "none")
    for scale in ("0.001", "1000"):
        torch.testing.assert_close(logits(label, scale), before, rtol=0.02, atol=0.02)


LINEAR = [label for label in ZOO if build(label, DIM, 3, GRID).pooling.linear_in_tokens]


@pytest.mark.parametrize("label", LINEAR)
def test_what_is_linear_in_the_tokens_doesnt_hang_on_a_scale_for_each_dimension(label):
    torch.testing.assert_close(
        logits(label, "diagonal"), logits(label, "none"), rtol=0.02, atol=0.02
    )


# Self-attention without biases can't take a constant off its queries and keys.
@pytest.mark.parametrize("label", [one for one in LINEAR if "self_attention" not in one])
def test_what_is_linear_in_the_tokens_doesnt_hang_on_a_constant(label):
    torch.testing.assert_close(
        logits(label, "constant"), logits(label, "none"), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("label", ZOO)
def test_the_fitted_probe_is_the_published_one_on_raw_tokens(label):
    """Logits of the joint trainer and of the module that comes out of it, the units far from 1."""
    group = fitted(label, "0.001", steps=6)
    tokens = apply(planted(20, seed=2).tokens, "0.001")
    batch = Batch({"patches": tokens}, torch.zeros(20, dtype=torch.long))
    with torch.no_grad():
        (together,) = forward([group], batch, training=False)
        torch.testing.assert_close(group.probe(0)(tokens), together[0], rtol=1e-3, atol=1e-4)


# AIM's batch norm is its own: nothing is folded while it learns.
@pytest.mark.parametrize("label", [one for one in LINEAR if one != "aim4"])
def test_folding_is_exact(label):
    """In float64, against the pooling with its learned parameters on tokens that are standardised."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 12, DIM, generator=generator, dtype=torch.float64)
    tokens = tokens * torch.logspace(-1, 1, DIM, dtype=torch.float64) + 0.3
    pooling = build(label, DIM, 3, GRID).pooling.double().eval()
    at = Coordinates.of(tokens.flatten(0, 1).float())
    at = Coordinates(
        *(t.double() for t in (at.mean, at.std)),
        at.scale,
        *(t.double() for t in (at.normed_mean, at.normed_std)),
    )
    learned = dict(pooling.named_parameters())
    folded = published(pooling, learned, at)
    found = torch.func.functional_call(pooling, folded, (tokens,))
    shifted = "self_attention" not in label
    standardised = (tokens - (at.mean if shifted else 0.0)) / at.std
    for name, unit in pooling.units.items():
        learned[name] = learned[name] * unit
    expected = torch.func.functional_call(pooling, learned, (standardised,))
    if pooling.own_values:
        width = pooling.out_dim
        expected = expected * at.std[:width] + at.mean[:width]
    offset = (found - expected).mean(0, keepdim=True)  # of value maps without bias: BatchNorm's
    torch.testing.assert_close(found - offset, expected, rtol=1e-9, atol=1e-9)


NORMED = [label for label in ZOO if build(label, DIM, 3, GRID).pooling.token_norms]


@pytest.mark.parametrize("label", NORMED)
def test_an_affine_in_standardised_coordinates_gives_standardised_tokens(label):
    """γ = 1 and β = 0 as they are learned: LN(x) comes out with mean 0 and deviation 1."""
    tokens = planted(100, seed=0).tokens * changed("diagonal") + 0.2
    pooling = build(label, DIM, 3, GRID).pooling
    at = Coordinates.of(tokens.flatten(0, 1))
    folded = published(pooling, dict(pooling.named_parameters()), at)
    for name in pooling.token_norms:
        weight, bias = folded[f"{name}.weight"], folded[f"{name}.bias"]
        out = F.layer_norm(tokens, (DIM,), weight, bias, 0.0)
        mean, std = location_and_scale(out.flatten(0, 1))
        torch.testing.assert_close(mean, torch.zeros(DIM), atol=0.01, rtol=0)
        torch.testing.assert_close(std, torch.ones(DIM), atol=0.01, rtol=0)


def test_artefact_tokens_dont_set_the_scale():
    """A hundredth of the tokens a hundred times as long: moments of the others, by numpy."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5000, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 4
    plain = tokens.clone()
    tokens[::100] = (tokens[::100] - 4) * 100 + 4
    mean, std = location_and_scale(usual(tokens))
    kept = np.delete(plain.numpy(), np.s_[::100], axis=0)
    np.testing.assert_allclose(mean, kept.mean(0), atol=0.02 * kept.std(0).max())
    np.testing.assert_allclose(std, kept.std(0), rtol=0.05)
    assert tokens.std(0)[0] > 5  # or there is nothing to show


def test_artefacts_are_the_same_tokens_in_all_units():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5000, 8, generator=generator)
    tokens[::100] *= 30
    kept = usual(tokens)
    assert len(kept) == 4950
    factors = torch.tensor([1.0, 1e4, 1e-4, 3, 1, 1, 1, 1])
    torch.testing.assert_close(usual(tokens * factors + 5) - 5, kept * factors, rtol=0, atol=0.01)


@pytest.mark.parametrize("active", [0.003, 0.03, 0.3, 1.0])
def test_dimensions_that_are_rarely_active_keep_their_deviation(active):
    """As behind a ReLU: their few large values are what they say, and small ones beside them are few.

    Of 0.003 the deviation is 0.085 and the farthest value lies 24 of them off: a tenth of that way is more.
    """
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(20_000, 40, generator=generator) + 1
    values *= torch.rand(values.shape, generator=generator) < active
    values += 0.01 * torch.rand(values.shape, generator=generator) * (values == 0)
    kept = usual(values)
    assert len(kept) > 0.99 * len(values)
    mean, std = location_and_scale(kept)
    deviation, farthest = values.numpy().std(0), (values - values.mean(0)).abs().amax(0).numpy()
    assert (farthest > 10 * deviation).all() == (farthest > 10 * deviation).any() == (active < 0.03)
    np.testing.assert_allclose(mean, values.mean(0), rtol=0.05)
    np.testing.assert_allclose(std, np.maximum(deviation, farthest / 10), rtol=0.05)


def test_dimensions_that_are_rarely_active_dont_drown_the_others(monkeypatch):
    """200 dimensions that say nothing, each active in a token of 2,000: 80% are read, 65 by deviations alone."""
    train, test = (seldom_active(n, seed) for n, seed in ((600, 0), (900, 1)))
    shape = replace(SHAPE, dim=train.tokens.shape[-1])
    feed = Feed(train, np.arange(600), {"patches"}, CPU, torch.float32)

    def accuracy() -> float:
        at = {"patches": Coordinates.of(feed.sample("patches", 0))}
        (group,) = make_groups([Member("mhca4", 1e-3, 0.0, 0)], shape, CLASSES, CPU, None, at)
        trainer = JointTrainer([group], "adamw", steps=192, warmup=20)
        for epoch in range(16):
            for batch in feed.shuffled(50, 0, epoch):
                trainer.train_step(batch)
        with torch.no_grad():
            guesses = group.probe(0)(test.tokens).argmax(1)
        return float((guesses.numpy() == test.labels).mean())

    bounded = accuracy()
    monkeypatch.setattr(coordinates, "FARTHEST", float("inf"))
    assert bounded > accuracy() + 0.05


def seldom_active(n: int, seed: int) -> PlantedSplit:
    split, generator = planted(n, seed), torch.Generator().manual_seed(100 + seed)
    shape = (*split.tokens.shape[:2], 200)
    values = -torch.log(torch.rand(shape, generator=generator))
    values *= torch.rand(shape, generator=generator) < 1 / 2000
    return PlantedSplit(torch.cat([split.tokens, values], -1), split.prefix, split.labels)


def test_what_would_be_more_than_a_tenth_is_no_artefact():
    tokens = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    tokens[:150] *= 100
    assert len(usual(tokens)) == 1000


def test_constant_dimensions_are_left_alone():
    mean, std = location_and_scale(usual(torch.full((50, 2), 3.0)))
    assert mean.tolist() == [3, 3]
    assert std.tolist() == [1, 1]


def test_a_probe_takes_its_scale_along():
    probe = fitted("vjepa4", "0.001", steps=3).probe(0)
    assert float(probe.scale) == pytest.approx(1000, rel=0.3)
    again = build("vjepa4", DIM, CLASSES, GRID).eval()
    again.load_state_dict(probe.state_dict())
    tokens = apply(planted(5, seed=3).tokens, "0.001")
    assert torch.equal(again(tokens), probe(tokens))
    again.load_state_dict(build("vjepa4", DIM, CLASSES, GRID).state_dict())
    assert again.scale is None
    assert "scale" not in fitted("ep4", "0.001", steps=3).probe(0).state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fit_standardises_in_every_dtype(dtype):
    feed = Feed(planted(150, seed=0), np.arange(150), {"patches"}, CPU, dtype)
    context = FitContext(
        get_protocol("heldout"),
        SHAPE,
        CLASSES,
        0,
        CPU,
        dtype,
        Checkpoint(None, ""),
        lambda *_: None,
    )
    (group,) = context.groups([Member("ep4", 1e-3, 0.0, 0)], feed, 50)
    assert group.coordinates is not None
