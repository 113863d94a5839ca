"""Groups of examples that aren't independent: they are what is drawn."""

import math

import numpy as np
import pytest
from scipy import stats

from iceprobe.protocols.choosing import Record, choose
from iceprobe.protocols.halving import clearly_beaten
from iceprobe.results.crossed import KEPT, spread, spread_of_difference
from iceprobe.results.scores import wilson
from iceprobe.results.statistics import accuracy_interval, equivalent, paired_difference
from iceprobe.results.units import cells_of
from iceprobe.results.weighted import selected_score, standard_error


@pytest.fixture
def sample() -> tuple:
    """What two probes read, ``(3, 60)`` each, labels of 4 classes and 12 groups of unequal size."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 60)
    hard = rng.standard_normal(12)[groups]
    a, b = hard + rng.standard_normal((2, 3, 60)) > -0.7
    return a, b, rng.permutation(np.arange(60) % 4), groups


def test_groups_of_one_are_no_groups(sample):
    a, b, labels, _ = sample
    alone = np.random.default_rng(1).permutation(60) + 100
    for classes in (None, labels):
        assert spread(a, classes, alone) == spread(a, classes)
        assert accuracy_interval(a, classes, alone) == accuracy_interval(a, classes)
        for replicates in (False, True):
            ours, theirs = (paired_difference(a, b, classes, groups, replicates=replicates) for groups in (alone, None))  # fmt: skip
            assert ours == theirs
            assert (ours.interval, ours.p) == (theirs.interval, theirs.p)
    weights = np.full(60, 1 / 60)
    values = a.mean(0)
    assert standard_error(values, weights, alone) == standard_error(values, weights)
    assert selected_score(values, weights, alone) == selected_score(values, weights)


def test_copies_of_an_example_add_nothing(sample):
    a, b, labels, _ = sample
    groups = np.repeat(np.arange(60), 5)
    for classes in (None, labels):
        copied = None if classes is None else np.repeat(classes, 5)
        for many, one in (
            (spread(np.repeat(a, 5, 1), copied, groups), spread(a, classes)),
            (
                spread_of_difference(np.repeat(a, 5, 1), np.repeat(b, 5, 1), copied, groups, paired=True),
                spread_of_difference(a, b, classes, paired=True),
            ),
        ):  # fmt: skip
            assert many.mean == pytest.approx(one.mean)
            assert many.examples == pytest.approx(one.examples)
            assert many.replicates == pytest.approx(one.replicates)
            assert many.units == pytest.approx(one.size)
            expected = one.df_examples if math.isfinite(one.df_examples) else 59
            assert many.df_examples == pytest.approx(expected, rel=0.05)
    # A single row: Wilson's of as many examples, but for t and n − 1.
    share = float(a[0].mean())
    found = accuracy_interval(np.repeat(a[0], 5), groups=groups)
    assert found == pytest.approx(wilson(share, 59, stats.t(59).ppf(0.975), 0.95))
    assert found == pytest.approx(accuracy_interval(a[0]), abs=0.004)
    weights = np.full(300, 1 / 300)
    error = standard_error(np.repeat(a[0] * 1.0, 5), weights, groups)
    assert error == pytest.approx(a[0].std(ddof=1) / math.sqrt(60))
    assert selected_score(np.repeat(a[0] * 1.0, 5), weights, groups).size == pytest.approx(60)


def test_the_variance_is_that_of_sums_in_groups(sample):
    """By loops: Σ_g Z² of the mean, and of the residuals of replicate × group."""
    a, _, _, groups = sample
    y = a.astype(float)
    names = sorted(set(groups))
    sums = np.array([[sum((y[r, i] - y[r].mean()) / 60 for i in range(60) if groups[i] == g) for g in names] for r in range(3)])  # fmt: skip
    size = len(names)
    columns = size / (size - 1) * (sums.mean(0) ** 2).sum()
    error = size / (size - 1) * ((sums - sums.mean(0)) ** 2).sum() / (3 * 2)
    rows = y.mean(1).var(ddof=1) / 3
    found = spread(y, groups=groups)
    assert found.examples == pytest.approx(columns)
    assert found.replicates == pytest.approx(max(0, rows - (1 - KEPT) * error))
    assert found.unbiased == pytest.approx(rows - error)
    assert found.quantile_examples(0.95) > stats.t(size - 1).ppf(0.975)  # of unequal sizes fewer
    even = spread(y, groups=np.arange(60) // 5)
    assert even.df_examples == pytest.approx(11)
    assert not even.plain


def test_a_mean_per_class_is_centred_inside_its_classes(sample):
    a, _, labels, groups = sample
    y = a[0].astype(float)
    sums = dict.fromkeys(groups, 0.0)
    for i in range(60):
        mine = labels == labels[i]
        count = len(set(groups[mine]))
        sums[groups[i]] += math.sqrt(count / (count - 1)) * (y[i] - y[mine].mean()) / (4 * mine.sum())  # fmt: skip
    expected = sum(value**2 for value in sums.values())
    assert spread(y, labels, groups).examples == pytest.approx(expected)


def test_without_an_error_a_group_counts_once():
    """All of a group may have been right for the same reason: conservative."""
    groups = np.repeat(np.arange(12), 10)
    t = stats.t(11).ppf(0.975)
    low, high = accuracy_interval(np.ones((2, 120)), groups=groups)
    assert (low, high) == (pytest.approx(12 / (12 + t**2)), 1.0)
    assert accuracy_interval(np.zeros(120), groups=groups)[1] == pytest.approx(1 - low)
    labels = np.arange(120) % 3
    assert accuracy_interval(np.ones(120), labels, groups)[0] < 0.8
    same = paired_difference(np.ones(120), np.ones(120), groups=groups)
    assert same.p == 1
    assert same.interval[1] > 0.25
    # One group tells nothing of others.
    low, high = accuracy_interval(np.arange(50) % 2, groups=np.zeros(50))
    assert high - low > 0.85


def test_groups_that_differ_as_one_are_not_mcnemars(sample):
    """Ten gained examples of one group are one gain."""
    a, b = np.ones(200), np.ones(200)
    b[:10] = 0
    assert paired_difference(a, b).p < 0.01
    assert paired_difference(a, b, groups=np.arange(200) // 10).p > 0.2
    close = equivalent(a, a, 0.1, groups=np.arange(200) // 50)
    assert not close.holds
    assert equivalent(a, a, 0.1).holds


def test_the_choice_of_a_setting_counts_groups():
    """An earlier epoch that is better on all of one group's examples isn't clearly better."""
    n = 40
    end, early = np.zeros(n, np.float32), np.zeros(n, np.float32)
    early[:10] = 1
    records = [Record(0.1, 0.0, [1, 2], np.stack([early, end]))]
    weights, groups = np.full(n, 1 / n), np.arange(n) // 10
    assert choose(records, weights, 1.5).epoch == 1
    assert choose(records, weights, 1.5, groups=groups).epoch == 2
    assert choose(records, weights, 1.5, groups=np.arange(n)) == choose(records, weights, 1.5)
    scores = np.stack([np.ones(n), early])
    assert clearly_beaten(scores).tolist() == [False, True]
    assert clearly_beaten(scores, groups=groups).tolist() == [False, True]
    one_off = np.stack([early, end])
    assert clearly_beaten(one_off).tolist() == [False, True]
    assert clearly_beaten(one_off, groups=groups).tolist() == [False, False]
    assert selected_score(np.ones(n), weights, np.zeros(n)) is None


def test_there_is_a_group_for_each_example():
    with pytest.raises(ValueError, match="60 examples"):
        spread(np.ones(60), groups=np.zeros(59))


def test_pairs_of_stratum_and_unit_are_those_of_two_columns(sample):
    *_, labels, groups = sample
    found = cells_of(labels, groups)
    pairs, place = np.unique(np.stack([labels, groups]), axis=1, return_inverse=True)
    for one, expected in zip(found, (*pairs, place.ravel()), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert [len(one) for one in cells_of(labels[:0], groups[:0])] == [0, 0, 0]
