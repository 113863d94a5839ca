"""Accuracies and intervals against hand-worked cases, scikit-learn and scipy."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from iceprobe.results.statistics import (
    accuracy,
    bootstrap_interval,
    bootstrap_mean_per_class,
    equivalent,
    mean_per_class,
    paired_bootstrap,
)

N = 500


@pytest.fixture
def three_seeds() -> tuple[np.ndarray, np.ndarray]:
    """Predictions ``(3, N)`` that are right on about 0.7, 0.75 and 0.8 of N images, and labels."""
    rng = np.random.default_rng(3)
    labels = rng.choice(6, N, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    right = rng.random((3, N)) < np.array([[0.7], [0.75], [0.8]])
    return np.where(right, labels, (labels + 1) % 6), labels


def test_accuracies_equal_scikit_learns(three_seeds):
    predicted, labels = three_seeds
    ours = accuracy(predicted, labels), mean_per_class(predicted, labels)
    for row in range(3):
        assert ours[0][row] == pytest.approx(accuracy_score(labels, predicted[row]), abs=1e-15)
        assert ours[1][row] == pytest.approx(balanced_accuracy_score(labels, predicted[row]))


def test_mean_per_class_by_hand():
    # Class 0: 3 of 4 right. Class 2: 0 of 1. Class 1 has no image and doesn't count.
    assert mean_per_class([[0, 0, 0, 1, 1]], [0, 0, 0, 0, 2])[0] == (0.75 + 0.0) / 2


def test_the_interval_is_scipys_percentile_bootstrap(three_seeds):
    predicted, labels = three_seeds
    correct = predicted == labels
    theirs = stats.bootstrap(
        (correct.mean(0),), np.mean, method="percentile", n_resamples=20_000, rng=1
    )
    ours = bootstrap_interval(correct, draws=20_000, seed=2)
    # Two independent sets of draws: their 2.5% quantiles differ by a few Monte-Carlo errors.
    expected = theirs.confidence_interval
    assert ours == pytest.approx((expected.low, expected.high), abs=0.0025)


def test_draws_follow_the_binomial_law():
    # The mean of n resampled zeros and ones is Binomial(n, p)/n exactly.
    correct = np.arange(100) < 30
    low, high = bootstrap_interval(correct, draws=200_000)
    law = stats.binom(100, 0.3)
    assert (low, high) == pytest.approx((law.ppf(0.025) / 100, law.ppf(0.975) / 100), abs=0.0101)
    assert 0.3 - low == pytest.approx(1.96 * math.sqrt(0.3 * 0.7 / 100), abs=0.011)


def test_certain_outcomes_have_intervals_of_no_width():
    assert bootstrap_interval(np.ones((2, 50))) == (1.0, 1.0)
    difference = paired_bootstrap(np.ones(50), np.zeros(50), draws=1000)
    assert (difference.mean, difference.interval) == (1.0, (1.0, 1.0))
    assert difference.p == pytest.approx(2 / 1001)
    same = paired_bootstrap(np.arange(50) < 20, np.arange(50) < 20)
    assert (same.mean, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    assert not same.clear


@pytest.mark.parametrize("replicates", [False, True])
@pytest.mark.parametrize("confidence", [0.95, 0.9])
def test_who_is_named_first_changes_nothing_but_the_sign(replicates, confidence):
    rng = np.random.default_rng(5)
    for case in range(12):
        a = rng.random((3, 97)) < 0.6
        b = a.copy() if case == 0 else rng.random((3, 97)) < 0.6
        if case == 1:  # a mean of exactly zero
            b = a[:, rng.permutation(97)]
        options = {"replicates": replicates, "confidence": confidence, "draws": 500}
        one, other = paired_bootstrap(a, b, **options), paired_bootstrap(b, a, **options)
        assert other.mean == -one.mean
        assert other.interval == (-one.interval[1], -one.interval[0])
        assert other.p == one.p


def test_pairing_removes_what_is_common_to_both():
    # b is a but for ten images; unpaired intervals would be six times as wide.
    a = np.arange(1000) % 2 == 0
    b = a.copy()
    b[:20:2] = False
    difference = paired_bootstrap(a, b, draws=50_000)
    assert difference.mean == pytest.approx(0.01)
    law = stats.binom(1000, 0.01)  # only ten images differ, each by 1
    assert difference.interval == pytest.approx(
        (law.ppf(0.025) / 1000, law.ppf(0.975) / 1000), abs=0.0011
    )
    assert difference.clear
    assert difference.p < 0.001


def test_paired_interval_is_scipys(three_seeds):
    predicted, labels = three_seeds
    a, b = predicted[2] == labels, predicted[0] == labels
    theirs = stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis),
        method="percentile", paired=True, vectorized=True, n_resamples=20_000, rng=5,
    )  # fmt: skip
    expected = theirs.confidence_interval
    ours = paired_bootstrap(a, b, draws=20_000).interval
    assert ours == pytest.approx((expected.low, expected.high), abs=0.004)


def test_seeds_may_differ_in_number(three_seeds):
    predicted, labels = three_seeds
    correct = predicted == labels
    difference = paired_bootstrap(correct, correct[0])
    assert difference.mean == pytest.approx(correct.mean() - correct[0].mean())


def test_equivalence_is_a_ninety_percent_interval_inside_the_margin():
    rng = np.random.default_rng(0)
    a = rng.random(4000) < 0.8
    b = a ^ (rng.random(4000) < 0.01)
    close = equivalent(a, b, margin=0.015)
    assert close.holds
    assert close.interval == paired_bootstrap(a, b, confidence=0.9).interval
    assert not equivalent(a, b, margin=0.002).holds
    few = equivalent(a[:40], np.roll(a[:40], 1), margin=0.015)
    assert not few.holds  # no difference shown isn't equivalence shown
    with pytest.raises(ValueError, match="positive"):
        equivalent(a, b, margin=0)


def test_mean_per_class_interval_against_plain_resampling(three_seeds):
    predicted, labels = three_seeds
    correct = (predicted == labels).mean(0)
    rng, means = np.random.default_rng(8), []
    for _ in range(3000):
        rows = rng.integers(0, N, N)
        drawn = [correct[rows][labels[rows] == c] for c in range(6)]
        means.append(np.mean([part.mean() for part in drawn if len(part)]))
    expected = np.quantile(means, [0.025, 0.975])
    ours = bootstrap_mean_per_class(predicted == labels, labels, draws=10_000)
    assert ours == pytest.approx(expected, abs=0.008)


def test_the_same_seed_gives_the_same_interval(three_seeds):
    predicted, labels = three_seeds
    correct = predicted == labels
    few = [bootstrap_interval(correct, draws=50, seed=seed) for seed in (4, 4, 5)]
    assert few[0] == few[1] != few[2]


@pytest.mark.parametrize(("a", "b"), [(np.ones(3), np.ones(4)), (np.ones((2, 3)), np.ones((2, 4)))])
def test_other_images_can_not_be_paired(a, b):
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(a, b)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        bootstrap_interval(np.ones((3, 0)))


def test_replicates_are_resampled_with_the_images():
    """Rows that differ a lot: an interval over images alone would be far too narrow."""
    rng = np.random.default_rng(0)
    levels = np.array([0.3, 0.5, 0.7, 0.4, 0.6])
    correct = rng.random((5, 4000)) < levels[:, None]
    narrow = bootstrap_interval(correct)
    wide = bootstrap_interval(correct, replicates=True)
    # The plain bootstrap of row means, images being many: sd/√5 with n instead of n − 1.
    spread = levels.std() / np.sqrt(5)
    assert narrow[1] - narrow[0] < 0.02
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 * spread, rel=0.12)
    index = np.random.default_rng(1)
    means = []
    for _ in range(4000):  # both levels drawn by hand
        rows, images = index.integers(0, 5, 5), index.integers(0, 4000, 4000)
        means.append(correct[rows][:, images].mean())
    assert wide == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01)


def test_equal_methods_on_shared_draws_are_rarely_called_different():
    """Both methods' accuracy moves by 5 points from draw to draw, independently; no difference."""
    rng, called = np.random.default_rng(0), 0
    for trial in range(100):
        level = 0.5 + 0.05 * rng.standard_normal((2, 5, 1))
        a, b = rng.random((2, 5, 500)) < level
        called += paired_bootstrap(a, b, replicates=True, draws=400, seed=trial).clear
    assert (
        called <= 20
    )  # percentile intervals of five rows are known to be too narrow; images alone: 60
