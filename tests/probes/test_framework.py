"""Pieces that make a probe: they express the built-in ones, and what a user makes of them."""

import pytest
import torch
from torch import nn

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import (
    PROBES,
    ComposedPooling,
    Queries,
    build,
    build_pooling,
    parse_probe,
    probe_label,
    register,
)
from iceprobe.probes.framework import count_macs
from iceprobe.probes.pooling import AttentivePooling, QueryPooling
from tests.probes.cases import CASES

D, M, GRID = 24, 4, (2, 5)
N = GRID[0] * GRID[1]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    torch.manual_seed(0)
    monkeypatch.setattr(PROBES, "_entries", dict(PROBES._entries))


def randomised(pooling):
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=0.7)
    return pooling.double()


def tokens_of(batch=3):
    return torch.randn(batch, N, D).double()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_what_shares_its_attention_is_the_framework(case):
    """The shared product and the equation of the framework are one function."""
    pooling, tokens = randomised(build_pooling(case.spec, D, GRID)).eval(), tokens_of()
    if isinstance(pooling, QueryPooling):
        plain = AttentivePooling.forward(pooling, tokens)
        torch.testing.assert_close(pooling(tokens), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "pieces"),
    [
        ("ep4", {}),
        ("ep4?out_dim=12", {"out_dim": 12}),
        ("ep4?value=identity", {"value": "identity"}),
    ],
)
def test_efficient_probing_is_composed_of_queries_and_slices(spec, pieces):
    ep = randomised(build_pooling(spec, D))
    composed = ComposedPooling(Queries(D, M), D, M, **pieces).double()
    names = {"predictor.query": ep.query}
    if ep.value is not None:
        names["value.weight"] = ep.value.weight
    composed.load_state_dict(names)
    tokens = tokens_of()
    torch.testing.assert_close(composed(tokens), ep(tokens), rtol=0, atol=1e-12)
    torch.testing.assert_close(composed.attention(tokens), ep.attention(tokens))
    assert composed.out_dim == ep.out_dim
    assert composed.macs(N) == ep.macs(N)
    assert composed.normalised


def test_abmilp_is_composed_of_a_scorer_and_the_mean_of_one_predictor():
    scorer = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1))
    abmilp = randomised(build_pooling("abmilp", D))
    scorer[0].load_state_dict(abmilp.hidden.state_dict())
    scorer[2].load_state_dict(abmilp.scorer.state_dict())
    composed = ComposedPooling(lambda x: scorer.double()(x).mT, D, 1, value="mean")
    tokens = tokens_of()
    torch.testing.assert_close(composed(tokens), abmilp(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("normalise", "axis"), [("tokens", 2), ("predictors", 1), ("sigmoid", None), ("none", None)]
)
def test_normalisers(normalise, axis):
    composed = randomised(ComposedPooling(Queries(D, M), D, M, normalise=normalise))
    tokens = tokens_of()
    scores = torch.einsum("md,bnd->bmn", composed.predictor.query, tokens) / D**0.5
    weights = composed.attention(tokens)
    if axis is not None:
        e = scores.exp()
        torch.testing.assert_close(weights, e / e.sum(axis, keepdim=True))
    else:
        expected = {"none": scores, "sigmoid": 1 / (1 + (-scores).exp())}[normalise]
        torch.testing.assert_close(weights, expected)
    assert composed.normalised == (normalise == "tokens")


def test_a_block_on_top_and_pieces_of_ones_own():
    block = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D)).double()
    plain = ComposedPooling(Queries(D, M).double(), D, M, value=lambda pooled: pooled.amax(1))
    composed = ComposedPooling(
        plain.predictor, D, M, value=plain.value, block=block,
        normalise=lambda scores: scores.softmax(-1), normalised=True,
    )  # fmt: skip
    tokens = tokens_of()
    pooled = plain.attention(tokens) @ tokens
    torch.testing.assert_close(composed(tokens), block(pooled.amax(1)))
    assert {name for name, _ in composed.named_parameters()} == {
        "predictor.query", "block.0.weight", "block.0.bias", "block.1.weight", "block.1.bias"
    }  # fmt: skip
    assert composed.normalised
    assert composed.macs(N) == 2 * N * M * D + D * D


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_counter_sees_fused_attention_and_not_what_is_done_once_a_step(device):
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Parameter(torch.randn(M, D)), nn.Linear(D, D)

        def forward(self, tokens):
            return self.query @ self.key.weight @ tokens.mT

    with torch.device(device):
        composed = ComposedPooling(Folded(), D, M).train()
        layer = nn.TransformerEncoderLayer(D, 4, 4 * D, batch_first=True, norm_first=True)
        over_tokens = nn.Sequential(layer, nn.Linear(D, M))
        mixed = ComposedPooling(lambda x: over_tokens(x).mT, D, M, value="mean")
    mixed.over_tokens = over_tokens
    for parameter in mixed.parameters():
        parameter.requires_grad_(False)
    assert composed.macs(N) == 2 * N * M * D + D * D
    assert composed.training
    assert count_macs(mixed, D, N) == 12 * N * D * D + 2 * N * N * D + 2 * N * D * M


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalise": "tokns"}, "unknown normaliser 'tokns'. Did you mean tokens?"),
        ({"value": "slices"}, "unknown value map 'slices'"),
        ({"num_predictors": 5}, "M=5: 5 does not divide out_dim=24; the nearest that does is M=6"),
        ({"value": "mean", "out_dim": 12}, "leave out_dim out"),
    ],
)
def test_pieces_that_do_not_fit_are_named(arguments, message):
    arguments = {"num_predictors": M, **arguments}
    with pytest.raises(IceprobeError) as caught:
        ComposedPooling(Queries(D, arguments["num_predictors"]), D, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def gated(dim: int, queries: int = 6, out_dim: int | None = None, sharpness: float = 1.0,
          shared: bool = False, gate: str = "sigmoid"):  # fmt: skip
    """A probe as a user writes it."""
    scorer = Queries(dim, queries)
    scorer.scale *= sharpness
    return ComposedPooling(scorer, dim, queries, normalise=gate, out_dim=out_dim)


def test_arguments_become_keys_of_the_spec_string():
    register("gated", gated, "sigmoid gates", number="queries")
    entry = PROBES["gated"]
    assert list(entry.options) == [
        "queries", "out_dim", "sharpness", "shared", "gate",
        "input", "batch_norm", "layers", "join",
    ]  # fmt: skip
    assert (entry.number, entry.default_number, entry.needs_grid) == ("queries", 6, False)
    assert probe_label("gated") == "gated6"
    assert probe_label("gated8?sharpness=1.0&shared=FALSE&out_dim=16") == "gated8?out_dim=16"
    assert probe_label("gated?sharpness=2") == "gated6?sharpness=2.0"
    assert parse_probe("gated?queries=3") == parse_probe("gated3")
    probe = build("gated4?gate=tokens&out_dim=12&batch_norm=false&input=class+patches", D, 5,
                  has_class=True)  # fmt: skip
    assert probe.pooling.num_predictors == 4
    assert probe.pooling.normalised
    assert probe.pooling.out_dim == 12
    assert probe.input == "class+patches"
    assert isinstance(probe.norm, nn.Identity)
    assert probe.flops(N) == 2 * (2 * (N + 1) * 4 * D + 12 * D + 12 * 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gated0", "write a whole number of at least 1"),
        ("gated4?shared=maybe", "write true or false"),
        (
            "gated4?heads=2",
            "There are: batch_norm, gate, input, join, layers, out_dim, queries, shared, ",
        ),
        ("gated5", "the nearest that does is M=6"),
        ("gaetd5", "Did you mean gated"),
    ],
)
def test_a_registered_probe_answers_wrong_keys_as_all_others_do(text, message):
    register("gated", gated, "sigmoid gates", number="queries")
    with pytest.raises(IceprobeError, match=message):
        build(text, D, 5)


def test_what_cannot_be_registered_is_named():
    with pytest.raises(IceprobeError, match="'ep' is registered already"):
        register("ep", gated, "taken")
    with pytest.raises(IceprobeError, match="'gated2' isn't a name"):
        register("gated2", gated, "a number belongs to the spec string", number="queries")
    with pytest.raises(IceprobeError, match=r"scale.* can't be a key of a spec string"):
        register("untyped", lambda dim, scale=1: None, "no annotation")
    with pytest.raises(IceprobeError, match=r"heads.* no argument with a default"):
        register("numberless", gated, "no such number", number="heads")

    def required(dim: int, width: int):
        raise NotImplementedError

    with pytest.raises(IceprobeError, match="width: int can't be a key"):
        register("required", required, "no default")
