"""One confusion matrix of all pixels, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from iceprobe.dense.miou import (
    IGNORE,
    Counts,
    count,
    interval,
    iou,
    mean_iou,
    object_iou,
    resampled,
)

CLASSES = 5


@pytest.fixture
def pixels():
    """Truth and calls of 7 images: class 3 is never there, 4 is called but never true."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 0, 0, 1, 2], (7, 9, 9)).astype(np.uint8)
    called = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice([0, 1, 2, 4], truth.shape))
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    truth[2] = IGNORE
    return truth, called


def counted(truth, called):
    kept = truth != IGNORE
    return truth[kept], called[kept]


def test_confusion_and_iou_are_scikit_learns(pixels):
    found, (truth, called) = count(*pixels, CLASSES), counted(*pixels)
    labels = range(CLASSES)
    assert np.array_equal(found.confusion, confusion_matrix(truth, called, labels=labels))
    there = [0, 1, 2, 4]
    wanted = jaccard_score(truth, called, labels=there, average=None)
    np.testing.assert_allclose(iou(found.confusion)[there], wanted)
    assert np.isnan(iou(found.confusion)[3])
    assert wanted[-1] == 0 < wanted[0]
    assert mean_iou(found.confusion) == pytest.approx(wanted.mean())
    assert object_iou(found.confusion) == pytest.approx(jaccard_score(truth > 0, called > 0))


def test_counts_of_parts_are_those_of_the_whole(pixels):
    whole = count(*pixels, CLASSES)
    parts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    joined = Counts.joined([count(*(p[part] for p in pixels), CLASSES) for part in parts])
    for name in ("confusion", "hits", "truth", "called"):
        assert np.array_equal(getattr(joined, name), getattr(whole, name))
    for image, (truth, called) in enumerate(zip(*pixels, strict=True)):
        kept = counted(truth, called)
        if not kept[0].size:
            assert image == 2
            assert not (whole.truth[image] + whole.called[image]).any()
            continue
        of_image = confusion_matrix(*kept, labels=range(CLASSES))
        assert np.array_equal(whole.hits[image], of_image.diagonal())
        assert np.array_equal(whole.truth[image], of_image.sum(1))
        assert np.array_equal(whole.called[image], of_image.sum(0))


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
def test_bootstrap_draws_images(pixels):
    """Each draw is the mean IoU of a split in which image i lies as often as it was drawn."""
    means = resampled(count(*pixels, CLASSES), draws=20, seed=3)
    times = np.random.default_rng(3).multinomial(7, [1 / 7] * 7, size=20)
    for mean, repeats in zip(means, times, strict=True):
        truth, called = counted(*(np.repeat(p, repeats, 0) for p in pixels))
        labels = np.union1d(truth, called)
        wanted = jaccard_score(truth, called, labels=labels, average="macro")
        assert mean == pytest.approx(wanted)
    low, high = interval(means)
    assert means.min() <= low < mean_iou(count(*pixels, CLASSES).confusion) < high <= means.max()


def test_draws_in_chunks_are_the_same_draws(pixels, monkeypatch):
    counts = count(*pixels, CLASSES)
    whole = resampled(counts, draws=11)
    monkeypatch.setattr("iceprobe.dense.miou._CHUNK_CELLS", 7 * 4)
    assert np.array_equal(whole, resampled(counts, draws=11))


def test_nothing_to_count_is_no_score():
    nothing = count(np.full((2, 3, 3), IGNORE), np.zeros((2, 3, 3), int), CLASSES)
    assert mean_iou(nothing.confusion) == object_iou(nothing.confusion) == 0.0
    assert resampled(nothing, draws=3).tolist() == [0, 0, 0]
