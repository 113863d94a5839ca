"""Which classes are taken for which, and where two probes disagree, against counts by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from iceprobe.results import Predictions
from iceprobe.results.confusion import ClassScore, Mistake, confusions
from iceprobe.results.disagreement import disagreement


def made(labels, *seeds):
    return Predictions(np.array(labels), np.array(seeds, np.int32))


def test_the_matrix_is_scikit_learns_mean_over_seeds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 300)
    labels[labels == 5] = 4  # a class without images, that answers name all the same
    predicted = rng.integers(0, 7, (3, 300))
    found = confusions(made(labels, *predicted), 7)
    expected = np.mean([confusion_matrix(labels, p, labels=range(7)) for p in predicted], 0)
    np.testing.assert_allclose(found.matrix(), expected)
    assert [one.images for one in found.mistakes] == sorted(
        (one.images for one in found.mistakes), reverse=True
    )
    assert 5 not in {one.index for one in found.worst(9)}
    assert len(found.worst(9)) == 6


def test_worst_classes_and_mistakes_by_hand():
    #                0  0  0  0  1  1  2  2  3
    first = made([0, 0, 0, 0, 1, 1, 2, 2, 3], [0, 0, 0, 1, 1, 0, 3, 3, 3])
    found = confusions(first, 5)
    assert found.mistakes == [Mistake(2, 3, 2.0), Mistake(0, 1, 1.0), Mistake(1, 0, 1.0)]
    assert found.worst(3) == [
        ClassScore(2, 2, 0.0, Mistake(2, 3, 2.0)),
        ClassScore(1, 2, 0.5, Mistake(1, 0, 1.0)),
        ClassScore(0, 4, 0.75, Mistake(0, 1, 1.0)),
    ]
    assert found.worst(9)[-1] == ClassScore(3, 1, 1.0, None)
    # Over two seeds the classes 0 and 1 are right three times in four; 0 has more images.
    both = confusions(made([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]), 2)
    assert [(one.index, one.accuracy) for one in both.worst(2)] == [(0, 0.75), (1, 0.75)]


def test_a_thousand_classes_take_no_matrix():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20_000), 2)
    found = confusions(made(labels, (labels + rng.integers(0, 2, 40_000)) % 20_000), 20_000)
    assert found.right.sum() + sum(one.images for one in found.mistakes) == pytest.approx(40_000)


def test_disagreement_by_hand():
    # Image:        0  1  2  3  4  5
    labels = np.array([0, 0, 1, 1, 0, 1])
    a = made(labels, [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1])  # p = 1, 1, ½, 0, ½, 1
    b = made(labels, [1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0])  # q = 0, ½, 0, 1, 1, 0
    found = disagreement(a, b, 3)
    assert found.only_a == pytest.approx((1 + 0.5 + 0.5 + 0 + 0 + 1) / 6)
    assert found.only_b == pytest.approx((0 + 0 + 0 + 1 + 0.5 + 0) / 6)
    assert found.neither == pytest.approx((0 + 0 + 0.5 + 0 + 0 + 0) / 6)
    # Alone right by the first seeds: 0, 1, 2, 5 for a, with margins 1, ½, ½, 1; 3 and 4 for b.
    assert found.for_a.tolist() == [0, 5, 1]
    assert found.for_b.tolist() == [3, 4]


def test_of_equally_clear_images_one_of_each_class_comes_first():
    labels = np.array([0, 0, 0, 1, 1, 2])
    right, wrong = made(labels, labels), made(labels, labels + 1)
    assert disagreement(right, wrong, 4).for_a.tolist() == [0, 3, 5, 1]
    assert disagreement(right, wrong, 4).for_b.tolist() == []
