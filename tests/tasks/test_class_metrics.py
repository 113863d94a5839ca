"""Metrics of classes against scikit-learn, on the same records."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.class_formulas import class_table
from iceprobe.tasks.classification import MANY, Classification
from iceprobe.tasks.records import Arrays
from tests.reference.metrics import calibration_error
from tests.tasks import records
from tests.tasks.records import Record

METRICS = Classification.metrics


def theirs(name, logits, predicted, y, w):
    """scikit-learn's value of one seed, of examples with a weight."""
    kept = w > 0
    logits, predicted, y, w = logits[kept], predicted[kept], y[kept], w[kept]
    p = torch.from_numpy(logits.astype(np.float64)).softmax(-1).numpy()
    there = np.unique(y)
    if name == "top1":
        return sk.accuracy_score(y, predicted, sample_weight=w)
    if name == "mean_per_class":
        recall = sk.recall_score(
            y, predicted, labels=there, average=None, sample_weight=w, zero_division=0
        )
        return recall.mean()
    if name == "f1_macro":
        return sk.f1_score(y, predicted, average="macro", sample_weight=w)
    if name == "log_loss":
        return sk.log_loss(y, p, labels=range(p.shape[1]), sample_weight=w)
    if name == "ece":
        return calibration_error(p.max(1), predicted == y, weights=w)
    if len(there) < 2:
        return np.nan
    if name in ("auroc", "ap"):
        score = {"auroc": sk.roc_auc_score, "ap": sk.average_precision_score}[name]
        return np.mean([score(y == c, p[:, c], sample_weight=w) for c in there])
    how = {"labels": range(p.shape[1]), "sample_weight": w}
    return sk.cohen_kappa_score(
        y, predicted, weights="quadratic" if "quadratic" in name else None, **how
    )


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
@pytest.mark.parametrize("name", [name for name in METRICS if name != "top5"])
def test_a_metric_of_classes_is_scikit_learns(name):
    rng = np.random.default_rng(len(name))
    metric = METRICS[name]
    for _ in range(200):
        record, y = records.classes(rng)
        weights = records.weights(rng, len(y))
        found = metric.resampled(record, y, weights)
        seed, draw = rng.integers(records.SEEDS), rng.integers(3)
        one = record.logits[seed], record.predicted[seed]
        expected = theirs(name, *one, y, weights[draw])
        assert found[seed, draw] == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)
        if np.isfinite(found[:, 0]).all():
            np.testing.assert_allclose(metric.value(record, y), found[:, 0], rtol=0, atol=1e-12)


def test_one_against_the_rest_is_scikit_learns_own_mean():
    record, y = records.classes(np.random.default_rng(5), n=300)
    assert len(np.unique(y)) == record.logits.shape[-1] > 2
    p = torch.from_numpy(record.logits[0].astype(np.float64)).softmax(-1).numpy()
    expected = sk.roc_auc_score(y, p, multi_class="ovr")
    assert METRICS["auroc"].value(record, y)[0] == pytest.approx(expected, abs=1e-9)
    expected = sk.average_precision_score(y, p)
    assert METRICS["ap"].value(record, y)[0] == pytest.approx(expected, abs=1e-9)


def test_what_ranks_perfectly_is_exactly_one():
    y = np.arange(30) % 3
    record = Record(logits=np.eye(3, dtype=np.float16)[y][None] * 9, predicted=y[None])
    for name in ("auroc", "ap", "f1_macro", "kappa", "kappa_quadratic"):
        assert METRICS[name].value(record, y).tolist() == [1.0]


def test_examples_with_the_same_probability_tie():
    """Logits that differ by a constant have the same p, and count half."""
    logits = np.array([[[0, 1], [10, 11], [-7, -6], [3, 4]]], np.float16)
    record, y = Record(logits=logits), np.array([0, 1, 1, 0])
    assert METRICS["auroc"].value(record, y).tolist() == [0.5]


def test_a_table_of_classes_is_scikit_learns():
    rng = np.random.default_rng(1)
    y, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, (2, 60))
    found = class_table(predicted, y, 6)
    assert found["examples"].tolist() == [*np.bincount(y), 0, 0]
    for seed, mine in enumerate(predicted):
        expected = sk.precision_recall_fscore_support(y, mine, labels=range(4))
        for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
            np.testing.assert_allclose(found[name][seed, :4], values, atol=1e-12)
            assert np.isnan(found[name][seed, 4:]).all()


def test_one_class_alone_is_said():
    record, _ = records.classes(np.random.default_rng(0), n=9)
    y = np.zeros(9, int)
    for name in ("auroc", "ap", "kappa", "kappa_quadratic"):
        assert METRICS[name].scores(record, y) is None
        said = f"{METRICS[name].title} needs examples of two classes"
        assert METRICS[name].missing(record, y) == said
        with pytest.raises(IceprobeError, match=said):
            METRICS[name].value(record, y)
        with pytest.raises(IceprobeError, match=said):
            METRICS[name].needed_scores(record, y)
    for name in ("top1", "f1_macro", "log_loss", "ece"):
        assert METRICS[name].missing(record, y) is None


def test_of_many_classes_there_is_no_ranking_but_the_calibration():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 40, MANY + 1, generator=generator) * 3
    y = torch.randint(MANY + 1, (40,), generator=generator)
    record, y = Arrays(Classification().record(logits, y)), y.numpy()
    for name in ("auroc", "ap", "log_loss"):
        assert METRICS[name].scores(record, y) is None
        assert "can't be computed from what was kept" in METRICS[name].missing(record, y)
    p = logits.double().softmax(-1).amax(-1).numpy()
    expected = [calibration_error(*of) for of in zip(p, record.predicted == y, strict=True)]
    assert METRICS["ece"].value(record, y) == pytest.approx(expected, abs=1e-3)  # of halves
    assert not METRICS["auroc"].by_itself(21)
    assert METRICS["auroc"].by_itself(20)
    assert METRICS["kappa"].by_itself(MANY + 1)


def test_a_record_without_logits_has_what_needs_predictions_alone():
    record, y = records.classes(np.random.default_rng(0), n=20)
    bare = Record(predicted=record.predicted)
    for name in ("top1", "mean_per_class", "f1_macro", "kappa", "kappa_quadratic"):
        assert METRICS[name].value(bare, y) == pytest.approx(METRICS[name].value(record, y))
    for name in ("auroc", "ap", "log_loss", "ece"):
        assert METRICS[name].scores(bare, y) is None
        with pytest.raises(IceprobeError, match="fit it again"):
            METRICS[name].resampled(bare, y, np.ones((2, 20)))


def test_what_is_not_finite_does_not_score():
    """An example without finite logits is wrong wherever it counts; −∞ alone is a class that can't be."""
    y = np.array([0, 0, 1, 1, 2, 2])
    good = np.eye(3, dtype=np.float16)[y] * 4
    bad, impossible = good.copy(), good.copy()
    bad[0], impossible[impossible == 0] = np.nan, -np.inf
    record = Record(
        logits=np.stack([good, bad, impossible]),
        predicted=np.stack([y, np.where(np.arange(6) == 0, -1, y), y]),
    )
    for name, metric in METRICS.items():
        if name == "top5":
            continue
        whole, broken, sure = metric.value(record, y)
        assert np.isfinite(metric.scores(record, y)).all()
        assert metric.sign * whole > metric.sign * broken
        assert metric.sign * sure >= metric.sign * whole
    assert METRICS["log_loss"].scores(record, y)[1, 0] == pytest.approx(36.04, abs=0.01)
    assert METRICS["log_loss"].value(record, y)[2] == 0
