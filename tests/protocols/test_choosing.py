"""The rule by which a setting and an epoch are chosen, on records made by hand."""

import math

import numpy as np
import pytest
from scipy.stats import sem

from iceprobe.protocols.choosing import Record, choose
from iceprobe.results.weighted import standard_error

N = 100


def weights(n: int = N) -> np.ndarray:
    return np.full(n, 1 / n)


def record(rate: float, *counts: int, decay: float = 0.0, **how) -> Record:
    """Right on the first so many of N images after each look, which are 10 epochs apart."""
    right = np.stack([np.arange(N) < count for count in counts]).astype(np.float32)
    epochs = [10 * (i + 1) for i in range(len(counts))]
    return Record(rate, decay, epochs, right, **how)


def chosen(*records: Record, errors: float = 1.0):
    choice = choose(records, weights(), errors)
    return choice.learning_rate, choice.weight_decay, choice.epoch


def test_the_last_epoch_decides_between_settings():
    # 0.1 has the best single look, by two images: 1.4 of their standard errors.
    assert chosen(record(0.1, 62, 50), record(0.3, 40, 60), errors=2.0) == (0.3, 0.0, 20)


def test_an_earlier_epoch_has_to_be_better_by_more_than_a_standard_error():
    # d is 1 on 9 images of 100: mean 0.09, standard error 0.0288, 3.1 of them.
    records = [record(0.1, 59, 50), record(0.3, 20, 30)]
    difference = np.arange(N) < 9
    ratio = 0.09 / sem(difference)
    assert ratio == pytest.approx(3.129, abs=1e-3)
    assert chosen(*records, errors=ratio - 0.01) == (0.1, 0.0, 10)
    assert chosen(*records, errors=ratio + 0.01) == (0.1, 0.0, 20)


def test_as_many_gained_as_lost_is_no_gain():
    """Two looks that are right on other images: the difference is noise, however many they are."""
    first = np.zeros((2, N), np.float32)
    first[0, :51], first[1, 50:] = 1, 1  # 51 right, then 50 others
    found = choose([Record(0.1, 0.0, [1, 2], first)], weights(), 1.0)
    assert found.epoch == 2


def test_of_equals_the_smallest_rate_the_largest_decay_and_the_last_epoch():
    records = [record(rate, 50, 50, decay=d) for rate in (3, 1, 2) for d in (0.1, 0.0)]
    assert chosen(*records) == (1, 0.1, 20)


def test_settings_that_lost_a_member_or_stopped_early_are_not_chosen():
    whole, better = record(0.1, 50, 50), record(0.3, 80, 80, lost=True)
    assert chosen(whole, better) == (0.1, 0.0, 20)
    assert chosen(record(0.1, 50, 50, lost=True), better) == (0.3, 0.0, 20)
    assert chosen(whole, record(0.3, 52, ended=True)) == (0.1, 0.0, 20)
    gone = record(0.1, 50, 0, lost=True, gone=True)  # right before it diverged
    assert choose([gone, gone], weights(), 1.0) is None


def test_what_an_image_counts_counts():
    """0.3 is right on more images, 0.1 on those that count."""
    counted = np.concatenate([np.full(10, 0.09), np.full(90, 0.1 / 90)])
    first, other = record(0.1, 10), record(0.3, 0)
    right = np.zeros((1, N), np.float32)
    right[0, 10:] = 1
    other = Record(0.3, 0.0, [10], right)
    assert choose([first, other], counted, 1.0).learning_rate == 0.1
    assert choose([first, other], weights(), 1.0).learning_rate == 0.3


def test_score_error_and_spread():
    found = choose([record(0.1, 40, 70), record(0.3, 50, 60), record(1.0, 10, 20)], weights(), 9)
    assert (found.tried, found.held_out.images, found.held_out.size) == (3, N, pytest.approx(N))
    assert found.held_out.mean == pytest.approx(0.7)
    assert found.best_minus_median == pytest.approx(0.7 - 0.6)
    assert found.held_out.error == pytest.approx(sem(np.arange(N) < 70))
    # Of weights 1/2, 1/4 and 1/4 the size is 1/(1/4 + 1/16 + 1/16).
    three = [Record(0.1, 0.0, [10], np.array([[1, 1, 0]], np.float32))]
    assert choose(three, np.array([0.5, 0.25, 0.25]), 1).held_out.size == pytest.approx(8 / 3)


def test_the_standard_error_of_a_weighted_mean():
    rng = np.random.default_rng(0)
    values = rng.random(30)
    assert standard_error(values, weights(30)) == pytest.approx(sem(values))
    assert standard_error(values[:1], weights(1)) == math.inf
    # Of two classes the mean of their means: its variance is the sum of theirs over 4, about.
    labels = np.repeat([0, 1], [2000, 500])
    values = rng.random(2500) < np.where(labels == 0, 0.9, 0.3)
    counted = np.where(labels == 0, 1 / 4000, 1 / 1000)
    draws = [
        (rng.binomial(2000, 0.9) / 2000 + rng.binomial(500, 0.3) / 500) / 2 for _ in range(4000)
    ]
    within = standard_error(values.astype(float), counted)
    assert within >= np.std(draws) * 0.97  # classes' own means count as spread: on the safe side
    assert within < np.std(draws) * 1.8


def test_the_chosen_setting_is_alone_where_no_other_is_as_good():
    assert choose([record(0.1, 60), record(0.3, 50)], weights(), 1.0).alone
    assert not choose([record(0.1, 60), record(0.3, 60)], weights(), 1.0).alone


def test_weight_decays_that_tie_leave_a_rate_alone():
    """Large probes try 0 and 0.1, which small rates can't tell apart."""
    both = [record(rate, right, decay=d) for rate, right in ((1, 50), (3, 60)) for d in (0, 0.1)]
    assert choose(both, weights(), 1.0).alone
    assert not choose([*both, record(9, 60)], weights(), 1.0).alone
    decays = [record(0.0, 60, decay=1e-3), record(0.0, 60, decay=1e-2)]  # of a solved probe
    assert not choose(decays, weights(), 1.0).alone
    assert choose([decays[0], record(0.0, 50, decay=1e-2)], weights(), 1.0).alone


def test_at_an_earlier_epoch_the_others_are_compared_there_as_well():
    equal = [record(rate, 40, 25) for rate in (0.1, 0.3, 1.0)]
    found = choose(equal, weights(), 1.0)
    assert (found.epoch, found.alone, found.best_minus_median) == (10, False, 0)
    found = choose([record(0.1, 50, 25), record(0.3, 30, 25), record(1, 20)], weights(), 1.0)
    assert (found.epoch, found.alone) == (10, True)
    assert found.best_minus_median == pytest.approx(0.5 - 0.3)
