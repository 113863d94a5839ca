"""Spatial and iterated probes against torch's and timm's own modules, in training and evaluation."""

import copy

import pytest
import torch
from timm.layers.cbam import CbamModule
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import absorb, build, build_pooling
from iceprobe.probes import slot as slot_module
from tests.reference import zoo

D, GRID = 32, (3, 4)
N = GRID[0] * GRID[1]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pooling_of(spec):
    pooling = build_pooling(spec, D, GRID).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=0.5)
    return pooling


def tokens_of(batch=3):
    """Channels of different mean and scale."""
    scale, mean = torch.rand(D).double() * 3 + 0.1, torch.randn(D).double()
    return torch.randn(batch, N, D).double() * scale + mean


def same(one, other, leaves):
    """Outputs and the gradients of both for ``leaves``."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    direction = torch.randn_like(one)
    for a, b in zip(
        torch.autograd.grad((one * direction).sum(), leaves, retain_graph=True),
        torch.autograd.grad((other * direction).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("heads", [8, 4])
def test_block_is_the_block_of_timm_and_of_torch(heads):
    pooling, tokens = pooling_of(f"block{heads}"), tokens_of().requires_grad_()
    mine = pooling.state_dict()

    timm = TimmBlock(D, heads, qkv_bias=False, norm_layer=lambda d, **_: nn.LayerNorm(d, eps=1e-5))
    names = {"qkv": "attn.qkv", "proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    timm.double().load_state_dict({renamed(name, names): t for name, t in mine.items()})
    same(pooling(tokens), timm(tokens).mean(1), [tokens])

    layer = nn.TransformerEncoderLayer(
        D, heads, 4 * D, dropout=0, activation="gelu", layer_norm_eps=1e-5, batch_first=True,
        norm_first=True, dtype=torch.float64,
    )  # fmt: skip
    names = {"proj": "self_attn.out_proj", "mlp.0": "linear1", "mlp.2": "linear2"}
    theirs = {renamed(name, names): tensor for name, tensor in mine.items()}
    theirs["self_attn.in_proj_weight"] = theirs.pop("qkv.weight")
    theirs["self_attn.in_proj_bias"] = torch.zeros(3 * D).double()
    layer.load_state_dict(theirs)
    same(pooling(tokens), layer(tokens).mean(1), [tokens])


@pytest.mark.parametrize("training", [True, False])
def test_cbam_is_the_module_of_timm_inside_a_residual(training):
    pooling, tokens = pooling_of("cbam"), tokens_of().requires_grad_()
    timm = CbamModule(D).double()
    names = {"mlp.0": "channel.fc1", "mlp.2": "channel.fc2", "conv": "spatial.conv.conv",
             "norm": "spatial.conv.bn"}  # fmt: skip
    theirs = {renamed(name, names): tensor for name, tensor in pooling.state_dict().items()}
    for name in ("channel.fc1.weight", "channel.fc2.weight"):
        theirs[name] = theirs[name][..., None, None]
    timm.load_state_dict(theirs)
    for _ in range(2):
        maps = tokens.mT.unflatten(-1, GRID)
        same(pooling(tokens), F.relu(maps + timm(maps)).mean((2, 3)), [tokens])
        pooling.train(training)
        timm.train(training)
    running = timm.spatial.conv.bn.running_var
    torch.testing.assert_close(pooling.norm.running_var, running, rtol=0, atol=1e-12)
    assert (running - 1).abs() > 1e-3


@pytest.mark.parametrize(
    ("spec", "plain"),
    [("delf", zoo.delf), ("cbam", lambda x, p, running: zoo.cbam(x, p, GRID, running))],
)
def test_batch_norm_inside_a_pooling_in_both_modes(spec, plain):
    pooling = pooling_of(spec)
    parameters = dict(pooling.named_parameters())
    for training in (True, True, False):
        tokens = tokens_of().requires_grad_()
        pooling.train(training)
        norm = pooling.norm
        running = None if training else (norm.running_mean.clone(), norm.running_var.clone())
        expected, weights = plain(tokens, parameters, running)
        before = copy.deepcopy(pooling.state_dict())
        found = pooling.attention(tokens)
        for name, tensor in pooling.state_dict().items():
            assert torch.equal(tensor, before[name]), name  # a look leaves statistics alone
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-10)
        same(pooling(tokens), expected, [tokens, *parameters.values()])
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))


def test_delf_is_the_published_chain_of_convolutions():
    pooling, tokens = pooling_of("delf").eval(), tokens_of()
    maps = tokens.mT.unflatten(-1, GRID)
    z = F.conv2d(maps, pooling.conv.weight[..., None, None], pooling.conv.bias)
    norm = nn.BatchNorm2d(D).double().eval()
    norm.load_state_dict(pooling.norm.state_dict())
    z = norm(z)
    scores = F.softplus(
        F.conv2d(F.relu(z), pooling.scorer.weight[..., None, None], pooling.scorer.bias)
    )
    expected = (scores * F.normalize(z, dim=1)).mean((2, 3))
    torch.testing.assert_close(pooling(tokens), expected, rtol=0, atol=1e-12)


def test_delf_starts_as_dolgs_convolutions_do():
    """Of normals with √(2/fan_out), and biases as torch draws them."""
    pooling = build_pooling("delf", 768, (14, 14))
    assert pooling.conv.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.01)
    assert pooling.scorer.weight.std().item() == pytest.approx(2**0.5, rel=0.1)
    assert pooling.conv.bias.abs().max() <= 768**-0.5


def test_gated_attention_is_that_of_its_authors():
    """Ilse et al., equation 9, by torch's layers: tanh and sigmoid branches, one score, a softmax."""
    pooling, tokens = pooling_of("abmilp?gated=true&hidden=16"), tokens_of().requires_grad_()
    tanh, gate = (
        nn.Sequential(nn.Linear(D, 16), nn.Tanh()),
        nn.Sequential(nn.Linear(D, 16), nn.Sigmoid()),
    )
    score = nn.Linear(16, 1)
    for theirs, ours in ((tanh[0], "hidden"), (gate[0], "gate"), (score, "scorer")):
        theirs.double().load_state_dict(pooling.get_submodule(ours).state_dict())
    weights = score(tanh(tokens) * gate(tokens)).transpose(1, 2).softmax(-1)
    torch.testing.assert_close(pooling.attention(tokens), weights, rtol=0, atol=1e-12)
    same(pooling(tokens), torch.bmm(weights, tokens)[:, 0], [tokens])
    plain = pooling_of("abmilp?hidden=16")
    assert (plain.attention(tokens) - weights).abs().max() > 0.01


@pytest.mark.parametrize("option", ["gated=true", "hidden=16"])
def test_a_single_map_has_no_hidden_layer(option):
    with pytest.raises(IceprobeError, match=f"without the hidden layer of {option}: leave one"):
        build_pooling(f"abmilp?depth=1&{option}", D)


def test_dsmil_can_learn_the_published_output():
    """One critical instance a class: ½(highest score + bag score), the bag's by the authors' convolution."""
    classes = 3
    probe = build("dsmil3?batch_norm=false&attn_dim=8", D, classes).double()
    pooling, tokens = probe.pooling, tokens_of().requires_grad_()
    fcc = nn.Conv1d(classes, classes, kernel_size=D).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=0.3)
        half = torch.cat([fcc.weight.flatten(1), torch.eye(classes)], 1) / 2
        probe.classifier.weight.copy_(half)
        probe.classifier.bias.copy_(fcc.bias / 2)
    outputs = []
    for feats in tokens:
        scores = pooling.instance(feats)  # (N, C)
        _, order = torch.sort(scores, 0, descending=True)
        q, q_max = pooling.q(feats), pooling.q(feats[order[0]])
        attention = F.softmax(q @ q_max.T / q.shape[1] ** 0.5, 0)
        bag = fcc((attention.T @ feats)[None]).view(-1)
        outputs.append((scores.max(0).values + bag) / 2)
    same(probe(tokens), torch.stack(outputs), [tokens, *pooling.parameters()])


@pytest.mark.parametrize("iterations", [1, 3])
def test_slot_attention_goes_through_torch_gru_and_softmax(iterations):
    pooling, tokens = pooling_of(f"slot5?iterations={iterations}"), tokens_of().requires_grad_()
    norm = [F.layer_norm(tokens, (D,), pooling.token_norm.weight, pooling.token_norm.bias, 1e-6)]
    keys, values = norm[0] @ pooling.key.weight.T, norm[0] @ pooling.value.weight.T
    images = []
    for k, v in zip(keys, values, strict=True):  # image by image, slots as a batch of the GRU
        slots = pooling.slots
        for _ in range(iterations):
            normed = F.layer_norm(
                slots, (D,), pooling.slot_norm.weight, pooling.slot_norm.bias, 1e-6
            )
            weights = F.softmax(k @ (normed @ pooling.query.weight.T).T / D**0.5, dim=1) + 1e-8
            weights = weights / weights.sum(0)
            slots = pooling.gru(weights.T @ v, slots)
            slots = slots + pooling.mlp(slots)
        images.append(slots.mean(0))
    leaves = [tokens, pooling.slots, pooling.query.weight, pooling.gru.weight_hh]
    same(pooling(tokens), torch.stack(images), leaves)


def test_slot_attention_becomes_efficient_probing(monkeypatch):
    """One iteration, no norms, GRU and MLP, softmax over tokens, W_q = 1, slices concatenated."""
    slots, tokens = pooling_of("slot4?iterations=1"), tokens_of().requires_grad_()
    slots.token_norm = slots.slot_norm = nn.Identity()
    with torch.no_grad():
        slots.query.weight.copy_(torch.eye(D))
    monkeypatch.setattr(slot_module, "compete", lambda scores, mask: scores.softmax(-1))
    monkeypatch.setattr(slots, "update", lambda gathered, before: gathered)
    gathered, weights = slots._iterate(tokens)
    width = D // 4
    slices = [gathered[:, j, j * width : (j + 1) * width] for j in range(4)]

    ep = build_pooling("ep4", D).double()
    free = slots.slots @ slots.key.weight  # keys are linear in the tokens: absorbed into u_j
    with torch.no_grad():
        ep.query.copy_(free)
        ep.value.weight.copy_(slots.value.weight)
    torch.testing.assert_close(weights, ep.attention(tokens), rtol=0, atol=1e-12)
    same(torch.cat(slices, -1), ep(tokens), [tokens])
    assert (weights * N - 1).abs().max() > 0.5  # far from uniform, so a wrong scale would show


def test_slots_that_win_nothing_stay_finite():
    pooling, tokens = pooling_of("slot2"), tokens_of().requires_grad_()
    with torch.no_grad():
        pooling.query.weight.mul_(1e6)
    pooling(tokens).sum().backward()
    assert tokens.grad.isfinite().all()
    torch.testing.assert_close(pooling.attention(tokens).sum(-1), torch.ones(3, 2).double())


def test_maps_need_their_grid():
    with pytest.raises(
        IceprobeError, match="'cbam' needs the grid of the patches and there is none"
    ):
        build("cbam", D, 5)
    with pytest.raises(IceprobeError, match="grid of 3x4 and got 13 tokens"):
        build("cbam", D, 5, GRID)(torch.randn(2, N + 1, D))
    with pytest.raises(IceprobeError, match="write patches"):
        build("cbam?input=class+patches", D, 5, GRID, has_class=True)


def test_delf_reads_tokens_anywhere():
    """Its convolutions are 1×1: a grid, an order or a number of tokens is nothing that it knows."""
    pooling, tokens = pooling_of("delf").eval(), tokens_of()
    torch.testing.assert_close(pooling(tokens.flip(1)), pooling(tokens), rtol=0, atol=1e-12)
    assert build("delf?input=class+patches", D, 5, has_class=True)(
        torch.randn(2, N + 1, D)
    ).shape == (2, 5)


def test_cbam_gates_by_place():
    """Its convolution sees which patch is beside which: the rows of another grid are others."""
    wide, tall = pooling_of("cbam").eval(), build_pooling("cbam", D, (4, 3)).double().eval()
    tall.load_state_dict(wide.state_dict())
    tokens = tokens_of()
    assert (wide(tokens) - tall(tokens)).abs().max() > 1e-3


def test_cbam_of_a_narrow_backbone_keeps_a_hidden_unit():
    assert build_pooling("cbam", 8, GRID)(torch.randn(2, N, 8)).shape == (2, 8)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("block", "every token is a query and a key"),
        ("delf", "scores come from a ReLU"),
        ("cbam", "gates come from"),
        ("slot", "every image changes"),
        ("dsmil", "its queries are tokens"),
    ],
)
def test_absorbing_is_refused_with_the_reason(spec, reason):
    with pytest.raises(IceprobeError, match=f"can't be absorbed: .*{reason}"):
        absorb(build_pooling(spec, D, GRID))


def renamed(name, names):
    """``name`` with its module called as in ``names``."""
    module, _, leaf = name.rpartition(".")
    return f"{names.get(module, module)}.{leaf}"
