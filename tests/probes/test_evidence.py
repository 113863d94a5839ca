"""Evidence of tokens: an exact sum, the equation of EP, and input times gradient with the attention held."""

import pytest
import torch
from torch import nn

from iceprobe import probes
from iceprobe.analysis import has_evidence, patch_evidence
from iceprobe.core.errors import IceprobeError
from iceprobe.probes import ComposedPooling, Probe, Queries
from iceprobe.probes.pooling import AttentivePooling
from iceprobe.tokens import JoinedShape, JoinedTokens, Tokens
from tests.probes.cases import CASES, GRID, N

DIM, CLASSES = 24, 5
ENTANGLED = {
    "siglip",
    "vjepa3",
    "vjepa3?proj=false",
    "cait",
    "block4",
    "slot4",
    "slot1?iterations=1",
}
ADDITIVE = [case.spec for case in CASES if case.spec not in ENTANGLED]
MORE = [
    "ep4?batch_norm=false", "ep4?input=class+patches", "ep4?input=prefix+patches",
    "linear?input=class", "clip3", "mhca4",
]  # fmt: skip


def fresh(probe: Probe) -> Probe:
    """In float64 with weights and batch statistics far from their start."""
    torch.manual_seed(0)
    for name, tensor in [*probe.named_parameters(), *probe.named_buffers()]:
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.data.normal_(std=0.7)
    return probe.double().eval()


def made(spec: str) -> Probe:
    return fresh(probes.build(spec, DIM, CLASSES, GRID, has_class=True))


# Poolings whose forward pass is the equation of the framework.
EQUATION = [
    spec
    for spec in ADDITIVE
    if isinstance(made(spec).pooling, AttentivePooling) and "self_attention" not in spec
]


@pytest.fixture
def tokens() -> Tokens:
    generator = torch.Generator().manual_seed(1)
    patches = 3 + torch.randn(4, N, DIM, generator=generator, dtype=torch.float64)
    prefix = torch.randn(4, 2, DIM, generator=generator, dtype=torch.float64)
    return Tokens(patches, prefix, GRID, has_class=True)


@pytest.mark.parametrize("spec", [*ADDITIVE, *MORE])
def test_evidence_and_bias_are_the_logits(spec, tokens):
    probe = made(spec)
    with torch.no_grad():
        logits = probe(tokens)
    found = probe.evidence(tokens)
    read = N if probe.input == "mean" else probe.select(tokens).shape[1]
    assert found.shape == (4, CLASSES, read)
    torch.testing.assert_close(found.sum(-1) + probe.classifier.bias, logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(probe.evidence(tokens, [3, 1]), found[:, [3, 1]])
    each = torch.tensor([[0, 4], [1, 1], [4, 2], [3, 0]])
    expected = torch.stack([one[own] for one, own in zip(found, each, strict=True)])
    torch.testing.assert_close(probe.evidence(tokens, each), expected)


@pytest.mark.parametrize(
    "spec",
    [
        "ep4?layers=0,1",
        "ep4?input=class+patches&layers=1,0",
        "ep4?join=width&layers=0,1",
        "linear?input=mean&layers=0",
        "linear?input=mean&layers=0,1",
    ],
)
def test_a_place_has_the_evidence_of_all_layers(spec, tokens):
    other = Tokens(tokens.patches.flip(1) - 1, tokens.prefix.flip(0), GRID, has_class=True)
    both = JoinedTokens.of({0: other, 1: tokens})
    shape = JoinedShape.of({0: other.shape, 1: tokens.shape}, 2)
    probe = fresh(probes.build_for(shape, spec, CLASSES))
    with torch.no_grad():
        logits = probe(both)
    found = probe.evidence(both)
    torch.testing.assert_close(found.sum(-1) + probe.classifier.bias, logits, atol=1e-9, rtol=0)
    if spec == "linear?input=mean&layers=0,1":  # of concatenated vectors
        assert not has_evidence(probe)
        return
    assert has_evidence(probe)
    asked = torch.arange(CLASSES).expand(4, -1)
    maps = patch_evidence(probe, both, asked)
    assert maps.shape == (4, CLASSES, N)
    if "class" not in spec:
        total = maps.sum(-1) + probe.classifier.bias.float()
        torch.testing.assert_close(total, logits.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalise", ["tokens", "predictors", "sigmoid", "none"])
@pytest.mark.parametrize("value", ["linear", "identity", "mean"])
def test_composed_poolings_of_named_pieces_have_evidence(normalise, value, tokens):
    pooling = ComposedPooling(Queries(DIM, 4), DIM, 4, normalise=normalise, value=value)
    probe = fresh(Probe(pooling, CLASSES))
    with torch.no_grad():
        logits = probe(tokens)
    found = probe.evidence(tokens).sum(-1) + probe.classifier.bias
    torch.testing.assert_close(found, logits, atol=1e-9, rtol=1e-12)
    mlp = nn.Sequential(nn.Linear(DIM, DIM), nn.GELU())
    with pytest.raises(IceprobeError, match="nothing says that its descriptor is a sum"):
        Probe(ComposedPooling(Queries(DIM, 4), DIM, 4, block=mlp), CLASSES).evidence(tokens)


def test_ep_by_its_equation(tokens):
    probe = made("ep4")
    x, u, w = tokens.patches, probe.pooling.query.data, probe.pooling.value.weight.data
    mean, deviation = probe.norm.running_mean, (probe.norm.running_var + 1e-6).sqrt()
    found = probe.evidence(tokens)
    expected = torch.zeros_like(found)
    for j in range(4):
        own = slice(6 * j, 6 * j + 6)
        a = (x @ u[j] / DIM**0.5).softmax(1)
        for k in range(CLASSES):
            w_kj = probe.classifier.weight.data[k, own] / deviation[own]
            expected[:, k] += a * ((x @ w[own].T - mean[own]) @ w_kj)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("spec", EQUATION)
def test_it_is_input_times_gradient_with_the_attention_held_and_constants_spread_by_it(
    spec, tokens
):
    probe = made(spec)
    pooling = probe.pooling
    x = pooling.prepare(tokens.patches).detach().requires_grad_()
    weights = pooling.normalise(pooling.scores(x)).detach()
    logits = probe.classifier(probe.norm(pooling.values(weights @ x)))
    nothing = probe.classifier(probe.norm(pooling.values(0 * (weights @ x))))
    found = probe.evidence(tokens)
    for k in range(CLASSES):
        (gradient,) = torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
        constant = found[:, k] - (gradient * x).sum(-1)
        # Constants are o_kj a_jn, summed over predictors: maps in the span of the attention.
        solved = torch.linalg.lstsq(weights.mT, constant[..., None]).solution
        torch.testing.assert_close((weights.mT @ solved)[..., 0], constant, atol=1e-8, rtol=0)
        expected = (nothing[:, k] - probe.classifier.bias[k]).detach()
        torch.testing.assert_close(constant.sum(-1), expected, atol=1e-9, rtol=0)


def test_a_token_without_attention_says_nothing(tokens):
    probe = made("ep1")
    u = probe.pooling.query.data
    with torch.no_grad():
        tokens.patches[:, 0] -= 400 * u[0] / u[0].norm()
    assert probe.evidence(tokens)[..., 0].abs().max() < 1e-12


@pytest.mark.parametrize("spec", sorted(ENTANGLED))
def test_other_poolings_say_why_they_have_none(spec, tokens):
    with pytest.raises(IceprobeError, match=r"has no evidence of single tokens: .*; take ep, aim"):
        made(spec).evidence(tokens)
