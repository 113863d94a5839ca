"""The page of classes: calibration, curves and a table, against scikit-learn and the task's own metrics."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import t
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from iceprobe.reporting.page import render
from iceprobe.results import Predictions
from iceprobe.results.building import scores_of
from iceprobe.results.predictions import Logits
from iceprobe.results.ranking_curves import POINTS, curves_of
from iceprobe.results.ratios import class_ratios, ratio_of
from iceprobe.results.reliability import of_classes, of_tags
from iceprobe.results.scores import wilson
from iceprobe.tasks import get_task
from tests.reporting.conftest import make_result
from tests.reporting.test_page import section
from tests.reporting.test_tasks import cells, chart, values

N, CLASSES = 400, ["a", "<b>b</b>", "c", "d"]


def predictions(classes: int = 4, seeds: int = 2, skill: float = 1.5) -> Predictions:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, N)
    z = rng.normal(size=(seeds, N, classes)) + skill * np.eye(classes)[labels]
    z = z.astype(np.float16)
    return Predictions(labels, z.argmax(-1).astype(np.int32), outputs=[Logits(z)])


def results(*of: Predictions, classes: int = 4) -> list:
    found = []
    for label, one in zip(("ep4", "linear?input=mean", "knn"), of, strict=False):
        made, _ = make_result(label, 0.5)
        fields = {
            "metrics": scores_of(one, "classification"), "classes": classes, "images": "same",
            "class_names": CLASSES[:classes], "seeds": list(range(len(one.predicted))),
        }  # fmt: skip
        found.append(made.replaced(predictions=one, **fields))
    return found


def two_probes() -> list:
    return results(predictions(), predictions(skill=0.7))


@pytest.fixture(scope="module")
def page() -> str:
    return render(two_probes(), images=0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_bins_are_those_of_the_ece(ties, seeds):
    one = predictions(seeds=seeds)
    if ties:
        z = np.repeat(one.logits().values[:, ::4], 4, 1)
        one = replace(one, predicted=z.argmax(-1).astype(np.int32), outputs=[Logits(z)])
    metric = get_task("classification").metrics["ece"]
    for seed in range(seeds):
        alone = replace(
            one,
            predicted=one.predicted[[seed]],
            outputs=[Logits(one.logits().values[[seed]])],
        )
        bins = of_classes(alone)
        assert len(bins) == 15
        assert sum(b.cells for b in bins) == pytest.approx(N)
        mine = sum(b.cells * abs(b.confidence - b.share) for b in bins) / N
        assert mine == pytest.approx(metric.value(alone.record, alone.labels)[0], abs=1e-12)
        for each in bins:
            assert each.interval[0] <= each.share <= each.interval[1]


def test_the_bins_of_tags_are_those_of_their_ece():
    rng = np.random.default_rng(0)
    labels = (rng.random((N, 3)) < 0.3).astype(np.uint8)
    labels[::7, 1] = 255
    z = (rng.normal(size=(1, N, 3)) + labels).astype(np.float32)
    one = Predictions(labels, None, outputs=[Logits(z)])
    bins = of_tags(one)
    mine = sum(b.cells * abs(b.confidence - b.share) for b in bins) / sum(b.cells for b in bins)
    metric = get_task("multilabel").metrics["ece"]
    assert mine == pytest.approx(metric.value(one.record, labels)[0], abs=1e-12)


def test_of_many_classes_the_rest_is_in_the_sum():
    one = predictions(seeds=1)
    z = one.logits().values.astype(np.float64)
    order = np.argsort(-z, -1)[..., :2]
    sums = np.log(np.exp(z).sum(-1)).astype(np.float32)
    few = Logits(np.take_along_axis(z, order, -1), order.astype(np.int32), sums)
    some = of_classes(replace(one, outputs=[few]))
    for mine, whole in zip(some, of_classes(one), strict=True):
        assert mine.confidence == pytest.approx(whole.confidence, abs=1e-6)
        assert mine.share == pytest.approx(whole.share, abs=1e-9)


def test_the_ratio_of_one_seed_has_wilsons_interval():
    one = predictions(seeds=1)
    found = class_ratios(one.predicted, one.labels, 2)
    precision, recall, f1, _ = precision_recall_fscore_support(one.labels, one.predicted[0])
    assert [found[name].mean for name in ("precision", "recall", "f1")] == pytest.approx(
        [precision[2], recall[2], f1[2]]
    )
    n = int((one.labels == 2).sum())
    expected = wilson(recall[2], n, 1.959964, 0.95)
    assert found["recall"].interval == pytest.approx(expected, abs=2e-3)
    assert found["f1"].interval[0] < f1[2] < found["f1"].interval[1]
    sure = ratio_of(np.ones((1, 8)), np.ones((1, 8)))
    assert sure.interval == pytest.approx(wilson(1.0, 8, t.ppf(0.975, 7), 0.95))
    assert ratio_of(np.zeros((2, 8)), np.stack([np.zeros(8), np.ones(8)])) is None


def test_groups_widen_an_interval():
    right = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0] * 4, 10)[None]
    ones = np.ones_like(right)
    alone, grouped = ratio_of(right, ones), ratio_of(right, ones, np.arange(200) // 10)
    widths = [one.interval[1] - one.interval[0] for one in (alone, grouped)]
    assert widths[1] > 2.5 * widths[0]
    assert (alone.mean, grouped.mean) == pytest.approx((0.6, 0.6))


def test_a_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    positive = rng.random(5000) < 0.2
    scores = rng.normal(size=5000) + positive
    found = curves_of(scores, positive)
    assert found.auroc == pytest.approx(roc_auc_score(positive, scores))
    assert found.ap == pytest.approx(average_precision_score(positive, scores))
    assert len(found.roc) <= POINTS + 2
    false, true, _ = roc_curve(positive, scores)
    whole = {(round(x, 9), round(y, 9)) for x, y in zip(false, true, strict=True)}
    assert {(round(x, 9), round(y, 9)) for x, y in found.roc} <= whole
    assert np.trapezoid(found.roc[:, 1], found.roc[:, 0]) == pytest.approx(found.auroc, abs=2e-3)
    steps = np.diff(found.precision[:, 0]) @ found.precision[1:, 1]
    assert steps == pytest.approx(found.ap, abs=0.01)
    assert curves_of(scores, np.ones(5000, bool)) is None


def test_each_class_has_recall_precision_and_f1(page):
    one = predictions()
    tables = ["<table" + part for part in section(page, "classes").split("<table")[1:]]
    assert len(tables) == 1  # EP4 is the best
    rows = {row[0]: row for row in cells(tables[0])}
    assert list(rows) == sorted(CLASSES, key=lambda name: float(rows[name][4].split("|")[0]))
    measured = [precision_recall_fscore_support(one.labels, row) for row in one.predicted]
    precision, recall, f1, _ = np.mean(measured, 0)
    for i, name in enumerate(CLASSES):
        row = rows[name]
        assert row[1] == str((one.labels == i).sum())
        for cell, value in zip(row[2:], (recall[i], precision[i], f1[i]), strict=True):
            shown, interval = cell.split("|")
            assert shown == f"{100 * value:.1f}"
            low, high = map(float, interval.split(" to "))
            assert low < 100 * value < high
    assert "<b>b" not in page.split("<body>")[1]


def test_few_classes_have_a_curve_each_and_two_one_a_probe(page):
    one = predictions()
    rows = values(chart(page, "roc-0"), 1)
    series = list(dict.fromkeys(row["series"] for row in rows))
    p = softmax(one.logits().values[0].astype(np.float64), -1)
    assert series == [
        f"{name}  {100 * roc_auc_score(one.labels == i, p[:, i]):.1f}"
        for i, name in enumerate(CLASSES)
    ]
    two = [predictions(2, skill=skill) for skill in (2.0, 0.5, 1.0)]
    page = render(results(*two, classes=2), images=0)
    rows = values(chart(page, "precision-0"), 0)
    ap = [
        100 * average_precision_score(
            one.labels == 1, softmax(one.logits().values[0].astype(np.float64), -1)[:, 1]
        )
        for one in two
    ]  # fmt: skip
    names = [f"EP4  {ap[0]:.1f}", f"linear (mean)  {ap[1]:.1f}", f"k-NN  {ap[2]:.1f}"]
    assert {row["series"] for row in rows} == set(names)


def test_what_needs_logits_or_few_classes_is_left_out():
    one = predictions()
    page = render(results(replace(one, outputs=[])), images=0)
    assert '<section id="classes">' in page
    assert '<section id="curves">' not in page
    assert '<section id="calibration">' not in page
    many = predictions(60, seeds=1)
    made, _ = make_result("ep4", 0.5)
    changed = {"metrics": scores_of(many, "classification"), "classes": 60, "seeds": [0]}
    page = render([made.replaced(predictions=many, **changed)], images=0)
    assert '<section id="curves">' not in page
    assert (
        len(json.loads(re.search(r'id="chart-reliable-0-0">(.*?)</script>', page)[1])["layer"]) == 4
    )
    assert '<details class="maps"><summary>EP4 <span' in section(page, "classes")


def test_every_picture_of_a_class_page_is_there_without_a_name_of_another_task(page):
    body = page.split("<body>")[1]
    for name in ("tags", "numbers", "together", "predicted", "disputed"):
        assert f'<section id="{name}">' not in body
    for name in ("metrics", "classes", "curves", "calibration", "confusion", "leaderboard"):
        assert f'<section id="{name}">' in body
