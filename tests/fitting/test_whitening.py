"""Whitened coordinates change the road of the optimiser, not the probe."""

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from iceprobe.fitting.context import vectors as vectors_of
from iceprobe.fitting.engine import JointTrainer, forward, predict
from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.members import Member, make_groups
from iceprobe.fitting.whitening import ledoit_wolf, whitening
from iceprobe.probes.probe import build_for
from iceprobe.tasks.classification import Classification
from iceprobe.tokens import TokenShape
from tests.fitting.conftest import PlantedSplit

LABELS = ["linear?input=mean", "mean_value"]


def ill_conditioned(n: int, seed: int, dim: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors far from the origin whose short directions hold the classes (condition 1e4)."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)))[0]
    labels = torch.arange(n) % 3
    z = torch.randn(n, dim, generator=generator)
    z[torch.arange(n), dim - 1 - labels] += 1.5
    return z * torch.logspace(0, -2, dim) @ basis.mT + 5, labels


def test_the_matrix_is_the_inverse_root_of_the_correlation():
    vectors, _ = ill_conditioned(500, 0)
    vectors[:, 3] = 7.0  # constant
    found = whitening(lambda: vectors.split(64), 0.5)
    x = vectors.double().numpy()
    deviation = x.std(0)
    deviation[3] = 1
    standardised = (x - x.mean(0)) / deviation
    correlation = standardised.T @ standardised / len(x)
    expected = fractional_matrix_power(0.5 * correlation + 0.5 * np.eye(24), -0.5)
    np.testing.assert_allclose(found.std.numpy(), deviation, rtol=1e-5)
    np.testing.assert_allclose(found.matrix.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [5, 20, 100, 2000])
def test_few_vectors_shrink_as_scikit_learn_says(n):
    vectors = ill_conditioned(n, 0)[0].double()
    standardised = (vectors - vectors.mean(0)) / vectors.std(0, correction=0)
    expected = ledoit_wolf_shrinkage(standardised.numpy(), assume_centered=True)
    covariance = standardised.mT @ standardised / n
    fourth = float(standardised.square().sum(1).square().sum())
    assert ledoit_wolf(covariance, fourth, n) == pytest.approx(expected, rel=1e-6)
    matrix = whitening(lambda: vectors.split(7), 1e-9).matrix.double()
    inverse_square = torch.linalg.inv(matrix @ matrix)
    shrunk = (1 - expected) * covariance + expected * torch.eye(24)
    torch.testing.assert_close(inverse_square, shrunk.double(), rtol=1e-3, atol=1e-3)


def test_training_starts_from_the_ordinary_initialisation():
    shape = TokenShape(24, 1, 0, (1, 1), has_class=False)
    found = {"mean": whitening(lambda: [ill_conditioned(200, 0)[0]], 0.01)}
    for label in LABELS:
        member = Member(label, 1e-2, 0.0, 3)
        (group,) = make_groups([member], shape, 3, torch.device("cpu"), found)
        for name, parameter in build_for(shape, label, 3, seed=3).named_parameters():
            torch.testing.assert_close(
                group.probe(0).get_parameter(name), parameter, rtol=1e-3, atol=1e-5
            )


@pytest.mark.parametrize("label", LABELS)
def test_the_fitted_probe_is_an_ordinary_one(label):
    """Logits of the joint trainer and of the module that comes out of it, on tokens as they are."""
    vectors, labels = ill_conditioned(200, 0)
    shape = TokenShape(24, 1, 0, (1, 1), has_class=False)
    found = {"mean": whitening(lambda: [vectors], 0.01)}
    groups = make_groups(
        [Member(label, 1e-2, 0.0, s) for s in (0, 1)], shape, 3, torch.device("cpu"), found
    )
    batch = Batch({"mean": vectors}, labels)
    trainer = JointTrainer(groups, "adamw", steps=5, warmup=0)
    for _ in range(5):
        trainer.train_step(batch)
    (together,) = forward(groups, batch, training=False)
    for g in (0, 1):
        alone = groups[0].probe(g)(vectors)
        torch.testing.assert_close(alone, together[g], rtol=1e-4, atol=1e-4)
        first = groups[0].whitened[0]
        assert not torch.equal(
            alone_weight := groups[0].probe(g).get_parameter(first), groups[0].parameters[first][g]
        )
        assert alone_weight.shape == groups[0].parameters[first][g].shape


def test_few_steps_reach_logistic_regression_where_directions_differ_in_scale():
    train, test = ill_conditioned(2000, 0), ill_conditioned(2000, 1)
    reference = make_pipeline(
        StandardScaler(), LogisticRegression(C=1e6, max_iter=20_000, tol=1e-8)
    )
    reference.fit(train[0].double().numpy(), train[1].numpy())
    expected = reference.score(test[0].double().numpy(), test[1].numpy())

    def ours(shrinkage: float | None) -> float:
        feeds = [
            Feed(
                PlantedSplit(x[:, None], x[:, None], y.numpy()),
                np.arange(2000),
                {"mean"},
                torch.device("cpu"),
                torch.float32,
            )
            for x, y in (train, test)
        ]
        known = {} if shrinkage is None else {"mean": whitening(lambda: [train[0]], shrinkage)}
        shape = TokenShape(24, 1, 0, (1, 1), has_class=False)
        groups = make_groups(
            [Member("linear?input=mean", 1e-2, 0.0, 0)], shape, 3, torch.device("cpu"), known
        )
        trainer = JointTrainer(groups, "adamw", steps=160, warmup=8)
        for epoch in range(20):
            for batch in feeds[0].shuffled(256, 0, epoch):
                trainer.train_step(batch)
        (record,) = predict(groups, feeds[1].in_order(500), Classification(), "scores")
        return float((record["predicted"][0].numpy() == test[1].numpy()).mean())

    assert expected > 0.7
    assert ours(1e-6) == pytest.approx(expected, abs=0.01)
    assert ours(None) < expected - 0.1  # or the whitening has nothing to show


def test_vectors_without_batch_norm_are_trained_as_they_are():
    shape = TokenShape(24, 1, 0, (1, 1), has_class=False)
    found = {"mean": whitening(lambda: [ill_conditioned(200, 0)[0]], 0.01)}
    for label in ("linear?batch_norm=false&input=mean", "mean_value?batch_norm=false"):
        (group,) = make_groups([Member(label, 1e-2, 0.0, 0)], shape, 3, torch.device("cpu"), found)
        assert group.whitened is None
        assert not group.fixed_statistics


def test_measuring_the_vectors_reads_no_patch_tokens(monkeypatch):
    """Probes of both kinds share a feed; a streamed store would be read twice more for nothing."""
    vectors, labels = ill_conditioned(60, 0)
    split = PlantedSplit(vectors[:, None], vectors[:, None], labels.numpy())
    feed = Feed(split, np.arange(60), {"mean", "patches"}, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(PlantedSplit, "patches", lambda *_: pytest.fail("patches were read"))
    torch.testing.assert_close(torch.cat(list(vectors_of(feed, "mean", 16))), vectors)
