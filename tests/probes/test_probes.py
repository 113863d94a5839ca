"""One suite over every registered probe; a new probe is one more row in `cases`."""

import pytest
import torch
from safetensors.torch import load, save
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import PROBES, build, build_pooling, parse_probe, probe_label
from iceprobe.probes.attend import attend
from iceprobe.probes.pooling import QueryPooling
from iceprobe.tokens import Tokens
from tests.probes.cases import CASES, GRID, N

D, C = 24, 5
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pooling_of(case, dtype=torch.float64):
    """In training mode, its parameters so large that attention is far from uniform."""
    pooling = build_pooling(case.spec, D, GRID).to(dtype)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=case.spread)
    return pooling


def tokens_of(batch=3, dtype=torch.float64):
    return torch.randn(batch, N, D, dtype=dtype)


def test_every_registered_probe_has_a_row():
    assert {parse_probe(case.spec).name for case in CASES} == set(PROBES) - {"knn"}


@each
def test_shapes(case):
    pooling = pooling_of(case)
    assert pooling.out_dim == case.out_dim
    assert pooling.num_predictors == case.predictors
    assert pooling(tokens_of()).shape == (3, case.out_dim)


@each
def test_descriptor_and_gradients_are_those_of_the_plain_formula(case):
    pooling, tokens = pooling_of(case), tokens_of().requires_grad_()
    parameters = dict(pooling.named_parameters())
    leaves = [tokens, *parameters.values()]
    expected, weights = case.plain(tokens, parameters)
    direction = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * direction).sum(), leaves)

    got = pooling(tokens)
    gradients = torch.autograd.grad((got * direction).sum(), leaves)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    for a, b in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    if weights is not None:
        torch.testing.assert_close(every_weight(pooling, tokens), weights, rtol=0, atol=1e-12)


@each
def test_cached_tokens_get_no_gradient_and_parameters_the_same(case):
    pooling, tokens = pooling_of(case), tokens_of()
    parameters = list(pooling.parameters())
    if not parameters:
        assert not pooling(tokens).requires_grad
        return
    direction = torch.randn(3, case.out_dim, dtype=torch.float64)
    cached = torch.autograd.grad((pooling(tokens) * direction).sum(), parameters)
    tokens = tokens.requires_grad_()
    live = torch.autograd.grad((pooling(tokens) * direction).sum(), parameters)
    for a, b in zip(cached, live, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@each
def test_gradients_reach_every_parameter(case):
    pooling = pooling_of(case)
    if not list(pooling.parameters()):
        return
    (pooling(tokens_of()) ** 2).sum().backward()
    for name, parameter in pooling.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        moved = parameter.grad.abs().max() > 1e-9
        assert moved == (name not in case.unmoved), name


@each
def test_attention_sums_to_one_or_says_that_it_does_not(case):
    pooling = pooling_of(case)
    if not case.predictors:
        with pytest.raises(IceprobeError, match="no attention"):
            pooling.attention(tokens_of())
        return
    tokens = tokens_of()
    assert pooling.attention(tokens).shape == (3, case.predictors, N)
    assert pooling.prefix_attention(tokens).shape == (3, case.predictors, case.prefix)
    weights = every_weight(pooling, tokens)
    assert (weights >= 0).all()
    assert pooling.normalised == case.normalised
    sums = weights.sum(-1)
    if case.normalised:
        torch.testing.assert_close(sums, torch.ones(3, case.predictors).double())
    else:
        assert (sums - 1).abs().min() > 0.01


@each
def test_parameters_equal_the_closed_form(case):
    probe = build(case.spec, D, C, GRID)
    classifier = case.out_dim * C + C
    pooling = case.parameters(D)
    assert probe.num_parameters() == {
        "pooling": pooling,
        "classifier": classifier,
        "total": pooling + classifier,
    }


@each
def test_parameters_equal_the_published_number(case):
    counts = build(case.published, 768, 1000, (14, 14), has_class=True).num_parameters()
    assert (counts["pooling"], counts["total"]) == case.number


@each
def test_flops_equal_the_closed_form_and_the_counter(case):
    probe = build(case.spec, D, C, GRID).eval()
    assert probe.pooling.macs(N) == case.macs(D, N)
    assert probe.pooling.macs_per_step() == case.per_step(D)
    assert probe.flops(N) == 2 * (case.macs(D, N) + case.out_dim * C)

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        probe(torch.randn(4, N, D))
    assert counter.get_total_flops() == 4 * probe.flops(N) + 2 * case.per_step(D)


@each
def test_an_image_alone_gets_what_it_gets_in_a_batch(case):
    probe = build(case.spec, D, C, GRID, has_class=True).double().eval()
    tokens = Tokens(tokens_of(), tokens_of()[:, :1], has_class=True)
    together = probe(tokens)
    assert together.shape == (3, C)
    for i in range(3):
        alone = Tokens(tokens.patches[i : i + 1], tokens.prefix[i : i + 1], has_class=True)
        torch.testing.assert_close(probe(alone), together[i : i + 1])


@each
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_narrow_tokens(case, narrow):
    """Tokens of a store in half precision under float32 parameters: outputs and gradients."""
    pooling, tokens = pooling_of(case, torch.float32), tokens_of(8).to(narrow)
    wide = build_pooling(case.spec, D, GRID).double()
    wide.load_state_dict(pooling.state_dict())
    expected, got = wide(tokens.double()), pooling(tokens)
    tolerance = 0.02 if narrow == torch.bfloat16 else 0.005
    assert got.dtype == torch.float32
    assert error(got, expected) < tolerance

    direction = torch.randn_like(expected)
    for (name, mine), theirs in zip(
        pooling.named_parameters(), list(wide.parameters()), strict=True
    ):
        if name not in case.unmoved:
            loss, wide_loss = (got * direction.float()).sum(), (expected * direction).sum()
            gradient = torch.autograd.grad(loss, mine, retain_graph=True)[0]
            reference = torch.autograd.grad(wide_loss, theirs, retain_graph=True)[0]
            assert error(gradient, reference) < 2 * tolerance, name


@each
def test_a_probe_in_bfloat16(case):
    probe = build(case.spec, D, C, GRID, has_class=True).bfloat16()
    tokens = tokens_of(8, torch.bfloat16)
    logits = probe(Tokens(tokens, tokens[:, :1], has_class=True))
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in probe.parameters())
    wide = build(case.spec, D, C, GRID, has_class=True).double()
    wide.load_state_dict(probe.state_dict())
    wide, probe, tokens = wide.eval(), probe.eval(), tokens.double()
    expected = wide(Tokens(tokens, tokens[:, :1], has_class=True))
    narrow = tokens.bfloat16()
    assert error(probe(Tokens(narrow, narrow[:, :1], has_class=True)), expected) < 0.05


@each
def test_saved_and_loaded(case):
    probe = build(case.spec, D, C, GRID)
    probe(tokens_of(dtype=torch.float32) if probe.input == "patches" else torch.randn(3, D))
    again = build(case.spec, D, C, GRID)
    again.load_state_dict(load(save(probe.state_dict())))
    tokens = torch.randn(3, N, D) if probe.input == "patches" else torch.randn(3, D)
    assert torch.equal(again.eval()(tokens), probe.eval()(tokens))


@each
def test_members_stacked_are_members_alone(case):
    """What the engine does: parameters with a leading member axis, one attend for all."""
    pooling, tokens = pooling_of(case), tokens_of()
    if not isinstance(pooling, QueryPooling):
        return
    members = [pooling_of(case) for _ in range(3)]
    stacked = {
        name: torch.stack([m.get_parameter(name).detach() for m in members])
        for name, _ in pooling.named_parameters()
    }
    stats = pooling.token_stats(tokens)

    def queries(parameters):
        return functional_call(Call(pooling, "queries"), parameters, (stats,))

    def values(parameters, pooled):
        return functional_call(Call(pooling, "values"), parameters, (pooled, stats))

    named = {f"pooling.{name}": t for name, t in stacked.items()}
    u = vmap(queries)(named)
    pooled = attend(tokens, u.flatten(0, 1), pooling.token_rstd(tokens)).unflatten(1, (3, -1))
    got = vmap(values, in_dims=(0, 1))(named, pooled)
    for member, descriptor in zip(members, got, strict=True):
        torch.testing.assert_close(descriptor, member(tokens), rtol=0, atol=1e-12)


@each
def test_labels_name_the_probe_again(case):
    label = probe_label(case.spec)
    assert parse_probe(label) == parse_probe(case.spec)
    assert probe_label(label) == label


class Call(torch.nn.Module):
    def __init__(self, pooling, method):
        super().__init__()
        self.pooling, self.method = pooling, method

    def forward(self, *inputs):
        return getattr(self.pooling, self.method)(*inputs)


def every_weight(pooling, tokens):
    """Keys that the probe adds itself first, then the tokens."""
    return torch.cat([pooling.prefix_attention(tokens), pooling.attention(tokens)], -1)


def error(got, expected):
    """Largest difference, relative to the largest expected value."""
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()
