"""The pure parts of the study of selection: each rule, and regrets, on curves made by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import selection_study as study

IMAGES = 20


def seen(right, loss=None, average=None) -> study.Seen:
    """Settings × epochs of how many of 20 images are right, the first ones."""
    right = np.asarray(right)
    each = (np.arange(IMAGES) < right[..., None]).astype(float)
    loss = np.zeros(right.shape) if loss is None else np.asarray(loss, float)
    average = each[:, -1] if average is None else np.arange(IMAGES) < np.asarray(average)[:, None]
    return study.Seen(
        each, np.repeat(loss[..., None], IMAGES, -1), average, np.arange(1, right.shape[1] + 1)
    )


# Three rates, four epochs. The maximum is setting 0 at epoch 2; the best end is setting 1.
CURVES = [[10, 16, 14, 12], [9, 12, 13, 15], [5, 9, 10, 11]]


@pytest.mark.parametrize(
    ("rule", "pick"),
    [
        ("best of rate × epoch (before)", (0, 2)),
        ("last epoch", (1, 4)),
        ("last, unless earlier by 1 SE", (1, 4)),  # one image of 20 is one standard error
        ("last quarter's mean", (1, 4)),
        ("last, smoothed over rates", (1, 4)),
        ("no selection: the middle rate", (1, 4)),
    ],
)
def test_a_rule_picks_setting_and_epoch(rule, pick):
    assert study.RULES[rule](seen(CURVES)) == pick


def test_an_earlier_epoch_is_taken_where_it_is_clearly_better():
    clear = [[10, 20, 14, 12], *CURVES[1:]]  # 5 images of 20 more: se 0.099, 2.5 of them
    assert study.RULES["last, unless earlier by 2 SE"](seen(clear)) == (0, 2)
    two = [[10, 17, 14, 12], *CURVES[1:]]  # 2 images of 20: 0.1, se 0.069
    assert study.RULES["last, unless earlier by 1 SE"](seen(two)) == (0, 2)
    assert study.RULES["last, unless earlier by 2 SE"](seen(two)) == (1, 4)


def test_ties_go_to_the_earliest_epoch_and_the_smallest_rate():
    assert study.best_of_all(seen([[8, 9, 10], [10, 9, 9], [10, 9, 10]])) == (1, 1)
    assert study.last(seen([[8, 9, 10], [10, 9, 9], [10, 9, 10]])) == (0, 3)


def test_rules_by_loss_and_by_neighbours():
    flat = [[10, 10], [10, 10], [10, 10]]
    assert study.by_loss(seen([[12, 12], [11, 11]], [[0, 0.5], [0, 0.4]]))[0] == 1
    assert study.ties_by_loss(seen(flat, [[0, 0.5], [0, 0.4], [0, 0.6]]))[0] == 1
    assert study.ties_by_loss(seen([[11, 11], *flat[1:]], [[0, 9], [0, 1], [0, 1]]))[0] == 0
    # (11+2·11+4)/… at the ends counts itself twice: 11, 4 → 8.7; 4, 12, 12 → 10; 12, 12 → 12.
    assert study.smoothed(seen([[0, 13], [0, 4], [0, 11], [0, 12]]))[0] == 3
    assert study.middle_of_good(seen([[0, 9], [0, 15], [0, 16], [0, 16], [0, 2]]))[0] == 2
    assert study.averaged(seen(flat, average=[3, 7, 5])) == (1, study.AVERAGE)


def test_regret_is_against_the_setting_that_is_best_at_the_end_over_the_draws():
    def draw(test, held):
        one = seen(held)
        fold, label = np.arange(IMAGES) // 10, np.zeros(IMAGES, int)
        return study.Draw(one, fold, label, np.array(test), np.array([2, 4]), np.array([0.1, 0.2]))

    draws = [
        draw([[0.5, 0.7], [0.6, 0.6]], [[5, 5, 5, 5], [9, 9, 9, 9]]),
        draw([[0.5, 0.5], [0.6, 0.6]], [[5, 5, 5, 5], [4, 4, 4, 4]]),
    ]
    # Means at the end: 0.6 and 0.6, the first setting's; picked are the second and the first.
    assert study.regrets(draws, study.last, "folds") == pytest.approx([10.0, 0.0])
    # Epoch 3 lies between those that were looked at on the test images: the better of the two.
    assert draws[0].tested((0, 3.0)) == pytest.approx(70.0)
    assert draws[0].tested((0, 2.0)) == pytest.approx(50.0)
    assert draws[0].tested((1, study.AVERAGE)) == pytest.approx(20.0)
    # Two folds of ten images, two tenths of five each.
    assert len(study.regrets(draws, study.last, "tenth")) == 8
    row = study.row([np.array([1.0, 3.0]), np.array([0.0, 0.0])])
    assert row == pytest.approx({"mean": 1, "sd": np.sqrt(0.5), "worst case": 2, "worst": 3})


def test_tenths_halve_a_fold_class_by_class():
    label = np.array([0, 0, 1, 1, 1, 0])
    first, second = study.tenths(np.arange(6), label)
    assert sorted([*first, *second]) == list(range(6))
    assert np.bincount(label[first]).tolist() == [2, 2]
    assert len(study.tenths(np.array([0, 2]), label)) == 1  # one image a class can't be halved
