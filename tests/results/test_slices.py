"""A metric by the values of columns, by hand."""

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.results.building import score_of
from iceprobe.results.predictions import Logits, Predictions
from iceprobe.results.slices import slices_of
from iceprobe.results.statistics import accuracy_interval

SITE = np.array([0] * 20 + [1] * 12 + [3] * 4)
LABELS = np.arange(36) % 2


def predictions(groups=None) -> Predictions:
    right = np.ones((2, 36), bool)
    right[0, :5] = right[1, :7] = False  # site a: 15 and 13 of 20; b: all; d: 1 and 1 of 4
    right[:, 33:] = False
    predicted = np.where(right, LABELS, 1 - LABELS).astype(np.int32)
    logits = np.zeros((2, 36, 2), np.float32)
    np.put_along_axis(logits, predicted[..., None], 1.0, 2)
    slices = {"site": (SITE, ["a", "b", "c", "d"]), "all": (np.zeros(36, np.int64), ["one"])}
    names = [f"{i}.png" for i in range(36)]
    return Predictions(LABELS, predicted, None, names, [Logits(logits)], groups, slices)


def test_slices_by_hand():
    site, whole = slices_of(predictions(), "classification")
    assert (site.column, site.metric) == ("site", "top1")
    a, b, d = site.values
    assert [one.value for one in site.values] == ["a", "b", "d"]  # no example has c
    assert [one.images for one in site.values] == [20, 12, 4]
    assert a.score.values == [0.75, 0.65]
    assert b.score.mean == 1
    assert b.score.interval == accuracy_interval(np.ones((2, 12)))  # Wilson's, no error seen
    assert b.score.interval[0] < 0.8
    assert d.score.values == [0.25, 0.25]
    assert "4 examples" in d.score.caveat
    assert site.worst == "a"  # d is worse, but of too few
    assert whole.worst is None
    assert whole.values[0].score == score_of(predictions(), "classification", "top1")


def test_slices_have_their_own_groups():
    groups = np.arange(36) // 2
    site, _ = slices_of(predictions(groups), "classification", "mean_per_class")
    assert [one.groups for one in site.values] == [10, 6, 2]
    b = site.values[1]
    assert b.score.interval[0] < accuracy_interval(np.ones((2, 12)))[0]
    assert "6 groups" in b.score.caveat
    assert site.worst is None  # of a alone, which isn't even the worst, the interval can be trusted


def test_a_metric_that_a_slice_lacks_is_said():
    one = predictions()
    labels = np.where(SITE == 1, 0, LABELS)
    one = Predictions(labels, one.predicted, None, None, one.outputs, None, one.slices)
    site, _ = slices_of(one, "classification", "auroc")
    assert site.values[1].score is None
    assert "examples of two classes" in site.values[1].why
    assert site.values[0].score.method == "jackknife"
    with pytest.raises(IceprobeError):
        slices_of(one, "classification", "map")


def test_rows_of_predictions_keep_everything_else():
    whole = predictions(np.arange(36)).tuned_to({"thresholds": np.array([0.3, 0.7])})
    kept = whole.rows(SITE == 1)
    assert kept.tuned["thresholds"].tolist() == [[0.3, 0.7]] * 2
    assert kept.names == [f"{i}.png" for i in range(20, 32)]
    assert kept.logits().values.shape == (2, 12, 2)
    assert kept.groups.tolist() == list(range(20, 32))
    assert kept.slices["site"][0].tolist() == [1] * 12


def test_a_slice_is_scored_at_the_thresholds_of_all():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    tags = rng.integers(0, 2, (36, 2)).astype(np.uint8)
    z = (2.0 * tags - 1 + 2 * rng.normal(size=(1, 36, 2))).astype(np.float32)
    slices = {"site": (SITE, ["a", "b", "c", "d"])}
    one = Predictions(tags, None, outputs=[Logits(z)], slices=slices)
    at = np.array([0.2, 0.8])
    (site,) = slices_of(one.tuned_to({"thresholds": at}), "multilabel", "f1_macro_best")
    for value, code in zip(site.values, (0, 1, 3), strict=True):
        mine = code == SITE
        called = 1 / (1 + np.exp(-z[0, mine])) >= at
        assert value.score.mean == pytest.approx(f1_score(tags[mine], called, average="macro"))
