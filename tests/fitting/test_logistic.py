"""The optimum of multinomial logistic regression, against scikit-learn's, in float64."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from iceprobe.fitting import logistic, standardised
from iceprobe.fitting.logistic import Problem
from iceprobe.fitting.losses import SoftmaxLoss

CPU = torch.device("cpu")


def data(n: int = 300, d: int = 20, c: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes in correlated directions, whose scales differ by three decades."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.logspace(0, -3, d)
    centres = 0.5 * rng.normal(size=(c, d))
    labels = np.arange(n) % c
    return (centres[labels] + rng.normal(size=(n, d))) @ mixing + 5, labels


def problem(features: np.ndarray, labels: np.ndarray, chunk: int = 128) -> Problem:
    x, y = torch.from_numpy(features), torch.from_numpy(labels)

    def rows():
        yield from zip(x.split(chunk), y.split(chunk), strict=True)

    return Problem(rows, len(x), x.shape[1], SoftmaxLoss(labels, int(y.max()) + 1), CPU)


@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("n", [12, 300])  # fewer rows than dimensions, and more
def test_coefficients_are_scikit_learns(decay, n):
    features, labels = data(n)
    found = problem(features, labels).solve(decay, tolerance=1e-8)
    scaled = StandardScaler().fit_transform(features)
    reference = LogisticRegression(C=1 / (decay * n), tol=1e-10, max_iter=100_000)
    reference.fit(scaled, labels)
    assert found.converged
    np.testing.assert_allclose(
        found.weight, reference.coef_, atol=2e-5 + 1e-4 * np.sqrt(1e-4 / decay)
    )
    # The bias isn't penalised: scikit-learn's may differ by a constant.
    difference = found.bias.numpy() - reference.intercept_
    assert np.ptp(difference) < 1e-3
    logits = scaled @ found.weight.numpy().T + found.bias.numpy()
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, reference.predict_proba(scaled), atol=2e-4)


def test_the_gradient_is_autograds():
    features, labels = data(50)
    one = problem(features, labels, chunk=7)
    weight = torch.randn(4, 20, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    x = torch.from_numpy(StandardScaler().fit_transform(features))
    loss = torch.nn.functional.cross_entropy(x @ weight.mT + bias, torch.from_numpy(labels))
    loss.backward()
    found, curvature, by_weight, by_bias = one.evaluate(weight.detach(), bias.detach())
    assert found == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(by_weight, weight.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_bias, bias.grad, rtol=1e-9, atol=1e-12)
    p = (x @ weight.mT + bias).softmax(1)
    assert curvature == pytest.approx((p * (1 - p)).mean().item())


def test_units_don_t_matter():
    features, labels = data()
    plain = problem(features, labels).solve(1e-3, tolerance=1e-9)
    rng = np.random.default_rng(1)
    scaled = features * 10.0 ** rng.uniform(-3, 3, features.shape[1]) + rng.normal(size=20) * 100
    other = problem(scaled, labels).solve(1e-3, tolerance=1e-9)
    np.testing.assert_allclose(other.weight, plain.weight, atol=1e-5)


def test_a_constant_feature_counts_nothing():
    features, labels = data()
    constant = np.full((len(features), 1), 0.1)
    one = problem(np.hstack([features, constant]), labels)
    found = one.solve(1e-2)
    assert one.inverse[-1] == 0
    assert found.weight[:, -1].abs().max() == 0
    expected = problem(features, labels).solve(1e-2)
    np.testing.assert_allclose(found.weight[:, :-1], expected.weight, atol=1e-5)


def test_where_the_search_begins_changes_nothing():
    one = problem(*data())
    warm = one.solve(1e-3, one.solve(1e-1), tolerance=1e-8)
    cold = one.solve(1e-3, tolerance=1e-8)
    np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-5)
    assert warm.loss == pytest.approx(cold.loss, abs=1e-7)


@pytest.mark.parametrize(("double", "held"), [(2**25, 2**28), (0, 2**28), (0, 0), (2**25, 0)])
def test_rows_that_are_read_again_and_float32_give_the_same(monkeypatch, double, held):
    features, labels = data()
    expected = problem(features, labels).solve(1e-3)
    monkeypatch.setattr(standardised, "DOUBLE", double)
    monkeypatch.setattr(standardised, "HELD", held)
    monkeypatch.setattr(standardised, "CHUNK", 24 * 30)  # 30 rows
    one = problem(features, labels)
    assert (one._kept is None) == (held == 0)
    assert one.dtype == (torch.float64 if double else torch.float32)
    found = one.solve(1e-3)
    assert found.converged
    scale = expected.weight.abs().max()
    np.testing.assert_allclose(
        found.weight / scale, expected.weight / scale, atol=2e-2 if not double else 1e-4
    )


def test_what_isn_t_reached_is_reported(monkeypatch):
    monkeypatch.setattr(logistic, "MOST_ITERATIONS", 2)
    found = problem(*data()).solve(1e-4)
    assert not found.converged
    assert found.iterations == 2
    assert found.gradient > 1e-4


def test_gradients_of_two_halves_add_up(monkeypatch):
    """What each process adds is its own part's sum: of both, everything's."""
    features, labels = data(200)
    whole = problem(features, labels)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    parts = [slice(0, 90), slice(90, 200)]
    recorded: list[list[torch.Tensor]] = [[], []]

    class Recording:
        size = 2

        def __init__(self, into):
            self.into = into

        def sum_(self, tensor):
            self.into.append(tensor.clone())
            return tensor

        def align(self, tensors):
            pass

    weight, bias = torch.randn(4, 20, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    for place, part in enumerate(parts):
        monkeypatch.setattr(standardised, "world", lambda into=recorded[place]: Recording(into))
        one = Problem.__new__(Problem)
        one.shared, one.count, one.dim, one.outputs = True, 200, 20, 4
        one.loss = whole.loss
        one.device, one.dtype = CPU, torch.float64
        one.mean, one.inverse, one._kept = whole.mean, whole.inverse, None
        one._rows = lambda part=part: [(x[part], y[part])]
        one.evaluate(weight, bias)
    loss, curvature, by_weight, by_bias = whole.evaluate(weight, bias)
    total = recorded[0][0] + recorded[1][0]
    expected = torch.cat(
        [torch.tensor([loss, curvature], dtype=torch.float64), by_weight.flatten(), by_bias]
    )
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(("alone", "inside"), [(2**26, 1), (0, 2)])
def test_a_small_problem_is_one_threads_and_torchs_are_left_as_they_were(
    monkeypatch, alone, inside
):
    monkeypatch.setattr(logistic, "ALONE", alone)
    one, seen, before = problem(*data()), set(), torch.get_num_threads()

    def evaluate(weight, bias):
        seen.add(torch.get_num_threads())
        raise RuntimeError("enough seen")

    one.evaluate = evaluate
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="enough"):
            one.solve(1e-3)
        assert (seen, torch.get_num_threads()) == ({inside}, 2)
    finally:
        torch.set_num_threads(before)
