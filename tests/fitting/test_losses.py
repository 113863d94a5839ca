"""Solved linear probes of classes, tags and numbers, against scikit-learn's, in float64."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, r2_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from iceprobe.fitting import ridge, standardised
from iceprobe.fitting.logistic import Problem
from iceprobe.fitting.losses import (
    SoftmaxLoss,
    SquaredLoss,
    TagsLoss,
    solver_loss,
)
from iceprobe.fitting.ridge import RidgeProblem
from iceprobe.fitting.solution import Solution
from iceprobe.tasks import get_task

CPU = torch.device("cpu")
REFERENCE = {"tol": 1e-10, "max_iter": 10_000, "solver": "newton-cholesky"}


def problem(features, targets, loss, chunk=64, stretch=None, kind=Problem):
    x, y = torch.from_numpy(features), torch.from_numpy(targets)

    def rows():
        yield from zip(x.split(chunk), y.split(chunk), strict=True)

    return kind(rows, len(x), x.shape[1], loss, CPU, stretch=stretch)


def numbers(seed=0, n=150, outputs=4, unknown=True):
    """Numbers in units of their own, some unknown: two outputs in the same rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)) * np.logspace(0, 3, 12) + 50
    y = (x - 50) @ rng.normal(size=(12, outputs)) * np.logspace(-2, 3, outputs) + 7
    if unknown:
        y[rng.random(n) < 0.3, 1:3] = np.nan
        y[rng.random(n) < 0.2, 3] = np.nan
    return x, y


def tags(seed=0, n=250, k=5):
    """Tags from half to rare, a fifth of the cells unknown."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 10)) * np.logspace(0, 2, 10) - 3
    scores = (x + 3) / np.logspace(0, 2, 10) @ rng.normal(size=(10, k)) + rng.logistic(size=(n, k))
    y = (scores > np.linspace(0, 5, k)).astype(np.uint8)
    y[rng.random((n, k)) < 0.2] = 255
    return x, y


def balanced_weights(task, targets):
    return get_task(task).learning(targets, "balanced").weights


def close(found, expected, rtol=1e-5):
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max(), rtol=0)


def logits(solution: Solution, scaled):
    return scaled @ solution.weight.numpy().T + solution.bias.numpy()


@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer])
@pytest.mark.parametrize("balanced", [False, True])
def test_classes(load, balanced):
    x, y = load(return_X_y=True)
    learnt = np.arange(len(y)) % 3 > 0
    scaler = StandardScaler().fit(x[learnt])
    scaled, test, decay = scaler.transform(x[learnt]), scaler.transform(x[~learnt]), 1e-2
    labels, classes = y[learnt], int(y.max()) + 1
    weights = balanced_weights("classification", labels) if balanced else None
    loss = solver_loss("softmax", labels, classes, weights)
    found = problem(x[learnt], labels, loss).solve(decay, tolerance=1e-9)
    pair = classes == 2  # scikit-learn penalises the difference of two rows: twice as much
    reference = LogisticRegression(
        C=(2 if pair else 1) / (decay * len(labels)),
        class_weight="balanced" if balanced else None,
        **REFERENCE,
    ).fit(scaled, labels)
    assert found.converged
    weight, bias = found.weight.numpy(), found.bias.numpy()
    if pair:
        weight, bias = np.diff(weight, axis=0), np.diff(bias)
    else:
        bias = bias - bias.mean()
    close(weight, reference.coef_)
    close(bias, reference.intercept_ - (0 if pair else reference.intercept_.mean()))
    accuracy = (logits(found, test).argmax(1) == y[~learnt]).mean()
    assert accuracy == pytest.approx(reference.score(test, y[~learnt]), abs=1e-3)


@pytest.mark.parametrize("balanced", [False, True])
def test_tags_are_problems_of_their_own_on_their_known_rows(balanced):
    x, y = tags()
    scaled, decay = StandardScaler().fit_transform(x), 1e-2
    loss = solver_loss("logistic", y, 5, balanced_weights("multilabel", y) if balanced else None)
    found = problem(x, y, loss).solve(decay, tolerance=1e-9)
    assert found.converged
    losses, counts = [], []
    for k in range(5):
        known = y[:, k] != 255
        target = y[known, k]
        weights = {0: 1.0, 1: (target == 0).sum() / (target == 1).sum()} if balanced else None
        reference = LogisticRegression(
            C=1 / (decay * known.sum()), class_weight=weights, **REFERENCE
        ).fit(scaled[known], target)
        close(found.weight[k], reference.coef_[0])
        assert found.bias[k].item() == pytest.approx(reference.intercept_[0], rel=1e-5, abs=1e-5)
        z = logits(found, scaled[known])[:, k]
        assert average_precision_score(target, z) == pytest.approx(
            average_precision_score(target, reference.decision_function(scaled[known])), abs=1e-3
        )
        weight = np.where(target == 1, weights[1], 1) if weights else 1.0
        losses.append((weight * np.logaddexp(0, np.where(target == 1, -z, z))).sum())
        counts.append(known.sum())
    assert found.loss == pytest.approx(sum(losses) / sum(counts), rel=1e-9)


def test_at_one_C_each_tag_has_the_decay_of_its_own_known_rows():
    x, y = tags()
    loss, n, C = TagsLoss(y), len(y), 0.3
    found = problem(x, y, loss, stretch=1 / loss.known).solve(1 / (C * n), tolerance=1e-9)
    scaled = StandardScaler().fit_transform(x)
    for k in range(5):
        known = y[:, k] != 255
        reference = LogisticRegression(C=C, **REFERENCE).fit(scaled[known], y[known, k])
        close(found.weight[k], reference.coef_[0])


def test_a_tag_of_one_state_has_its_odds_and_no_weight():
    x, y = tags()
    y[:, 1], y[:, 2], y[:, 4] = 0, 255, np.where(y[:, 4] == 255, 255, 1)
    loss = TagsLoss(y)
    found = problem(x, y, loss).solve(1e-3)
    assert found.converged
    assert found.weight[[1, 2, 4]].abs().max() == 0
    known = (y[:, 4] == 1).sum()
    expected = [np.log(0.5 / (len(y) + 0.5)), 0, np.log((known + 0.5) / 0.5)]
    np.testing.assert_allclose(found.bias[[1, 2, 4]], expected)
    assert found.weight[0].abs().max() > 0.1
    weights = balanced_weights("multilabel", y)
    assert weights[4] == 0
    balanced = problem(x, y, TagsLoss(y, weights)).solve(1e-3)
    np.testing.assert_allclose(balanced.bias[[1, 2]], expected[:2])


def test_the_gradient_of_tags_is_autograds():
    x, y = tags(n=40)
    weights = balanced_weights("multilabel", y)
    one = problem(x, y, solver_loss("logistic", y, 5, weights), chunk=7)
    weight = torch.randn(5, 10, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    z = torch.from_numpy(StandardScaler().fit_transform(x)) @ weight.mT + bias
    target, known = torch.from_numpy(y == 1).double(), torch.from_numpy(y != 255).double()
    cells = torch.nn.functional.binary_cross_entropy_with_logits(
        z, target, reduction="none", pos_weight=weights
    )
    expected = (cells * known).sum(0) / known.sum(0)
    expected.sum().backward()
    found, curvature, by_weight, by_bias = one.evaluate(weight.detach(), bias.detach())
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_weight, weight.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_bias, bias.grad, rtol=1e-9, atol=1e-12)
    assert curvature.shape == (5,)


def test_weights_are_scikit_learns_and_their_unit_is_of_no_account():
    y = np.array([0, 0, 0, 2, 2, 1, 0, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(balanced_weights("classification", y), expected)
    assert balanced_weights("classification", np.array([0, 2, 2]))[1] == 0
    x = np.random.default_rng(0).normal(size=(8, 3))
    one, other = (
        problem(x, y, SoftmaxLoss(y, 3, w)).solve(1e-2, tolerance=1e-9)
        for w in ([1.0, 2.0, 3.0], [7.0, 14.0, 21.0])
    )
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-7)


@pytest.mark.parametrize("decay", [1e-6, 1e-2, 10.0])
def test_diabetes(decay):
    x, y = load_diabetes(return_X_y=True)
    learnt = np.arange(len(y)) % 3 > 0
    scaler = StandardScaler().fit(x[learnt])
    scaled, test = scaler.transform(x[learnt]), scaler.transform(x[~learnt])
    found = problem(x[learnt], y[learnt], SquaredLoss(y[learnt]), kind=RidgeProblem).solve(decay)
    reference = Ridge(alpha=decay * learnt.sum()).fit(scaled, y[learnt])
    close(found.weight[0], reference.coef_, 1e-8)
    close(found.bias.numpy(), np.array([reference.intercept_]), 1e-8)
    assert r2_score(y[~learnt], logits(found, test)[:, 0]) == pytest.approx(
        reference.score(test, y[~learnt]), abs=1e-8
    )
    error = np.mean((reference.predict(scaled) - y[learnt]) ** 2) / y[learnt].var()
    assert found.loss == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("kept", [2**23, 0])
def test_outputs_of_a_unit_each_some_unknown(kept, monkeypatch):
    monkeypatch.setattr(ridge, "KEPT", kept)
    monkeypatch.setattr(standardised, "CHUNK", 16 * 17)
    x, y = numbers()
    scaled, decays = StandardScaler().fit_transform(x), [3e-1, 1e-3]
    loss = SquaredLoss(y)
    assert loss.alike == [[0], [1, 2], [3]]
    one = problem(x, y, loss, kind=RidgeProblem)
    found = one.path(decays)
    assert len(one._bases) == (3 if kept else 0)
    for decay in decays:
        errors, counts = [], []
        for k in range(4):
            known = ~np.isnan(y[:, k])
            target = y[known, k]
            reference = Ridge(alpha=decay * known.sum()).fit(scaled[known], target)
            close(found[decay].weight[k], reference.coef_, 1e-8)
            assert found[decay].bias[k].item() == pytest.approx(reference.intercept_, rel=1e-8)
            fitted = reference.predict(scaled[known])
            errors.append(((fitted - target) ** 2).sum() / target.var())
            counts.append(known.sum())
        assert found[decay].loss == pytest.approx(sum(errors) / sum(counts), rel=1e-8)


def test_at_one_alpha_each_output_has_the_decay_of_its_own_known_rows():
    x, y = numbers()
    loss, alpha = SquaredLoss(y), 4.0
    one = problem(x, y, loss, stretch=1 / loss.known, kind=RidgeProblem)
    found, scaled = one.solve(alpha / len(y)), StandardScaler().fit_transform(x)
    for k in range(4):
        known = ~np.isnan(y[:, k])
        close(found.weight[k], Ridge(alpha=alpha).fit(scaled[known], y[known, k]).coef_, 1e-8)


def test_numbers_that_are_constant_or_unknown_everywhere():
    x, y = numbers(outputs=3, unknown=False)
    y[:, 1], y[:, 2] = 5.0, np.nan
    found = problem(x, y, SquaredLoss(y), kind=RidgeProblem).solve(1e-3)
    assert found.weight[1:].abs().max() < 1e-12
    np.testing.assert_allclose(found.bias[1:], [5, 0], atol=1e-12)
    assert np.isfinite(found.loss)


def test_halves_of_two_processes_are_everything():
    """What each process adds up is its own part's; a sum over both gives the whole's solution."""
    x, y = numbers(n=90)
    loss = SquaredLoss(y)
    whole = problem(x, y, loss, kind=RidgeProblem)
    expected = whole._measured([1, 2])
    sums: list[list[torch.Tensor]] = [[], []]
    for place, part in enumerate([slice(0, 30), slice(30, 90)]):
        one = RidgeProblem.__new__(RidgeProblem)
        one.loss, one._centre, one.shared = loss, loss.centre, True
        one.dim, one.outputs, one.device = 12, 4, CPU
        one.mean, one.inverse = whole.mean, whole.inverse
        one.values, one.vectors = whole.values, whole.vectors
        one._rows = lambda part=part: [(torch.from_numpy(x[part]), torch.from_numpy(y[part]))]
        one._sum = lambda tensor, into=sums[place]: into.append(tensor.clone())
        one._align = lambda *_: None  # of a half's own decomposition, which isn't read
        one._measured([1, 2])
    count, total, gram, products = (a + b for a, b in zip(*sums, strict=True))
    torch.testing.assert_close(total / count, expected.mean)
    spread = gram / count - torch.outer(total, total) / count**2
    rebuilt = expected.vectors * expected.values @ expected.vectors.mT
    torch.testing.assert_close(spread, rebuilt, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(products / count @ expected.vectors, expected.products)
