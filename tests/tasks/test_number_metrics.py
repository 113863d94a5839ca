"""Metrics of numbers against scikit-learn and SciPy, output by output."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.number_formulas import constant, number_table
from tests.tasks import records
from tests.tasks.records import METRICS as TABLES
from tests.tasks.records import Record

METRICS = TABLES["numbers"]
ERRORS = {
    "r2": sk.r2_score,
    "mae": sk.mean_absolute_error,
    "rmse": sk.root_mean_squared_error,
}


def of_output(name, p, t, w):
    """The value of one output's known cells; ``w`` are counts for the correlations."""
    if name in ERRORS:
        if not len(t) or (name == "r2" and t.min() == t.max()):
            return np.nan
        return ERRORS[name](t, p, sample_weight=w)
    p, t = np.repeat(p, w.astype(int)), np.repeat(t, w.astype(int))
    if len(t) < 2 or t.min() == t.max():
        return np.nan
    if p.min() == p.max():
        return 0.0
    of = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name]
    return of(p, t).statistic


def theirs(name, p, t, w):
    found = []
    for k in range(t.shape[1]):
        kept = np.isfinite(t[:, k]) & (w > 0)
        found.append(of_output(name, p[kept, k].astype(np.float64), t[kept, k], w[kept]))
    found = np.array(found)
    return found[np.isfinite(found)].mean() if np.isfinite(found).any() else np.nan


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_numbers_is_theirs(name):
    rng = np.random.default_rng(len(name))
    metric = METRICS[name]
    for _ in range(200):
        record, t = records.numbers(rng)
        weights = records.weights(rng, len(t))
        if name not in ERRORS:
            weights[2] = rng.integers(1, 4, len(t))
        found = metric.resampled(record, t, weights)
        seed, draw = rng.integers(records.SEEDS), rng.integers(3)
        expected = theirs(name, record.predicted[seed], t, weights[draw])
        assert found[seed, draw] == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
        if np.isfinite(found[:, 0]).all():
            np.testing.assert_allclose(metric.value(record, t), found[:, 0], rtol=1e-12)


def test_means_over_outputs_are_scikit_learns():
    rng = np.random.default_rng(0)
    t = rng.normal(size=(80, 3)) * [1, 10, 100]
    p = (t + rng.normal(size=(80, 3))).astype(np.float32)
    for name, of in ERRORS.items():
        expected = of(t, p, multioutput="uniform_average")
        assert METRICS[name].value(Record(predicted=p[None]), t) == pytest.approx(expected)


def test_digits_survive_an_offset():
    """Years in days, say: a large mean beside a small spread."""
    rng = np.random.default_rng(1)
    t = 1e6 + rng.normal(size=(50, 1))
    p = (t + 0.5 * rng.normal(size=(1, 50, 1))).astype(np.float32)
    for name in METRICS:
        expected = theirs(name, p[0], t, np.ones(50))
        assert METRICS[name].value(Record(predicted=p), t) == pytest.approx(expected, rel=1e-9)


def test_a_constant_output_is_left_out_and_named():
    rng = np.random.default_rng(2)
    t = rng.normal(size=(30, 3))
    t[:, 1] = 0.1
    record = Record(predicted=rng.normal(size=(2, 30, 3)).astype(np.float32))
    assert constant(t) == [1]
    table = number_table(record.predicted, t)
    assert table["known"].tolist() == [30, 30, 30]
    for name in ("r2", "pearson", "spearman"):
        assert np.isnan(table[name]).tolist() == [[False, True, False]] * 2
        assert METRICS[name].value(record, t) == pytest.approx(np.nanmean(table[name], 1))
        alone = Record(predicted=record.predicted[..., [1]])
        assert METRICS[name].scores(alone, t[:, [1]]) is None
        with pytest.raises(IceprobeError, match="needs an output with two different values"):
            METRICS[name].value(alone, t[:, [1]])
    assert METRICS["mae"].missing(record, np.full((30, 3), np.nan)) == "MAE needs a known value"


def test_constant_predictions_correlate_with_nothing():
    t = np.arange(9.0)[:, None]
    record = Record(predicted=np.full((1, 9, 1), 0.1, np.float32))
    for name in ("pearson", "spearman"):
        assert METRICS[name].value(record, t).tolist() == [0]
        assert METRICS[name].scores(record, t).tolist() == [[0] * 9]


def test_predictions_that_are_exact_have_no_error_and_a_finite_slope():
    t = np.arange(8.0)[:, None]
    record = Record(predicted=t[None].astype(np.float32))
    for name, best in (("r2", 1), ("mae", 0), ("rmse", 0), ("pearson", 1), ("spearman", 1)):
        assert METRICS[name].value(record, t) == pytest.approx([best], abs=1e-15)
        assert METRICS[name].scores(record, t) == pytest.approx(np.full((1, 8), best), abs=1e-14)


def test_a_prediction_that_is_not_finite_is_far_off():
    rng = np.random.default_rng(3)
    t = rng.normal(size=(20, 1))
    good = (t + 0.1 * rng.normal(size=(20, 1))).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[t[:, 0].argmin() if value > 0 or np.isnan(value) else t[:, 0].argmax()] = value
        record = Record(predicted=np.stack([good, bad]))
        for metric in METRICS.values():
            whole, broken = metric.value(record, t)
            assert metric.sign * whole > metric.sign * broken
            assert np.isfinite(metric.scores(record, t)).all()
