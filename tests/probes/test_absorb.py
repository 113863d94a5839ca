"""Equivalences: keys absorbed into queries, torch's own attention, torch's own batch norm."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import absorb, build, build_pooling
from iceprobe.probes.counts import count
from iceprobe.probes.ep import EfficientProbing
from tests.reference import probes as reference

D, N, GRID = 24, 10, (2, 5)
FOLDED = {  # spec → parameters saved by absorbing, of D and M
    "capi3": lambda d, m: d + d * d + d - m * d,  # query, W_K, b_K
    "siglip3": lambda d, m: d + 2 * (d * d + d) - m * d,  # latent, W_Q, W_K and biases
    "vjepa3": lambda d, m: 2 * (d * d + d) - m * d,  # W_Q, W_K and biases; q₀ is added to y
    "cait3": lambda d, m: 2 * (d * d + d) - m * d,  # the same; the class token is a key as well
    "cae3": lambda d, m: d + 4 * d + 2 * d * d - m * d,  # query, LN_q, LN_k, W_Q, W_K
    "vjepa3?proj=false": lambda d, m: 2 * (d * d + d) - m * d,
    "coca2?queries=5": lambda d, m: 6 * d + 64 * m * d + 64 * d - m * d,
    "coca2": lambda d, m: 2 * d + 64 * m * d + 64 * d - m * d,  # query, LN, W_Q, W_K
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pooling_of(spec):
    pooling = build_pooling(spec, D).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=0.7)
    return pooling


def tokens_of(batch=3):
    """Channels of different mean and scale, as a batch norm would meet them."""
    scale, mean = torch.rand(D).double() * 3 + 0.1, torch.randn(D).double() * 2
    return torch.randn(batch, N, D).double() * scale + mean


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spec", FOLDED)
def test_absorbed_folded_probe_is_the_same_function(spec, training):
    pooling = pooling_of(spec).train(training)
    cheap = absorb(pooling)
    assert cheap.training == training
    tokens = tokens_of().requires_grad_()
    for name in ("attention", "prefix_attention", "forward"):
        expected, got = getattr(pooling, name)(tokens), getattr(cheap, name)(tokens)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    slopes = [torch.autograd.grad((p(tokens) * direction).sum(), tokens) for p in (pooling, cheap)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-11, atol=1e-11)

    saved = FOLDED[spec](D, pooling.num_predictors)
    parameters = dict(cheap.named_parameters())
    assert parameters["u"].shape == (pooling.num_predictors, D)
    assert saved > 0
    assert sum(p.numel() for p in pooling.parameters()) - saved == sum(
        p.numel() for p in parameters.values()
    )
    assert cheap.macs(N) == pooling.macs(N)
    class_token_key = pooling.num_predictors * D if spec == "cait3" else 0
    assert cheap.macs_per_step() == class_token_key < pooling.macs_per_step()
    (cheap(tokens.detach()) ** 2).sum().backward()
    for name, parameter in parameters.items():
        assert parameter.grad.abs().max() > 1e-9, name


def test_an_absorbed_probe_is_counted_and_saved_like_any_other():
    probe = build("vjepa3", D, 5)
    before = probe.num_parameters()["pooling"], probe.flops(N)
    probe.pooling = absorb(probe.pooling)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        probe.eval()(torch.randn(4, N, D))
    assert counter.get_total_flops() == 4 * probe.flops(N)
    assert (probe.num_parameters()["pooling"], probe.flops(N)) == (
        before[0] - FOLDED["vjepa3"](D, 3),
        before[1],
    )
    again = absorb(build_pooling("vjepa3", D))
    again.load_state_dict(load(save(probe.pooling.state_dict())))
    tokens = torch.randn(4, N, D)
    assert torch.equal(again(tokens), probe.pooling(tokens))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spec", ["mhca3", "mhca4?attn_dim=8&out_dim=12", "aim3", "aim24"])
def test_absorbed_is_the_same_function_with_fewer_parameters(spec, training):
    pooling = pooling_of(spec)
    for _ in range(3):
        pooling(tokens_of())  # running statistics away from their start
    pooling.train(training)
    cheap = absorb(pooling)
    assert cheap.training == training
    tokens = tokens_of()
    torch.testing.assert_close(
        cheap.attention(tokens), pooling.attention(tokens), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(cheap(tokens), pooling(tokens), rtol=0, atol=1e-12)
    if spec.startswith("aim"):
        for name, buffer in pooling.named_buffers():
            assert torch.equal(cheap.get_buffer(name), buffer), name
    heads, out_dim = pooling.num_predictors, pooling.out_dim
    assert sum(p.numel() for p in cheap.parameters()) == D * out_dim + heads * D
    assert not any("key" in name for name, _ in cheap.named_parameters())
    assert cheap.macs(N) == pooling.macs(N)
    assert cheap.macs_per_step() == 0


def test_absorbing_leaves_the_original_alone():
    pooling = pooling_of("aim3")
    before = copy.deepcopy(pooling.state_dict())
    cheap = absorb(pooling)
    cheap(tokens_of()).sum().backward()
    with torch.no_grad():
        for parameter in cheap.parameters():
            parameter.zero_()
    for name, tensor in pooling.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in pooling.parameters())


def test_absorbed_mhca_is_efficient_probing():
    assert isinstance(absorb(pooling_of("mhca3")), EfficientProbing)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("linear", "has no keys"),
        ("mean_value", "has no keys"),
        ("ep4", "queries are free of keys already"),
        ("abmilp", "values are the tokens"),
        ("abmilp?depth=1", "free query already"),
        ("abmilp?self_attention=true", "values are the tokens"),
        ("simpool", "one effective query per image"),
        ("simpool?linear=false", "one effective query per image"),
        ("clip", "one effective query per image"),
    ],
)
def test_refused_with_the_reason(spec, reason):
    with pytest.raises(IceprobeError, match=rf"can't be absorbed: .*{reason}"):
        absorb(build_pooling(spec, D, GRID))


@pytest.mark.parametrize("spec", ["aim3", *FOLDED])
def test_what_is_absorbed_is_not_absorbed_twice(spec):
    with pytest.raises(IceprobeError, match="absorbed already"):
        absorb(absorb(build_pooling(spec, D)))


@pytest.mark.parametrize("attn_dim", [D, 12])
def test_mhca_is_torch_multihead_attention(attn_dim):
    """With the query projection and the output projection set to identity."""
    pooling = pooling_of(f"mhca3?attn_dim={attn_dim}&out_dim={attn_dim}")
    attention = torch.nn.MultiheadAttention(
        attn_dim, 3, bias=False, kdim=D, vdim=D, batch_first=True, dtype=torch.float64
    )
    key, value = pooling.key.weight.detach(), pooling.value.weight.detach()
    identity = torch.eye(attn_dim, dtype=torch.float64)
    state = {"out_proj.weight": identity}
    if attn_dim == D:
        state["in_proj_weight"] = torch.cat([identity, key, value])
    else:
        state |= {"q_proj_weight": identity, "k_proj_weight": key, "v_proj_weight": value}
    attention.load_state_dict(state)
    tokens = tokens_of()
    query = pooling.query.detach().expand(3, 1, -1)
    expected, weights = attention(query, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(pooling(tokens), expected[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(pooling.attention(tokens), weights[:, :, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("live_tokens", [False, True])
def test_aim_is_its_plain_formula_through_torch_batch_norm_in_both_modes(live_tokens):
    pooling = pooling_of("aim3")
    parameters = dict(pooling.named_parameters())
    norm = torch.nn.BatchNorm1d(D, affine=False, eps=1e-6).double()
    for training in (True, True, False):
        pooling.train(training)
        norm.train(training)
        tokens = tokens_of().requires_grad_(live_tokens)
        expected, weights = reference.aim(tokens, parameters, 3, norm)
        direction = torch.randn_like(expected)
        leaves = [*parameters.values(), *([tokens] if live_tokens else [])]
        gradients = torch.autograd.grad((expected * direction).sum(), leaves)
        got = pooling(tokens)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        for a, b in zip(
            torch.autograd.grad((got * direction).sum(), leaves), gradients, strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
        torch.testing.assert_close(pooling.attention(tokens), weights, rtol=0, atol=1e-12)
        torch.testing.assert_close(pooling.running_mean, norm.running_mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(pooling.running_var, norm.running_var, rtol=0, atol=1e-13)
    assert not torch.equal(norm.running_mean, torch.zeros(D).double())


def test_looking_at_aim_attention_in_training_leaves_the_statistics_alone():
    pooling = pooling_of("aim3")
    pooling.attention(tokens_of())
    assert torch.equal(pooling.running_mean, torch.zeros(D).double())
    assert torch.equal(pooling.running_var, torch.ones(D).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_aim_statistics_of_narrow_tokens(dtype):
    pooling = build_pooling("aim3", D)
    tokens = tokens_of(16).to(dtype)
    stats = pooling.token_stats(tokens)
    variance, mean = torch.var_mean(tokens.double(), (0, 1), correction=0)
    torch.testing.assert_close(stats.mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.variance.double(), variance, rtol=1e-4, atol=1e-5)
    assert stats.num_tokens == 16 * N


def test_efficient_probing_starts_as_mean_and_values():
    """Attention is almost uniform at initialisation on tokens of unit scale."""
    pooling = build_pooling("ep12", 768)
    tokens = torch.randn(4, 196, 768)
    assert (pooling.attention(tokens) * 196 - 1).abs().max() < 0.15
    expected = tokens.mean(1) @ pooling.value.weight.T
    assert (pooling(tokens) - expected).abs().max() < 0.05 * expected.abs().max()


def test_one_query_sliced_is_one_query():
    full, sliced = build_pooling("ep1", D), build_pooling("ep1?query=sliced", D)
    sliced.load_state_dict(full.state_dict())
    tokens = torch.randn(3, N, D)
    assert torch.equal(full(tokens), sliced(tokens))


@pytest.mark.parametrize(
    ("spec", "saved", "per_step"),
    [
        # W_K and q go, M free queries come: D² + D − M·D; folding cost D² multiply–adds a step.
        ("mhca12", 768**2 + 768 - 12 * 768, 2 * 768**2),
        ("aim12", 768**2 + 768 - 12 * 768, 2 * 768**2),
        ("ep32", None, 0),
        ("simpool", None, 0),
        ("block", None, 0),
    ],
)
def test_what_absorbing_saves_is_reported(spec, saved, per_step):
    counted = count(spec, 768, 1000, (14, 14))
    if saved is None:
        assert counted.absorbed is None
    else:
        assert counted.pooling - counted.absorbed == saved
        assert counted.flops_per_step == per_step
