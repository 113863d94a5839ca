"""Kendall's τ against scipy's, and its interval."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from iceprobe.results.agreement import agreement, kendall


@pytest.mark.parametrize("levels", [3, 1000])
def test_tau_is_scipys(levels):
    """Of few levels, with many ties."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, levels, (2, 20, 7))
    expected = [kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(kendall(x, y), expected, rtol=0, atol=1e-12)


def test_all_tied_agree_and_disagree_with_nothing():
    assert kendall([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0


def test_an_order_that_no_image_shakes():
    correct = np.repeat([[0.2], [0.5], [0.9]], 50, 1)
    same, reversed_ = agreement(correct, correct), agreement(correct, correct[::-1])
    assert (same.tau, same.interval) == (1, (1, 1))
    assert (reversed_.tau, reversed_.interval) == (-1, (-1, -1))


def test_the_interval_is_of_images_drawn_together():
    """Two backbones a coin apart: the order under y follows x image by image, so it never parts."""
    rng = np.random.default_rng(1)
    x = (rng.random((2, 200)) < 0.5).astype(float)
    assert agreement(x, x).interval[0] >= 0
    other = (rng.random((2, 200)) < 0.5).astype(float)
    low, high = agreement(x, other).interval
    assert (low, high) == (-1, 1)
    again = agreement(x, other)
    assert again == agreement(x, other)
    assert again.tau == kendalltau(x.mean(1), other.mean(1)).statistic
