"""Terms of the loss that read the attention, against the plain formulas."""

import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import build, parse_probe, probe_label
from iceprobe.probes.framework import ComposedPooling, Queries
from iceprobe.probes.probe import Probe
from iceprobe.probes.regularisation import Regularisation, normalised_entropy
from iceprobe.tokens import Tokens
from tests.reference import probes as reference
from tests.reference.regularisation import penalty

B, N, P, D, C = 3, 10, 2, 24, 5
TERMS = [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2), (-0.3, -0.2)]
#: Raw tokens, batch-normalised, folded keys, through a LayerNorm, one shared key head.
LINEAR_SCORES = ["ep4", "ep4?query=sliced", "aim3", "mhca3", "siglip4", "vjepa4", "cae4", "coca2", "capi3"]  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def spread(probe: Probe, std: float = 0.7) -> Probe:
    """In float64, attention far from uniform."""
    with torch.no_grad():
        for parameter in probe.double().parameters():
            parameter.normal_(std=std)
    return probe


def written(probe: str, complementarity: float, entropy: float) -> str:
    mark = "&" if "?" in probe else "?"
    return f"{probe}{mark}complementarity={complementarity}&entropy={entropy}"


@pytest.mark.parametrize(("complementarity", "entropy"), TERMS)
def test_value_and_gradient_of_ep_are_those_of_the_plain_formula(complementarity, entropy):
    probe = spread(build(written("ep4", complementarity, entropy), D, C))
    tokens = torch.randn(B, N, D, dtype=torch.float64)
    query = probe.pooling.query
    _, weights = reference.ep(tokens, dict(probe.pooling.named_parameters()))
    expected = penalty(weights, complementarity, entropy)
    found = probe.penalty(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(found, query)
    (wanted,) = torch.autograd.grad(expected, query)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", LINEAR_SCORES)
def test_every_probe_with_linear_scores_is_penalised_by_the_attention_it_shows(name):
    probe = spread(build(written(name, 0.3, 0.2), D, C), std=0.3)
    tokens = torch.randn(B, N, D, dtype=torch.float64, requires_grad=True)
    expected = penalty(probe.pooling.attention(tokens), 0.3, 0.2)
    found = probe.penalty(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found, tokens)  # on to a backbone that is adapted
    (wanted,) = torch.autograd.grad(expected, tokens)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


def test_keys_that_are_no_patches_are_attended_to_as_well():
    probe = spread(build("ep4?input=prefix+patches&complementarity=1", D, C))
    tokens = Tokens(torch.randn(B, N, D).double(), torch.randn(B, P, D).double())
    keys = torch.cat([tokens.prefix, tokens.patches], 1)
    expected = penalty(probe.pooling.attention(keys), 1.0)
    torch.testing.assert_close(probe.penalty(tokens), expected, rtol=0, atol=1e-13)


def test_a_weight_that_rounds_to_zero_has_its_gradient():
    """By a itself it would be infinite times zero."""
    scores = torch.tensor([[0.0, 1.0, -300.0]], requires_grad=True)
    log_weights = scores.log_softmax(-1)
    assert log_weights.exp()[0, 2] == 0
    (gradient,) = torch.autograd.grad(
        normalised_entropy(log_weights, log_weights.exp()).sum(), scores
    )
    two = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    a = two.softmax(0)
    expected = -(a * a.log()).sum() / torch.tensor(3.0, dtype=torch.float64).log()
    (wanted,) = torch.autograd.grad(expected, two)
    torch.testing.assert_close(gradient[0, :2].double(), wanted, rtol=0, atol=1e-6)
    assert gradient[0, 2] == 0


def test_terms_at_their_ends():
    both = Regularisation(1.0, 1.0)
    uniform = torch.full((4, 8), 1 / 8).log()
    torch.testing.assert_close(
        both(uniform, uniform.exp()), torch.tensor(2.0)
    )  # all alike, all spread out
    apart = torch.eye(4, 8).log().clamp(min=-100)
    torch.testing.assert_close(both(apart, apart.exp()), torch.tensor(0.0))
    assert not Regularisation()
    assert Regularisation(entropy=-1)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("ep4?complementarity=0&entropy=0", "ep4"),
        ("ep4?complementarity=0.0&entropy=-0", "ep4"),
        ("ep32?entropy=0.01&complementarity=0.1", "ep32?complementarity=0.1&entropy=0.01"),
        ("ep?complementarity=1e-1", "ep32?complementarity=0.1"),
        ("aim12?complementarity=-0.5", "aim12?complementarity=-0.5"),
    ],
)
def test_labels_name_the_terms_and_zero_is_none(text, label):
    assert probe_label(text) == label
    assert parse_probe(text) == parse_probe(label)


def test_prediction_costs_what_it_costs_without():
    plain, regular = (build(s, D, C) for s in ("ep4", "ep4?complementarity=1&entropy=1"))
    assert regular.num_parameters() == plain.num_parameters()
    assert regular.flops(N) == plain.flops(N)
    regular.load_state_dict(plain.state_dict())
    tokens = torch.randn(B, N, D)
    assert torch.equal(regular.eval()(tokens), plain.eval()(tokens))
    assert plain.penalty(tokens) == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ep1?complementarity=0.1", "complementarity=0.1 compares .* has 1: take 2 or more"),
        ("ep4?complementarity=nan", "complementarity='nan'.*finite number"),
        ("ep4?entropy=inf", "finite number"),
        ("ep4?entropy=much", "entropy='much'"),
        ("slot4?entropy=0.1", "unknown option of 'slot' 'entropy'.*There are: batch_norm"),
        ("linear?complementarity=0.1", "unknown option of 'linear' 'complementarity'"),
    ],
)
def test_what_has_no_such_term_says_so(spec, words):
    with pytest.raises(IceprobeError, match=words):
        build(spec, D, C)


def test_one_predictor_has_an_entropy():
    probe = spread(build("ep1?entropy=0.5", D, C))
    tokens = torch.randn(B, N, D, dtype=torch.float64)
    expected = penalty(probe.pooling.attention(tokens), entropy=0.5)
    torch.testing.assert_close(probe.penalty(tokens), expected, rtol=0, atol=1e-13)


def test_other_poolings_and_single_tokens_are_refused():
    composed = ComposedPooling(Queries(D, 4), D, 4)
    with pytest.raises(IceprobeError, match="ComposedPooling has no scores that are linear"):
        Probe(composed, C, regularisation=Regularisation(entropy=0.1))
    with pytest.raises(IceprobeError, match="two tokens"):
        build("ep4?entropy=0.1", D, C).penalty(torch.randn(B, 1, D))
