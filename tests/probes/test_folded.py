"""Probes with folded keys against the modules they were published with, and their traps."""

from functools import partial

import pytest
import torch
from timm.layers import AttentionPool2d, AttentionPoolLatent
from timm.models.cait import LayerScaleBlockClassAttn
from torch import nn
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.optimisers import LARS
from iceprobe.probes import PROBES, build, build_pooling, parse_probe, probe_label
from iceprobe.probes.attend import attend, attention_weights, image_scores, image_sums
from iceprobe.probes.layer_norm import token_rstd
from iceprobe.tokens import Tokens

D, N, GRID = 24, 10, (2, 5)
SPECS = ["simpool3", "simpool?linear=false", "clip4", "siglip4", "vjepa4", "cait4", "cae4",
         "coca2", "capi4"]  # fmt: skip
NAMES = ("clip", "siglip", "vjepa", "cait", "cae", "coca", "capi")
each = pytest.mark.parametrize("spec", SPECS)
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pooling_of(spec):
    pooling = build_pooling(spec, D, GRID).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=0.5)
    return pooling


def tokens_of(batch=3, width=D):
    """Tokens of different mean and scale, as a LayerNorm would meet them."""
    scale, mean = torch.rand(batch, N, 1).double() * 3 + 0.1, torch.randn(batch, N, 1).double() * 2
    return torch.randn(batch, N, width).double() * scale + mean


def copy_weights(theirs, ours, names):
    """Load ``ours`` into ``theirs``, whose modules are called by ``names`` where they differ."""
    state = {}
    for name, tensor in ours.state_dict().items():
        head = max((n for n in names if f"{name}.".startswith(f"{n}.")), key=len, default=None)
        name = name if head is None else names[head] + name[len(head) :]
        state[name] = tensor.view_as(theirs.state_dict()[name])
    theirs.load_state_dict(state)


def multihead(heads, width, query, key, value, biases=None, out=None):
    """torch's attention with given projections; identity and zero where there is none."""
    attention = nn.MultiheadAttention(
        width, heads, kdim=key.shape[1], vdim=value.shape[1], batch_first=True
    ).double()
    identity = torch.eye(width).double()
    if key.shape[1] == value.shape[1] == width:
        state = {"in_proj_weight": torch.cat([identity if query is None else query, key, value])}
    else:
        state = {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value}
    state["in_proj_bias"] = torch.zeros(3 * width).double() if biases is None else biases
    state["out_proj.weight"] = identity if out is None else out.weight
    state["out_proj.bias"] = torch.zeros(width).double() if out is None else out.bias
    attention.load_state_dict(state)
    return partial(attention, average_attn_weights=False)


def test_siglip_is_the_latent_pool_of_timm():
    ours, theirs = pooling_of("siglip4"), AttentionPoolLatent(D, num_heads=4).double()
    copy_weights(theirs, ours, {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"})
    tokens = tokens_of()
    close(ours(tokens), theirs(tokens))


def test_clip_is_the_attention_pool_of_timm_behind_a_layer_norm():
    ours, theirs = pooling_of("clip4"), AttentionPool2d(D, GRID, num_heads=4).double()
    tokens, norm = tokens_of(), ours.norm
    del ours.norm
    copy_weights(theirs, ours, {"position": "pos_embed"})
    ours.norm = norm
    close(ours(tokens), theirs(norm(tokens).mT.unflatten(2, GRID)))


def test_clip_is_torch_multihead_attention():
    pooling, tokens = pooling_of("clip4"), tokens_of()
    z = pooling.norm(tokens)
    z = torch.cat([z.mean(1, keepdim=True), z], 1) + pooling.position
    attention = multihead(4, D, *pooling.qkv.weight.split(D), pooling.qkv.bias, pooling.proj)
    expected, weights = attention(z, z, z)
    close(pooling(tokens), expected[:, 0])
    close(pooling.attention(tokens), weights[:, :, 0, 1:])
    close(pooling.prefix_attention(tokens), weights[:, :, 0, :1])


def test_cait_is_the_class_attention_block_of_timm():
    ours, tokens = pooling_of("cait4"), tokens_of()
    norm = partial(nn.LayerNorm, eps=1e-6)
    theirs = LayerScaleBlockClassAttn(D, 4, qkv_bias=True, norm_layer=norm).double()
    cls, last = ours.cls, ours.norm
    attn = {name: f"attn.{name}" for name in ("q", "k", "v", "proj")}
    gamma = {"gamma1": "gamma_1", "gamma2": "gamma_2"}
    del ours.cls, ours.norm
    copy_weights(theirs, ours, {**attn, **gamma, "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"})
    ours.cls, ours.norm = cls, last
    expected = theirs(tokens, cls.expand(3, 1, -1))[:, 0]
    close(ours(tokens), F.layer_norm(expected, (D,), last.weight, last.bias, 1e-5))


def test_cae_is_the_attentional_pooler_of_open_clip():
    """Which has one norm for keys and values, and biases."""
    transformer = pytest.importorskip("open_clip.transformer")
    ours, tokens = pooling_of("cae4"), tokens_of()
    theirs = transformer.AttentionalPooler(D, D, n_head=4, n_queries=1).double()
    ours.norm_v.load_state_dict(ours.norm_k.state_dict())
    state = {
        "query": ours.query,
        "attn.in_proj_weight": torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]),
        "attn.in_proj_bias": torch.zeros(3 * D),
    }
    for theirs_name, module in {"attn.out_proj": ours.proj, "ln_q": ours.norm_q,
                                "ln_k": ours.norm_k}.items():  # fmt: skip
        state |= {f"{theirs_name}.{n}": t for n, t in module.state_dict().items()}
    theirs.load_state_dict(state)
    close(ours(tokens), theirs(tokens)[:, 0])


def test_cae_is_torch_multihead_attention():
    pooling, tokens = pooling_of("cae4"), tokens_of()
    maps = (pooling.q.weight, pooling.k.weight, pooling.v.weight)
    query = pooling.norm_q(pooling.query).expand(3, 1, -1)
    attention = multihead(4, D, *maps, out=pooling.proj)
    expected, weights = attention(query, pooling.norm_k(tokens), pooling.norm_v(tokens))
    close(pooling(tokens), expected[:, 0])
    close(pooling.attention(tokens), weights[:, :, 0])


def test_vjepa_is_torch_multihead_attention_and_an_mlp():
    pooling, tokens = pooling_of("vjepa4"), tokens_of()
    biases = torch.cat([pooling.q.bias, pooling.kv.bias])
    attention = multihead(4, D, pooling.q.weight, *pooling.kv.weight.split(D), biases, pooling.proj)
    keys = F.layer_norm(tokens, (D,), pooling.norm1.weight, pooling.norm1.bias, 1e-5)
    y, weights = attention(pooling.query.expand(3, 1, -1), keys, keys)
    z = pooling.query + y[:, 0]
    normed = F.layer_norm(z, (D,), pooling.norm2.weight, pooling.norm2.bias, 1e-5)
    close(pooling(tokens), z + pooling.mlp[2](F.gelu(pooling.mlp[0](normed))))
    close(pooling.attention(tokens), weights[:, :, 0])


def test_coca_is_torch_multihead_attention_with_one_key_head_repeated():
    pooling, tokens = pooling_of("coca2"), tokens_of()
    key, value = (w.repeat(2, 1) for w in pooling.kv.weight.split(64))
    attention = multihead(2, 128, torch.eye(128).double(), key, value)
    query = pooling.q(F.layer_norm(pooling.query, (D,), pooling.norm.weight, None, 1e-5))
    y, weights = attention(query.expand(3, 1, -1), tokens, tokens)
    close(pooling(tokens), pooling.proj(y[:, 0]))
    close(pooling.attention(tokens), weights[:, :, 0])


def test_cocas_published_queries_are_read_at_the_first_and_lengthen_its_lars_step():
    """The published code keeps 196 queries, of which only the first has a gradient."""
    torch.manual_seed(0)
    pooling, tokens = build_pooling("coca2?queries=196", D), tokens_of().float()
    one = build_pooling("coca2", D)
    state = pooling.state_dict()
    one.load_state_dict({**state, "query": state["query"][:1]})
    torch.testing.assert_close(pooling(tokens), one(tokens))
    before = pooling.query.detach().clone()
    pooling(tokens).square().sum().backward()
    gradient = pooling.query.grad.clone()
    assert gradient[0].abs().max() > 0
    assert gradient[1:].eq(0).all()
    LARS(pooling.parameters(), lr=1.0).step()
    ratio = 1e-3 * before.norm() / gradient.norm()  # the norm of all 196, one of which moves
    assert ratio > 10 * 1e-3 * before[0].norm() / gradient.norm()
    torch.testing.assert_close(pooling.query.detach(), before - ratio * gradient)


def test_vjepas_own_classifier_never_applies_its_projection():
    """facebookresearch/jepa's CrossAttentionBlock: z = q + attention, then the MLP."""
    pooling, tokens = pooling_of("vjepa4?proj=false"), tokens_of()
    keys = F.layer_norm(tokens, (D,), pooling.norm1.weight, pooling.norm1.bias, 1e-5)
    k, v = F.linear(keys, pooling.kv.weight, pooling.kv.bias).unflatten(-1, (2, 4, -1)).unbind(2)
    q = pooling.q(pooling.query).unflatten(-1, (4, -1)).expand(3, 1, 4, -1)
    y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    z = pooling.query + y.transpose(1, 2).flatten(1)
    normed = F.layer_norm(z, (D,), pooling.norm2.weight, pooling.norm2.bias, 1e-5)
    close(pooling(tokens), z + pooling.mlp[2](F.gelu(pooling.mlp[0](normed))))


def test_capi_is_torch_multihead_attention():
    pooling, tokens = pooling_of("capi4"), tokens_of()
    biases = torch.cat([torch.zeros(D).double(), pooling.kv.bias])
    attention = multihead(4, D, None, *pooling.kv.weight.split(D), biases)
    expected, weights = attention(pooling.query.expand(3, 1, -1), tokens, tokens)
    close(pooling(tokens), expected[:, 0])
    close(pooling.attention(tokens), weights[:, :, 0])


def test_simpool_is_torch_multihead_attention():
    pooling, tokens = pooling_of("simpool3"), tokens_of()
    attention = multihead(3, D, pooling.q.weight, pooling.k.weight, torch.eye(D).double())
    keys = pooling.norm(tokens)
    expected, weights = attention(tokens.mean(1, keepdim=True), keys, keys)
    close(pooling(tokens), expected[:, 0])
    close(pooling.attention(tokens), weights[:, :, 0])


def test_simpool_without_linear_maps_is_torch_multihead_attention_with_identities():
    pooling, tokens = pooling_of("simpool?linear=false"), tokens_of()
    attention = multihead(12, D, *[torch.eye(D).double()] * 3)
    query = pooling.norm(tokens.mean(1, keepdim=True))
    expected, weights = attention(query, pooling.norm(tokens), tokens)
    close(pooling(tokens), expected[:, 0])
    close(pooling.attention(tokens), weights[:, :, 0])


@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
def test_attend_behind_a_layer_norm(epsilon):
    """Values, and gradients by finite differences, of both paths and of the pieces."""
    tokens = tokens_of(2, 6)
    queries = torch.randn(3, 6).double().requires_grad_()

    def centred(x):
        return x - x.mean(-1, keepdim=True)

    def folded(x, u):
        return centred(attend(x, centred(u), token_rstd(x, epsilon)))

    def pieces(x, u):
        rstd = token_rstd(x, epsilon)
        weights = torch.softmax(image_scores(x, centred(u), rstd), -1)
        return centred(image_sums(x, weights, rstd))

    normed = F.layer_norm(tokens, (6,), eps=epsilon)
    weights = torch.softmax(torch.einsum("qd,bnd->bqn", queries, normed), -1)
    for pooled in (folded, pieces):
        close(pooled(tokens, queries), weights @ normed)
        assert torch.autograd.gradcheck(partial(pooled, tokens), queries)
        live = tokens.clone().requires_grad_()
        assert torch.autograd.gradcheck(pooled, (live, queries))
    rstd = token_rstd(tokens, epsilon)
    close(attention_weights(tokens, centred(queries), rstd), weights)
    each_image = queries.detach().expand(2, -1, -1) * torch.tensor([1.0, 2.0])[:, None, None]
    scores = image_scores(tokens, centred(each_image), rstd)
    close(scores, torch.einsum("bqd,bnd->bqn", each_image, normed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scale_of_narrow_tokens(dtype):
    tokens = tokens_of(40).to(dtype)
    expected = (tokens.double().var(-1, correction=0) + 1e-5).rsqrt()
    got = token_rstd(tokens, 1e-5)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_mean_shared_by_all_tokens_costs_no_precision_behind_a_layer_norm(narrow):
    """Channels around 5, each its own, under scores around 10 with differences around 1."""
    tokens = (torch.randn(4, 50, 64) + 2 * torch.randn(64) + 5).to(narrow)
    queries = (torch.randn(6, 64) * 0.3).to(narrow).float()
    normed = F.layer_norm(tokens.double(), (64,), eps=1e-6)
    weights = torch.softmax(normed @ queries.double().mT, 1)
    expected = weights.mT @ normed
    spread = (expected - normed.mean(1, keepdim=True)).abs().max()
    centred = queries - queries.mean(-1, keepdim=True)
    for u in (centred, centred.expand(4, -1, -1)):
        rstd = token_rstd(tokens, 1e-6)
        own = torch.softmax(image_scores(tokens, u, rstd), -1)
        pooled = image_sums(tokens, own, rstd) if u.ndim == 3 else attend(tokens, u, rstd)
        pooled = pooled - pooled.mean(-1, keepdim=True)
        assert (pooled.double() - expected).abs().max() < 0.05 * spread


@each
def test_members_share_the_tokens_in_the_backward_pass(spec):
    """Nothing of the size of the tokens is kept beside them, however many members there are."""
    tokens = torch.randn(3, 300, D)
    pooling, kept = build_pooling(spec, D, (15, 20)), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        pooling(tokens).sum()
    for parameter in (tokens, *pooling.parameters()):
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    assert max(kept.values()) <= max(3 * 301 * pooling.num_predictors, 3 * 4 * D) * 4


@each
def test_class_tokens_among_the_tokens_are_keys_like_others(spec):
    if spec.startswith("clip"):
        return
    probe = build(spec, D, 5, input="class+patches", has_class=True).double().eval()
    tokens = Tokens(tokens_of(), tokens_of()[:, :2], has_class=True)
    read = probe.select(tokens)
    assert read.shape == (3, 1 + N, D)
    weights, prefix = probe.pooling.attention(read), probe.pooling.prefix_attention(read)
    assert weights.shape[-1] == 1 + N
    close(weights.sum(-1) + prefix.sum(-1), torch.ones(3, probe.pooling.num_predictors).double())
    assert probe.flops(N, 2) == 2 * (probe.pooling.macs(N + 1) + 5 * D)


@each
def test_nothing_is_bound_to_a_device(spec):
    pooling = build_pooling(spec, D, GRID)
    widened = pooling.double()
    assert {t.dtype for t in widened.state_dict().values()} == {torch.float64}
    tokens = torch.empty(3, N, D, device="meta")
    pooling = build_pooling(spec, D, GRID).to("meta")
    for tensor in (pooling(tokens), pooling.attention(tokens), pooling.prefix_attention(tokens)):
        assert tensor.device.type == "meta"


@pytest.mark.parametrize("name", ["simpool", "clip", "siglip", "vjepa", "cait", "cae", "capi"])
def test_heads_that_do_not_divide(name):
    with pytest.raises(IceprobeError, match=rf"^{name}5: .* nearest that does is {name}6$"):
        build(f"{name}5", D, 5, GRID)


def test_capi_has_heads_of_64_unless_said():
    assert build_pooling("capi", 128).num_predictors == 2
    with pytest.raises(IceprobeError, match=r"dim=96 is no multiple .* such as capi4"):
        build_pooling("capi", 96)
    assert build("capi?batch_norm=false", 128, 5).norm.__class__ is nn.Identity


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("simpool", "simpool1"),
        ("simpool?linear=true", "simpool1"),
        ("simpool?linear=FALSE", "simpool12?linear=false"),
        ("simpool4?linear=false", "simpool4?linear=false"),
        ("clip", "clip4"),
        ("siglip", "siglip8"),
        ("vjepa", "vjepa16"),
        ("cait", "cait4"),
        ("cae", "cae8"),
        ("coca", "coca8"),
        ("capi", "capi"),
        ("capi?heads=12", "capi12"),
    ],
)
def test_labels(text, label):
    assert probe_label(text) == label
    assert parse_probe(label) == parse_probe(text)
    assert probe_label(label) == label


def test_the_default_number_follows_options_from_python():
    assert build_pooling("simpool", D, linear=False).num_predictors == 12
    assert build_pooling("simpool", D).num_predictors == 1


def test_clip_needs_its_grid_and_reads_patches_only():
    assert PROBES["clip"].needs_grid
    with pytest.raises(IceprobeError, match=r"^probe 'clip4' needs the grid .* grid=\(rows"):
        build("clip", D, 5)
    with pytest.raises(IceprobeError, match="write patches"):
        build("clip?input=class+patches", D, 5, GRID, has_class=True)
    with pytest.raises(IceprobeError, match="grid of 2x5 and got 9 tokens"):
        build("clip", D, 5, GRID)(torch.randn(2, 9, D))


def test_initial_values():
    """Of the definitions, measured where they are random."""
    poolings = {name: build_pooling(name, 384, GRID) for name in PROBES if name in NAMES}
    for name, parameter, spread in [
        ("clip", "position", 384**-0.5),
        ("clip", "qkv.weight", 384**-0.5),
        ("clip", "proj.weight", (3 * 384) ** -0.5),
        # Of a normal cut at ±2: √(1 − 4 φ(2) / (2 Φ(2) − 1)).
        ("siglip", "latent", 0.8796 * 384**-0.5),
        ("siglip", "q.weight", (3 * 384) ** -0.5),
        ("vjepa", "query", 0.02),
        ("vjepa", "kv.weight", 0.02),
        ("vjepa", "mlp.0.weight", 0.02),
        ("vjepa", "mlp.2.weight", 0.02 / 2**0.5),
        ("vjepa", "proj.weight", 0.02 / 2**0.5),
        ("cait", "cls", 0.02),
        ("cait", "mlp.2.weight", 0.02),
        ("coca", "query", 1),
        ("coca", "kv.weight", (3 * 384) ** -0.5),
        ("capi", "query", 0.02),
        ("capi", "kv.weight", 0.02),
    ]:
        found = poolings[name].get_parameter(parameter)
        few = 0.15 if found.numel() < 1000 else 0.05
        assert found.std().item() == pytest.approx(spread, rel=few), (name, parameter)
        assert abs(found.mean().item()) < few * spread, (name, parameter)
    for name, parameter, value in [
        ("cae", "query", 0),
        ("clip", "qkv.bias", 0),
        ("cait", "gamma1", 1e-5),
        ("cait", "gamma2", 1e-5),
        ("cait", "proj.bias", 0),
        ("vjepa", "kv.bias", 0),
        ("capi", "kv.bias", 0),
    ]:
        assert (poolings[name].get_parameter(parameter) == value).all(), (name, parameter)
    assert poolings["siglip"].latent.abs().max() <= 2 * 384**-0.5
    uniform = poolings["cae"].attention(torch.randn(2, N, 384))
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / N))
