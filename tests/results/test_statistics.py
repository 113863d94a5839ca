"""Accuracies and intervals against hand-worked cases, scikit-learn, scipy and plain formulas."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from iceprobe.results.crossed import KEPT, spread, spread_of_difference
from iceprobe.results.scores import departure, mcnemar, tango, wilson
from iceprobe.results.statistics import (
    accuracy,
    accuracy_interval,
    equivalent,
    holm,
    mean_per_class,
    paired_difference,
    together,
)
from tests.reference import statistics as reference

N = 500
Z = stats.norm.ppf(0.975)


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


# One mean.


def test_the_parts_of_the_variance_are_those_of_the_two_way_table():
    """By hand: rows (1, 1, 0, 1) and (1, 0, 0, 0): means ¾ and ¼, columns 1, ½, 0, ½."""
    y = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], float)
    rows, cols, error = reference.mean_squares(y)
    assert (rows, cols, error) == pytest.approx((0.5, 1 / 3, 1 / 6))
    found = spread(y)
    assert found.mean == 0.5
    assert found.examples == pytest.approx(cols / 8)
    assert found.replicates == pytest.approx((rows - (1 - KEPT) * error) / 8)
    assert found.df_replicates == 1
    rng = np.random.default_rng(0)
    for shape in ((1, 30), (2, 31), (5, 200)):
        y = rng.random(shape) < rng.random(shape[1])
        rows, cols, error = (ms / y.size for ms in reference.mean_squares(y.astype(float)))
        found = spread(y)
        assert found.examples == pytest.approx(cols)
        assert found.replicates == pytest.approx(max(0.0, rows - (1 - KEPT) * error))


def test_replicates_that_happen_to_agree_take_nothing_away():
    y = np.array([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]])  # MS_rows 0, MS_error above it
    assert spread(y).replicates == 0


def test_the_variance_of_the_mean_is_what_simulation_finds():
    """Rows, columns and what is left drawn anew: the mean of the estimates is the variance."""
    rng = np.random.default_rng(1)
    means, estimates = [], []
    for _ in range(1500):
        level = 0.3 * rng.standard_normal((4, 1)) + rng.standard_normal((1, 150))
        y = level + 0.8 * rng.standard_normal((4, 150)) > -0.5
        found = spread(y)
        rows, cols, error = (ms / y.size for ms in reference.mean_squares(y.astype(float)))
        means.append(found.mean)
        estimates.append(rows + cols - error)
    assert np.mean(estimates) == pytest.approx(np.var(means), rel=0.1)


def test_each_part_has_its_own_quantile():
    found = spread(np.array([[1, 1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1]]))
    t = stats.t(2).ppf(0.95)
    z = stats.norm.ppf(0.95)
    half = found.quantile(0.90) * math.sqrt(found.variance)
    assert found.replicates > 0
    assert half**2 == pytest.approx(z**2 * found.examples + t**2 * found.replicates)
    assert found.p(found.quantile(0.90)) == pytest.approx(0.10)
    assert found.p(-found.quantile(0.999)) == pytest.approx(0.001)


@pytest.mark.parametrize("right", [0, 1, 5, 12, 20])
def test_of_one_row_it_is_wilsons_interval(right):
    theirs = stats.binomtest(right, 20).proportion_ci(method="wilson")
    low, high = accuracy_interval(np.arange(20) < right)
    # Next to 0 and 1 the exact one-sided end, where Wilson's lies inside it.
    exact = stats.beta(right, 21 - right).ppf(0.05) if right else 0.0
    assert low == pytest.approx(min(theirs.low, exact), abs=1e-6)
    exact = stats.beta(right + 1, 20 - right).ppf(0.95) if right < 20 else 1.0
    assert high == pytest.approx(max(theirs.high, exact), abs=1e-6)


def test_without_an_error_there_is_a_width():
    low, high = accuracy_interval(np.ones((3, 50)))
    assert (low, high) == (pytest.approx(50 / (50 + Z**2)), 1.0)


def test_a_mean_per_class_has_its_classes_as_strata(three_seeds):
    """Var = Σ_c s_c² / (C² n_c) for one row, by numpy class by class."""
    predicted, labels = three_seeds
    right = (predicted == labels)[0].astype(float)
    parts = [right[labels == c].var(ddof=1) / (labels == c).sum() for c in range(6)]
    found = spread(right, labels)
    assert found.mean == pytest.approx(balanced_accuracy_score(labels, predicted[0]))
    assert found.examples == pytest.approx(sum(parts) / 36)
    df = sum(parts) ** 2 / sum(v**2 / ((labels == c).sum() - 1) for c, v in enumerate(parts))
    assert found.df_examples == pytest.approx(df)
    balanced = np.arange(60) % 6
    assert spread(right[:60], balanced).mean == pytest.approx(right[:60].mean())


def test_classes_of_one_image_have_a_variance_together():
    labels = np.array([0, 0, 0, 0, 1, 2, 3])
    right = np.array([1, 1, 0, 0, 1, 0, 0])
    together = right[4:].var(ddof=1) * 3 / 16
    assert spread(right, labels).examples == pytest.approx(
        right[:4].var(ddof=1) / 4 / 16 + together
    )
    assert spread([1, 0, 1], [0, 0, 1]).examples > 0  # a single one joins the smallest class
    assert spread([1, 0], [0, 1]).examples > 0


def test_replicates_that_differ_make_it_wider():
    """Rows that differ a lot: an interval over images alone would be far too narrow."""
    rng = np.random.default_rng(0)
    levels = np.array([0.3, 0.5, 0.7, 0.4, 0.6])
    correct = rng.random((5, 4000)) < levels[:, None]
    low, high = accuracy_interval(correct)
    plain = stats.t(4).ppf(0.975) * levels.std(ddof=1) / math.sqrt(5)
    # Images being many, all but t of the row means; a little pulled towards a half by the score.
    assert high - low == pytest.approx(2 * plain, rel=0.12)
    one_image_mean = correct.mean(0)
    assert high - low > 8 * np.subtract(*accuracy_interval(one_image_mean)[::-1])


# Differences.


def test_tangos_interval_is_the_published_one():
    """Of 21 children 1 and 7 changed: Fagerland, Lydersen and Laake 2013, table 5."""
    assert tango(1 / 21, 7 / 21, 21, Z) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("b", "c", "n"), [(5, 1, 40), (30, 12, 200), (3, 2, 20), (90, 100, 1000)])
def test_tangos_interval_is_that_of_the_likelihood_by_search(b, c, n):
    assert tango(b / n, c / n, n, Z) == pytest.approx(reference.tango(b, c, n, Z), abs=2e-5)
    assert departure(b / n, c / n, n, 0) == pytest.approx((b - c) / math.sqrt(b + c))


def test_nothing_that_differs_has_a_width():
    same = paired_difference(np.arange(50) < 20, np.arange(50) < 20)
    end = Z**2 / (50 + Z**2)
    assert (same.mean, same.interval, same.p) == (0.0, pytest.approx((-end, end)), 1.0)
    assert not same.clear


@pytest.mark.parametrize(("b", "c"), [(5, 0), (6, 0), (9, 1), (1, 4), (12, 3)])
def test_few_that_differ_are_found_by_mcnemars_exact_test(b, c):
    a = np.r_[np.ones(b), np.zeros(c), np.ones(100)]
    other = np.r_[np.zeros(b), np.ones(c), np.ones(100)]
    difference = paired_difference(a, other)
    theirs = stats.binomtest(b, b + c).pvalue
    assert mcnemar(b, c) == difference.p == pytest.approx(theirs)
    assert difference.clear == (theirs < 0.05)
    low, high = difference.interval
    assert (low > 0 or high < 0) == difference.clear


@pytest.mark.parametrize("replicates", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_who_is_named_first_changes_nothing_but_the_sign(replicates, per_class):
    rng = np.random.default_rng(5)
    classes = rng.integers(0, 7, 97) if per_class else None
    for case in range(12):
        a = rng.random((3, 97)) < 0.6
        b = a.copy() if case == 0 else rng.random((3, 97)) < 0.6
        if case == 1:  # a mean of exactly zero
            b = a[:, rng.permutation(97)]
        one, other = (
            paired_difference(*pair, classes, replicates=replicates) for pair in ((a, b), (b, a))
        )
        assert other.mean == -one.mean
        assert other.interval == (-one.interval[1], -one.interval[0])
        assert other.within(0.9) == (-one.within(0.9)[1], -one.within(0.9)[0])
        assert other.p == one.p


def test_pairing_removes_what_is_common_to_both():
    # b is a but for ten images; unpaired intervals would be six times as wide.
    a = np.arange(1000) % 2 == 0
    b = a.copy()
    b[:20:2] = False
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(0.01)
    assert difference.interval == pytest.approx(reference.tango(10, 0, 1000, Z), abs=1e-5)
    assert difference.clear
    assert difference.p == pytest.approx(2 / 2**10)


def test_replicates_pair_by_number_and_seeds_do_not():
    rng = np.random.default_rng(0)
    level = 0.6 + 0.1 * rng.standard_normal((4, 1))  # each draw moves both probes alike
    a, b = rng.random((2, 4, 800)) < level
    paired = spread_of_difference(a, b, paired=True)
    unpaired = spread_of_difference(a, b, paired=False)
    rows, cols, error = (m / a.size for m in reference.mean_squares(a * 1.0 - b * 1.0))
    assert paired.examples == pytest.approx(cols)
    assert paired.replicates == pytest.approx(max(0.0, rows - (1 - KEPT) * error))
    ours, theirs = (reference.mean_squares(one * 1.0) for one in (a, b))
    both = sum(ms[0] - (1 - KEPT) * ms[2] for ms in (ours, theirs)) / a.size
    assert unpaired.examples == pytest.approx(paired.examples)
    assert unpaired.replicates == pytest.approx(both)
    assert unpaired.df_replicates == pytest.approx(
        (ours[0] + theirs[0]) ** 2 / ((ours[0] ** 2 + theirs[0] ** 2) / 3)
    )
    assert unpaired.replicates > 5 * paired.replicates


def test_seeds_may_differ_in_number(three_seeds):
    predicted, labels = three_seeds
    correct = predicted == labels
    difference = paired_difference(correct, correct[0])
    assert difference.mean == pytest.approx(correct.mean() - correct[0].mean())
    with pytest.raises(ValueError, match="pair by number: 3 against 2"):
        paired_difference(correct, correct[:2], replicates=True)


def test_equivalence_is_a_ninety_percent_interval_inside_the_margin():
    rng = np.random.default_rng(0)
    a = rng.random(4000) < 0.8
    b = a ^ (rng.random(4000) < 0.01)
    close = equivalent(a, b, margin=0.015)
    assert close.holds
    assert close.interval == paired_difference(a, b).within(0.90)
    assert not equivalent(a, b, margin=0.002).holds
    few = equivalent(a[:40], np.roll(a[:40], 1), margin=0.015)
    assert not few.holds  # no difference shown isn't equivalence shown
    with pytest.raises(ValueError, match="positive"):
        equivalent(a, b, margin=0)


def test_one_sided_p_is_that_of_the_score_test():
    a, b = np.arange(400) < 300, np.arange(400) < 310
    difference = paired_difference(a, b)
    for delta in (-0.05, -0.02, 0.01):
        departed = departure(0.0, 10 / 400, 400, delta)
        assert difference.p_above(delta) == pytest.approx(stats.norm.sf(departed))


def test_holm_by_hand():
    # Sorted 0.01 · 4, 0.02 · 3, 0.03 · 2, 0.5 · 1, each at least the one before.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("a", "b"), [(np.ones(3), np.ones(4)), (np.ones((2, 3)), np.ones((2, 4)))])
def test_other_images_can_not_be_paired(a, b):
    with pytest.raises(ValueError, match="same images"):
        paired_difference(a, b)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        accuracy_interval(np.ones((3, 0)))


def test_wilson_stays_inside():
    for p in (0.0, 1e-12, 1 / 3, 1 - 1e-12, 1.0):
        low, high = wilson(p, 7.5, 3.0, 0.95)
        assert 0 <= low <= p <= high <= 1


ALL = [(i, j) for i in range(5) for j in range(i)]
ONE = [(i, 0) for i in range(1, 5)]


@pytest.mark.parametrize(
    "pairs", [ALL, ONE, [(1, 0), (3, 2)], [("b", "a"), ("c", "a"), ("c", "d")]]
)
def test_a_familys_replicates_are_estimated_from_all_its_pairs(pairs):
    rng = np.random.default_rng(0)
    right = {name: rng.random((3, 200)) < rng.uniform(0.5, 0.9, (3, 1)) for pair in pairs for name in pair}  # fmt: skip
    own = [paired_difference(right[a], right[b], replicates=True) for a, b in pairs]
    found = together(own, pairs)
    unbiased = []
    for a, b in pairs:
        rows, _, error = reference.mean_squares((right[a] * 1.0 - right[b]).tolist())
        unbiased.append((rows - error) / (3 * 200))
    for one, alone in zip(found, own, strict=True):
        assert one.family.replicates == pytest.approx(np.mean(unbiased), rel=1e-9)
        assert one.family.df_replicates == pytest.approx(reference.pooled_degrees(pairs, 2))
        assert one.p >= alone.p
        assert one.p_above(-0.01) >= alone.p_above(-0.01)
        assert (-one).p == pytest.approx(one.p, rel=1e-12)
        assert one.interval == alone.interval
    assert any(one.p > alone.p for one, alone in zip(found, own, strict=True)) or len(pairs) == 2


def test_seeds_against_what_has_no_seeds_have_a_family_too():
    """As EPs against a linear probe that is solved: V_rows and V_error are those of the seeds alone."""
    rng = np.random.default_rng(0)
    solved = rng.random((1, 200)) < 0.6
    seeds = [rng.random((3, 200)) < rng.uniform(0.5, 0.9, (3, 1)) for _ in range(4)]
    own = [paired_difference(one, solved) for one in seeds]
    found = together(own, [(number, "solved") for number in range(4)])
    parts = [reference.mean_squares((one * 1.0).tolist()) for one in seeds]
    expected = np.mean([(rows - error) / (3 * 200) for rows, _, error in parts])
    for one, alone in zip(found, own, strict=True):
        assert one.family.replicates == pytest.approx(expected, rel=1e-9)
        assert one.p >= alone.p
    assert any(one.p > alone.p for one, alone in zip(found, own, strict=True))


def test_one_pair_is_no_family_and_neither_are_single_rows():
    rng = np.random.default_rng(0)
    a, b = (rng.random((3, 200)) < p for p in (0.8, 0.7))
    (one,) = together([paired_difference(a, b)], [("a", "b")])
    assert one.p == paired_difference(a, b).p
    few = [paired_difference(a[0], one) for one in (b[0], b[1])]
    assert [one.p for one in together(few, [(0, 1), (0, 2)])] == [one.p for one in few]


def test_one_image_says_nothing_and_warns_of_nothing(recwarn):
    low, high = accuracy_interval([[1], [0], [1]])
    assert low < 0.1
    assert high > 0.9
    assert not recwarn.list
