"""Importance by replacement, and its correlation with where predictors look."""

import numpy as np
import pytest
import torch
from scipy import stats

from iceprobe import probes
from iceprobe.analysis import correlate, patch_maps, replaced_logits, spearman
from iceprobe.analysis.association import mean_intervals
from iceprobe.core.errors import IceprobeError
from iceprobe.tokens import Tokens
from tests.reference import analysis as reference

GRID, DIM, CLASSES = (3, 4), 24, 5


def fresh(spec, **options):
    """A probe in float64 with weights and batch statistics far from their start."""
    torch.manual_seed(0)
    probe = probes.build(spec, DIM, CLASSES, GRID, has_class=True, **options).double().eval()
    for name, tensor in [*probe.named_parameters(), *probe.named_buffers()]:
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.data.normal_(std=0.7)
    return probe


@pytest.fixture
def tokens():
    torch.manual_seed(1)
    patches, prefix = torch.randn(7, 12, DIM), torch.randn(7, 2, DIM)
    return Tokens(patches.double(), prefix.double(), GRID, has_class=True)


@pytest.mark.parametrize(
    ("spec", "prefix"),
    [
        ("ep4", 0),
        ("ep4?value=identity", 0),
        ("ep4?input=class+patches", 1),
        ("ep4?input=prefix+patches", 2),
        ("mhca4", 0),
        ("aim4", 0),
        ("siglip4", 0),
        ("vjepa4", 0),
        ("abmilp", 0),
    ],
)
def test_one_pass_is_the_m_pass_loop(spec, prefix, tokens, monkeypatch):
    probe = fresh(spec)
    before, after = replaced_logits(probe, tokens)
    with torch.no_grad():
        torch.testing.assert_close(before, probe(tokens))
    own = type(probe.pooling)
    normalise = own.normalise
    uniform = torch.cat([torch.zeros(prefix), torch.ones(12)]).double() / 12
    for j in range(probe.pooling.num_predictors):

        def with_uniform(self, scores, j=j):
            weights = normalise(self, scores).clone()
            weights[:, j] = uniform
            return weights

        monkeypatch.setattr(own, "normalise", with_uniform)
        pooling, x = probe.pooling, probe.select(tokens)
        with torch.no_grad():
            x = pooling.prepare(x)
            descriptor = pooling.values(pooling.normalise(pooling.scores(x)) @ x)
            expected = probe.classifier(probe.norm(descriptor))
        torch.testing.assert_close(after[j], expected)
        assert not torch.allclose(after[j], before)


def test_a_replaced_predictor_of_ep_by_the_equation(tokens):
    probe = fresh("ep4")
    x, u, w = tokens.patches, probe.pooling.query.data, probe.pooling.value.weight.data
    _, after = replaced_logits(probe, tokens)
    for j in range(4):
        y = []
        for i in range(4):
            a = (x @ u[i] / DIM**0.5).softmax(1) if i != j else torch.ones_like(x[..., 0]) / 12
            y.append(torch.einsum("bn,bnd->bd", a, x) @ w[6 * i : 6 * i + 6].T)
        y = (torch.cat(y, 1) - probe.norm.running_mean) / (probe.norm.running_var + 1e-6).sqrt()
        expected = y @ probe.classifier.weight.T + probe.classifier.bias
        torch.testing.assert_close(after[j], expected)


def test_a_predictor_that_is_uniform_already_has_no_importance(tokens):
    probe = fresh("ep4")
    probe.pooling.query.data[2] = 0
    before, after = replaced_logits(probe, tokens)
    torch.testing.assert_close(after[2], before)


def test_a_pooling_that_adds_keys_of_its_own_is_refused(tokens):
    with pytest.raises(IceprobeError, match="no predictor of CLIP can be replaced alone"):
        replaced_logits(fresh("clip4"), tokens)


@pytest.mark.parametrize("spec", ["ep4?input=prefix+patches", "clip4", "cait4", "simpool"])
def test_maps_sum_to_one_beside_the_share_of_other_tokens(spec, tokens):
    probe = fresh(spec)
    with torch.no_grad():
        selected = probe.select(tokens)
        weights = probe.pooling.attention(selected)
        added = probe.pooling.prefix_attention(selected).sum(-1)
    maps, share = patch_maps(probe, tokens)
    on_prefix = weights[..., : weights.shape[-1] - 12].sum(-1) + added
    torch.testing.assert_close(share.double(), on_prefix, atol=1e-6, rtol=1e-5)
    expected = weights[..., -12:] / (1 - on_prefix)[..., None]
    torch.testing.assert_close(maps.double(), expected, atol=1e-6, rtol=1e-4)


def test_spearman_is_scipys_with_ties_and_undefined_for_a_constant():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (3, 9)).astype(float), rng.normal(size=(3, 9))
    for a, b, found in zip(x, y, spearman(x, y), strict=True):
        assert found == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
        assert found == pytest.approx(reference.spearman(a, b), abs=1e-12)
    assert np.isnan(spearman(np.ones(5), y[0, :5]))


def test_the_interval_recomputes_everything_in_each_draw():
    rng = np.random.default_rng(1)
    drops = rng.integers(-1, 2, (6, 15)).astype(float)
    inside = (drops + rng.normal(size=(6, 15)) > 0).astype(float)
    inside[:, 3] = np.nan  # an image without a box
    found = correlate(drops, {"inside": inside, "same": np.ones((6, 15))}, draws=40, seed=5)
    assert found["same"] is None
    known = np.arange(15) != 3
    rho = reference.spearman(drops.mean(1), inside[:, known].mean(1))
    assert found["inside"].rho == pytest.approx(rho)
    counts = np.random.default_rng(5).multinomial(15, [1 / 15] * 15, size=40)
    drawn, means = [], []
    for row in counts:
        images = np.repeat(np.arange(15), row)
        measured = inside[:, images[images != 3]].mean(1)
        drawn.append(reference.spearman(drops[:, images].mean(1), measured))
        means.append(measured)
    assert found["inside"].interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found["inside"].predictors == 6
    expected = np.quantile(means, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(mean_intervals(inside, draws=40, seed=5), expected)
