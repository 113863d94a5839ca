"""Metrics of tags against scikit-learn, cell by cell that is known."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.tag_formulas import (
    best_thresholds,
    tag_table,
    without_negative,
    without_positive,
)
from tests.reference.metrics import best_f1, calibration_error
from tests.tasks import records
from tests.tasks.records import METRICS as TABLES
from tests.tasks.records import Record

METRICS = TABLES["tags"]


def sigmoid(logits):
    return torch.from_numpy(logits.astype(np.float64)).sigmoid().numpy()


def theirs(name, z, thresholds, t, w):
    """scikit-learn's value of one seed, of examples with a weight."""
    kept = w > 0
    z, t, w = z[kept], t[kept], w[kept]
    p, known = sigmoid(z), t != 255
    called = p >= (thresholds if name.endswith("best") else 0.5)
    cells = np.broadcast_to(w[:, None], t.shape)[known]
    if name == "auroc_micro":
        both = len(np.unique(t[known])) == 2
        return sk.roc_auc_score(t[known], z[known], sample_weight=cells) if both else np.nan
    if name.startswith("f1_micro"):
        some = (t[known] == 1).any()
        score = sk.f1_score(t[known], called[known], sample_weight=cells, zero_division=0)
        return score if some else np.nan
    if name == "exact_match":
        some = known.any(1)
        right = (np.where(known, called, 0) == np.where(known, t, 0)).all(1)
        return sk.accuracy_score(np.ones(some.sum()), right[some], sample_weight=w[some])
    if name == "ece":
        return calibration_error(p[known], t[known], weights=cells)
    found = []
    for tag in range(t.shape[1]):
        mine = known[:, tag]
        kinds = np.unique(t[mine, tag])
        if 1 not in kinds or (name == "auroc" and len(kinds) < 2):
            continue
        scores = (called if name.startswith("f1") else z)[mine, tag]
        score = {
            "map": sk.average_precision_score,
            "auroc": sk.roc_auc_score,
        }.get(name, sk.f1_score)
        found.append(score(t[mine, tag], scores, sample_weight=w[mine]))
    return np.mean(found) if found else np.nan


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_tags_is_scikit_learns(name):
    rng = np.random.default_rng(len(name))
    metric, undefined = METRICS[name], 0
    for _ in range(200):
        record, t = records.tags(rng)
        weights = records.weights(rng, len(t))
        found = metric.resampled(record, t, weights)
        seed, draw = rng.integers(records.SEEDS), rng.integers(3)
        one = record.logits[seed], record.thresholds[seed]
        expected = theirs(name, *one, t, weights[draw])
        assert found[seed, draw] == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)
        undefined += bool(np.isnan(expected))
        if np.isnan(found[:, 0]).any():
            assert np.isnan(found[:, 0]).all()
        else:
            np.testing.assert_allclose(metric.value(record, t), found[:, 0], rtol=0, atol=1e-12)
    assert undefined < 40
    assert (undefined > 0) == (name not in ("exact_match", "ece"))


def test_map_is_scikit_learns_macro_average():
    rng = np.random.default_rng(3)
    t = (rng.random((400, 5)) < [0.5, 0.2, 0.1, 0.05, 0.02]).astype(np.uint8)
    record = Record(logits=(rng.normal(size=(1, 400, 5)) + t).astype(np.float32))
    expected = sk.average_precision_score(t, record.logits[0], average="macro")
    assert METRICS["map"].value(record, t)[0] == pytest.approx(expected, abs=1e-9)
    expected = sk.roc_auc_score(t, record.logits[0], average="macro")
    assert METRICS["auroc"].value(record, t)[0] == pytest.approx(expected, abs=1e-9)


def test_tags_without_a_positive_are_named_and_left_out():
    rng = np.random.default_rng(0)
    t = rng.integers(0, 2, (40, 4)).astype(np.uint8)
    t[:, 1], t[:, 3] = 0, 1
    t[5:, 1] = 255
    record = Record(logits=rng.normal(size=(2, 40, 4)).astype(np.float32))
    assert (without_positive(t), without_negative(t)) == ([1], [3])
    table = tag_table(record.logits, t)
    assert table["known"].tolist() == [40, 5, 40, 40]
    assert table["positive"].tolist() == (t == 1).sum(0).tolist()
    for name, of in (("ap", "map"), ("auroc", "auroc"), ("f1", "f1_macro")):
        assert np.isnan(table[name][:, 1]).all()
        assert np.isnan(table[name][:, 3]).all() == (name == "auroc")
        np.testing.assert_allclose(
            METRICS[of].value(record, t), np.nanmean(table[name], 1), atol=1e-12
        )


def test_undefined_is_said():
    record = Record(logits=np.zeros((1, 6, 2), np.float32))
    nothing = np.zeros((6, 2), np.uint8)
    for name in ("map", "auroc", "auroc_micro", "f1_macro", "f1_micro"):
        assert METRICS[name].scores(record, nothing) is None
        with pytest.raises(IceprobeError, match=f"{METRICS[name].title} needs a"):
            METRICS[name].value(record, nothing)
    assert METRICS["exact_match"].value(record, nothing).tolist() == [0]
    unknown = np.full((6, 2), 255, np.uint8)
    assert METRICS["exact_match"].missing(record, unknown) == (
        "exact match needs an example with a known tag"
    )
    assert METRICS["ece"].missing(record, unknown) == "calibration error needs a known tag"
    some = nothing.copy()
    some[0] = 1
    assert "fit it again" in METRICS["f1_macro_best"].missing(record, some)


def test_an_unknown_cell_counts_nowhere():
    rng = np.random.default_rng(2)
    record, t = records.tags(rng, n=30)
    t[rng.random(t.shape) < 0.3] = 255
    other = Record(logits=np.where(t == 255, np.nan, record.logits), thresholds=record.thresholds)
    for metric in METRICS.values():
        np.testing.assert_array_equal(metric.value(record, t), metric.value(other, t))
        np.testing.assert_array_equal(metric.scores(record, t), metric.scores(other, t))


def test_a_logit_that_is_no_number_is_wrong():
    t = np.tile(np.array([[1, 0], [0, 1]], np.uint8), (10, 1))
    good = np.where(t, 2.0, -2.0).astype(np.float32)
    bad, sure = good.copy(), np.where(t, np.inf, -np.inf)
    bad[:3] = np.nan
    record = Record(logits=np.stack([good, bad, sure]), thresholds=np.full((3, 2), 0.4))
    for metric in METRICS.values():
        whole, broken, perfect = metric.value(record, t)
        assert metric.sign * whole > metric.sign * broken
        assert perfect == metric.range[int(metric.higher_is_better)]
        assert np.isfinite(metric.scores(record, t)).all()


def test_no_threshold_has_a_higher_f1_than_the_best():
    rng = np.random.default_rng(4)
    for _ in range(200):
        record, t = records.tags(rng)
        found = best_thresholds(record.logits, t)
        table = tag_table(record.logits, t, found)["f1"]
        assert ((found > 0) & (found < 1)).all()
        for seed, z in enumerate(record.logits):
            for tag in range(t.shape[1]):
                known, positive = t[:, tag] != 255, t[:, tag] == 1
                if not positive.any():
                    assert found[seed, tag] == 0.5
                    continue
                best = best_f1(sigmoid(z[:, tag])[known], positive[known])
                assert table[seed, tag] == pytest.approx(best, abs=1e-12)


def test_of_equal_thresholds_the_nearest_to_a_half_is_taken():
    logits = np.log(np.array([0.1, 0.2, 0.8, 0.9]) / np.array([0.9, 0.8, 0.2, 0.1]))
    z = logits.astype(np.float32)[None, :, None]

    def best(*tags):
        return best_thresholds(z, np.array(tags, np.uint8)[:, None])[0, 0]

    assert best(0, 0, 1, 1) == 0.5
    assert best(0, 1, 1, 1) == pytest.approx(0.15, abs=1e-6)
    assert best(0, 0, 0, 1) == pytest.approx(0.85, abs=1e-6)
    assert best(1, 1, 1, 1) == pytest.approx(0.05, abs=1e-6)
    assert best(0, 0, 0, 0) == 0.5
