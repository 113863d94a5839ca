"""One confusion matrix of all pixels, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from iceprobe.results.image_draws import interval, resampled
from iceprobe.tasks.miou import (
    IGNORE,
    Counts,
    count,
    iou,
    mean_iou,
    object_iou,
)
from iceprobe.tasks.pixel_formulas import abs_rel, class_iou, delta1, depth_rmse, depth_sums
from iceprobe.tasks.records import Arrays, joined
from iceprobe.tasks.segmentation import Segmentation

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


def recorded(truth, called):
    """What the task records of one member whose highest logits are at ``called``."""
    logits = torch.nn.functional.one_hot(torch.from_numpy(called.astype(int)), CLASSES).movedim(
        -1, 1
    )
    return Segmentation().record(logits[None].float(), torch.from_numpy(truth))


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
    found = joined([recorded(*(p[part] for p in pixels)) for part in parts], Segmentation.summed)
    both = Counts.of(Arrays(found), 0)
    for name in ("confusion", "hits", "truth", "called"):
        assert np.array_equal(getattr(both, name), getattr(whole, name))
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


def drawn(truth, called, **options):
    """Mean IoU of each draw of images, of one member."""
    record, metric, images = Arrays(recorded(truth, called)), Segmentation().metric(), len(truth)
    return resampled(
        lambda weights: metric.resampled(record, np.zeros(images), weights)[0], images, **options
    )


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
@pytest.mark.parametrize("groups", [None, [5, 5, 2, 2, 2, 9, 7]])
def test_bootstrap_draws_images_or_their_groups(pixels, groups):
    """Each draw is the mean IoU of a split in which image i lies as often as it, or its group, was drawn."""
    means = drawn(*pixels, groups=groups, draws=20, seed=3)
    codes = np.arange(7) if groups is None else np.array([1, 1, 0, 0, 0, 3, 2])
    units = codes.max() + 1
    times = np.random.default_rng(3).multinomial(units, [1 / units] * units, size=20)
    for mean, repeats in zip(means, times[:, codes], strict=True):
        truth, called = counted(*(np.repeat(p, repeats, 0) for p in pixels))
        labels = np.union1d(truth, called)
        wanted = jaccard_score(truth, called, labels=labels, average="macro") if len(truth) else 0
        assert mean == pytest.approx(wanted)
    low, high = interval(means)
    assert means.min() <= low < mean_iou(count(*pixels, CLASSES).confusion) < high <= means.max()


def test_draws_in_chunks_are_the_same_draws(pixels, monkeypatch):
    whole = drawn(*pixels, draws=11)
    monkeypatch.setattr("iceprobe.results.image_draws.CHUNK_CELLS", 7 * 4)
    assert np.array_equal(whole, drawn(*pixels, draws=11))


def test_nothing_to_count_is_no_score():
    nothing = count(np.full((2, 3, 3), IGNORE), np.zeros((2, 3, 3), int), CLASSES)
    assert mean_iou(nothing.confusion) == object_iou(nothing.confusion) == 0.0
    empty = np.full((2, 3, 3), IGNORE), np.zeros((2, 3, 3), int)
    assert drawn(*empty, draws=3).tolist() == [0, 0, 0]


def test_linearised_scores_have_the_value_as_their_mean_and_its_derivative(pixels):
    """Score i less the mean says how the value moves when image i weighs more."""
    truth, called = pixels
    record, metric = Arrays(recorded(truth, called)), Segmentation().metric()
    targets = np.zeros(7, int)
    (value,), (scores,) = metric.value(record, targets), metric.scores(record, targets)
    assert value == pytest.approx(mean_iou(record.confusion[0]))
    assert metric.mean(scores, targets) == pytest.approx(value)
    times = 1000
    for image in range(7):
        repeats = np.full(7, times)
        repeats[image] += 1
        hits, of_truth, of_called = (
            repeats @ of[0] for of in (record.hits, record.truth, record.called)
        )
        union = of_truth + of_called - hits
        there = union > 0
        moved = (hits[there] / union[there]).mean()
        slope = (moved - value) * 7 * times  # of the weight 1 + 1/times in place of 1
        assert slope == pytest.approx(scores[image] - value, rel=1e-2, abs=1e-6)


def test_depth_is_of_all_pixels_that_are_known():
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 10, (5, 4, 6))
    predicted = target * np.exp(0.3 * rng.normal(size=(2, 5, 4, 6)))
    target[rng.random(target.shape) < 0.2] = np.nan
    target[3] = np.nan
    target[0, 0, 0] = 0
    predicted[:, 1, 1, 1] = -1
    sums = depth_sums(predicted, target)
    weights = torch.from_numpy(np.array([[1.0] * 5, [2, 0, 1, 1, 1]]))
    for draw, repeats in enumerate(weights.long().tolist()):
        t = np.repeat(target, repeats, 0)
        for seed in range(2):
            p, known = np.repeat(predicted[seed], repeats, 0), t > 0
            p, kept = p[known], t[known]
            ratios = np.where(p > 0, np.maximum(p / kept, kept / p), np.inf)
            for expected, found in (
                ((ratios < 1.25).mean(), delta1(sums["within"], sums["pixels"], weights)),
                ((abs(p - kept) / kept).mean(), abs_rel(sums["relative"], sums["pixels"], weights)),
                (
                    np.sqrt(((p - kept) ** 2).mean()),
                    depth_rmse(sums["squares"], sums["pixels"], weights),
                ),
            ):
                assert found[seed, draw] == pytest.approx(expected, rel=1e-12)


def test_iou_of_each_class_and_the_share_of_pixels(pixels):
    record = Arrays(recorded(*pixels))
    truth, called = counted(*pixels)
    ones = torch.ones(1, 7, dtype=torch.float64)
    by_class = class_iou(record.hits, record.truth, record.called, ones)[0, 0]
    np.testing.assert_allclose(by_class, iou(record.confusion[0]))
    metric = Segmentation().metric("pixel_accuracy")
    assert metric.value(record, np.zeros(7, int)) == pytest.approx([(truth == called).mean()])
