"""Of every metric: linearised scores, and the metric of drawn examples, against the metric itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.linearised import resampled
from iceprobe.tasks.metrics import Metric
from tests.reference.metrics import mean_iou_influences
from tests.tasks.records import EVERY, MAKERS, METRICS, SEEDS, drawn, taken

FORMULAS = [(kind, name) for kind, name in EVERY if METRICS[kind][name].formula]
H = 1e-5


def made(kind, seed, n=40, coarse=True):
    """A record for which the metrics are defined."""
    rng = np.random.default_rng(seed)
    while True:
        record, targets = MAKERS[kind](rng, n, coarse)
        if all(one.scores(record, targets) is not None for one in METRICS[kind].values()):
            return record, targets


@pytest.mark.parametrize(("kind", "name"), FORMULAS)
def test_the_mean_of_linearised_scores_is_the_value(kind, name):
    metric = METRICS[kind][name]
    for seed in range(10):
        record, targets = made(kind, seed)
        scores, value = metric.scores(record, targets), metric.value(record, targets)
        assert scores.shape == (SEEDS, len(targets))
        np.testing.assert_allclose(metric.mean(scores, targets), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), FORMULAS)
def test_an_influence_is_how_the_value_moves_with_a_weight(kind, name):
    metric = METRICS[kind][name]
    n = 37  # no multiple of the bins of the calibration error, at whose borders it has a kink
    for seed in range(3):
        record, targets = made(kind, seed, n)
        scores, value = metric.scores(record, targets), metric.value(record, targets)
        up, down = (
            resampled(metric.formula, record, targets, 1 + sign * H * np.eye(n)) for sign in (1, -1)
        )
        slopes = n * (up - down) / (2 * H)
        scale = np.abs(slopes).max() + 1e-9
        assert scores - value[:, None] == pytest.approx(slopes, abs=2e-5 * scale)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_draw_is_the_metric_of_the_examples_as_often_as_drawn(kind, name, monkeypatch):
    metric = METRICS[kind][name]
    rng = np.random.default_rng(1)
    for seed in range(4):
        record, targets = made(kind, seed)
        counts = drawn(rng, len(targets), 8)
        found = metric.resampled(record, targets, counts)
        assert found.shape == (SEEDS, 8)
        for draw, count in enumerate(counts):
            again = taken(record, targets, np.repeat(np.arange(len(targets)), count))
            if metric.scores(*again) is None:
                assert np.isnan(found[:, draw]).all()
            else:
                np.testing.assert_allclose(found[:, draw], metric.value(*again), atol=1e-10)
    np.testing.assert_allclose(
        metric.resampled(record, targets, 0.3 * counts), found, rtol=1e-12, atol=1e-12
    )
    # Parts of draws, and of the cells inside of a formula, change nothing.
    monkeypatch.setattr("iceprobe.tasks.metrics._CHUNK_CELLS", 3 * len(targets))
    for file in ("rankings", "calibration", "number_formulas"):
        monkeypatch.setattr(f"iceprobe.tasks.{file}.CELLS", 2 * len(targets))
    monkeypatch.setattr("iceprobe.tasks.class_formulas._BLOCK", 2 * len(targets))
    np.testing.assert_allclose(metric.resampled(record, targets, counts), found, atol=1e-12)


# The calibration error has kinks where bins are right, and a bias: its bootstrap is no estimate.
@pytest.mark.parametrize(("kind", "name"), [one for one in FORMULAS if one[1] != "ece"])
def test_the_spread_of_influences_is_that_of_a_bootstrap(kind, name):
    n = 400
    metric = METRICS[kind][name]
    record, targets = made(kind, 7, n, coarse=False)
    influences = metric.scores(record, targets)
    draws = metric.resampled(record, targets, drawn(np.random.default_rng(0), n, 500))
    expected = np.nanstd(draws, 1)
    assert influences.std(1) / np.sqrt(n) == pytest.approx(expected, rel=0.15)


def test_those_of_mean_iou_are_the_ones_by_hand():
    for seed in range(20):
        record, targets = made("pixels", seed, 9)
        expected = mean_iou_influences(record.hits, record.truth, record.called)
        found = METRICS["pixels"]["miou"].scores(record, targets)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_scores_are_differentiated_whatever_the_caller_does():
    record, targets = made("numbers", 0)
    metric = METRICS["numbers"]["r2"]
    expected = metric.scores(record, targets)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            np.testing.assert_array_equal(metric.scores(record, targets), expected)


def test_a_share_is_a_mean_and_no_linearised_score():
    fractions = {(kind, name) for kind, name in EVERY if METRICS[kind][name].fraction}
    assert fractions == {("classes", name) for name in ("top1", "top5", "mean_per_class")}


def test_every_metric_says_what_it_is():
    for kind, name in EVERY:
        metric = METRICS[kind][name]
        assert metric.name == name
        assert 10 < len(metric.note) < 100
        assert metric.unit_of_target == (name in ("mae", "rmse"))
        low, high = metric.range
        assert (low, high) == (0, 1) or not metric.percent


def test_a_formula_of_ones_own_is_enough():
    """The harmonic mean of what was predicted, of examples that count."""

    def formula(record, targets, weights):
        wanted = torch.from_numpy(np.array(record.predicted, np.float64))
        return weights.sum(1) / (1 / wanted @ weights.T)

    metric = Metric("h", "harmonic mean", formula=formula, range=(0.0, None), percent=False)
    record, targets = made("numbers", 0)
    record.predicted = np.array([[1.0, 2.0, 4.0]])
    targets = np.zeros(3)
    assert metric.value(record, targets) == pytest.approx([3 / 1.75])
    # M = n/Σ 1/x_i: an influence is M − M²/x_i.
    m = 3 / 1.75
    assert metric.scores(record, targets)[0] == pytest.approx(2 * m - m**2 / np.array([1, 2, 4]))


def test_without_scores_or_a_formula_there_is_nothing():
    with pytest.raises(IceprobeError, match="fit it again"):
        Metric("d", "d").value(None, np.zeros(3))


def test_metrics_are_listed_without_torch():
    files = ["classification", "segmentation", "tag_metrics", "number_metrics"]
    code = "import sys; assert 'torch' not in sys.modules, 'torch'"
    imports = "".join(f"import iceprobe.tasks.{file}; " for file in files)
    subprocess.run([sys.executable, "-c", imports + code], check=True)
