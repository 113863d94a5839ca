"""Metrics as weighted means over examples, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from iceprobe.tasks import get_task

METRICS = get_task("classification").metrics


def test_both_accuracies_equal_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.06, 0.04])
    predicted = np.where(rng.random((3, 300)) < 0.7, labels, (labels + 1) % 5)
    right = predicted == labels
    for name, theirs in (("top1", accuracy_score), ("mean_per_class", balanced_accuracy_score)):
        ours = METRICS[name].mean(right, labels)
        assert ours == pytest.approx([theirs(labels, row) for row in predicted], abs=1e-12)
        assert METRICS[name].weights(labels).sum() == pytest.approx(1)


def test_all_right_is_exactly_one():
    for classes in range(1, 40):
        labels = np.arange(3 * classes) % classes
        right = np.ones((2, 2, 3 * classes))
        assert (METRICS["mean_per_class"].mean(right, labels) == np.ones((2, 2))).all()


def test_a_class_without_an_example_counts_nothing():
    # Class 0: 3 of 4 right; class 2: 0 of 1; class 1 has none.
    right = [True, True, True, False, False]
    assert METRICS["mean_per_class"].mean(right, [0, 0, 0, 0, 2]) == pytest.approx(0.375)
    assert METRICS["top1"].mean(right, [0, 0, 0, 0, 2]) == 0.6
