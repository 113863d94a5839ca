"""When a look is due, and the rule of its budget, on a clock that is a number."""

import random

import pytest

from iceprobe import IceprobeError
from iceprobe.integrations.schedule import Budget, Every, share_of


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("1 epoch", 1, "epoch"),
        ("5 epochs", 5, "epoch"),
        ("1,000 steps", 1000, "step"),
        (" 1Step ", 1, "step"),
    ],
)
def test_spellings(text, number, unit):
    every = Every.of(text)
    assert (every.number, every.unit) == (number, unit)


@pytest.mark.parametrize(
    "text", ["", "epoch", "0 epochs", "-1 steps", "1.5 epochs", "5 minutes", 5, 1.0, None]
)
def test_other_spellings_are_refused(text):
    with pytest.raises(IceprobeError, match=r"every='1 epoch' or every='1000 steps'"):
        Every.of(text)


def test_a_look_is_due_when_a_multiple_is_passed():
    every = Every.of("10 steps")
    counts = [0, 5, 10, 10, 19, 31, 39, 40]
    due = [False, False, True, False, False, True, False, True]
    assert [every.due(count) for count in counts] == due
    every.begin()  # resumed
    assert [every.due(count) for count in (27, 30)] == [False, True]
    every.begin()
    assert every.due(20)


def test_shares():
    assert [share_of(one) for one in (None, "5%", "0.05", 0.05, 1, "100 %")] == [
        None,
        0.05,
        0.05,
        0.05,
        1,
        1,
    ]
    for wrong in (0, -0.1, 5, "5", "101%", "five", "", True, float("nan")):
        with pytest.raises(IceprobeError, match=r"at_most='5%' or at_most=0\.05"):
            share_of(wrong)


def test_looks_stay_within_their_share_of_training():
    """The rule by hand: a look after T seconds of training, if all so far and one more are at most s * T."""
    rng = random.Random(0)
    for share in (0.05, 0.3, 1.0):
        now, looks, training, budget = 100.0, [], 0.0, Budget(share, 100.0)
        for _ in range(2000):
            step = rng.random()
            now, training = now + step, training + step
            expected = not looks or sum(looks) + looks[-1] <= share * training
            assert budget.fits(now) == expected
            assert budget.fits(now + budget.wait(now) + 1e-6)
            if expected:
                took = 4 + rng.random()
                looks.append(took)
                now += took
                budget.took(took)
                if len(looks) > 1:
                    assert (
                        sum(looks) <= share * training + 1
                    )  # as much longer as a look may have taken
        assert len(looks) > 3


def test_without_a_share_all_fit():
    budget = Budget(None, 0.0)
    budget.took(1e9)
    assert budget.fits(0.0)
    assert budget.wait(0.0) == 0
