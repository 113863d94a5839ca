"""A primary metric that is no percentage, and less of it is better: every place writes it as it is."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest

import iceprobe
from iceprobe.cli.compare import _table as compare_table
from iceprobe.reporting.charts import domain_of, scored
from iceprobe.reporting.finding import find
from iceprobe.reporting.page import render
from iceprobe.results import (
    CurveRow,
    Predictions,
    compare_pair,
    leaderboard,
    to_csv,
    to_markdown,
    to_rich_matrix,
    write_curves,
)
from iceprobe.results.building import scores_of
from iceprobe.results.curves import seed_means
from iceprobe.results.schema import Parameters, Score, SelectedScore
from iceprobe.results.statistics import score_interval
from iceprobe.results.tables import figure
from iceprobe.results.undertrained import far_below
from iceprobe.tasks import Metric, get_task
from tests.reporting.conftest import make_result
from tests.reporting.test_page import section
from tests.reporting.test_primary import _rows as rows_of
from tests.tasks.test_ordinal import ordinal  # noqa: F401  a fixture

LABELS = np.arange(400) % 7
# Label → distance of the first images, how many; the others are exactly right.
OFF = {"linear": (5, 360), "ep4": (4, 120), "ep8": (4, 200)}
MEAN = {label: distance * count / 400 for label, (distance, count) in OFF.items()}
RATES = {0.001: 2.5, 0.003: 1.5, 0.01: None}  # learning rate → distance; the last one diverges


@pytest.fixture
def results(ordinal, tmp_path) -> list:  # noqa: F811
    found, rows = [], []
    for label, (distance, count) in OFF.items():
        off = np.where(np.arange(400) < count, distance, 0)
        predicted = np.where(LABELS + off < 7, LABELS + off, LABELS - off).astype(np.int32)
        predictions = Predictions(LABELS, np.stack([predicted] * 3))
        one, _ = make_result(label, 0.5)
        changed = {
            "task": "ordinal",
            "primary": "distance",
            "metrics": scores_of(predictions, "ordinal"),
            "classes": 7,
            "parameters": Parameters(pooling=90, classifier=10, total=100),
            "images": "same",
        }
        found.append(one.replaced(run=tmp_path, predictions=predictions, **changed))
        for rate, value in RATES.items():
            lost = {"train_loss": math.nan} if value is None else {"train_loss": 1.0}
            rows += [
                CurveRow(
                    probe=label, seed=0, learning_rate=rate, weight_decay=0.0, phase="select",
                    epoch=epoch, eval_accuracy=value and value - 0.1 * epoch, **lost,
                )
                for epoch in ((1,) if value is None else (1, 14))
            ]  # fmt: skip
    write_curves(tmp_path, rows)
    return found


def test_one_function_writes_scores_by_their_metric():
    top1, distance = get_task("classification").metric(), Metric("d", "d", None, percent=False)
    assert figure(0.725, top1) == figure(0.725) == "72.5"
    assert figure(-0.725, distance) == "−0.725"
    assert figure(1.25, distance, signed=True) == "+1.250"
    assert figure(-1e-12, distance, signed=True) == figure(0.0, distance) == "0.000"


def test_its_interval_goes_beyond_one_and_is_that_of_a_mean(results):
    linear, _, _ = results
    low, high = linear.score.interval
    distances = np.repeat([5.0, 0.0], [360, 40])
    half = 1.96 * distances.std(ddof=1) / 20
    assert (low, high) == pytest.approx((MEAN["linear"] - half, MEAN["linear"] + half), abs=1e-3)
    assert (low, high) == pytest.approx(score_interval(distances))
    assert linear.metrics["exact"].interval[1] < 1  # a share: Wilson's


def test_a_difference_is_of_any_size_and_reads_as_it_is(results):
    linear, ep4, _ = results
    pair, back = compare_pair(ep4, linear), compare_pair(linear, ep4)
    assert pair.difference.mean == pytest.approx(MEAN["linear"] - MEAN["ep4"])  # better
    assert pair.shown.mean == pytest.approx(MEAN["ep4"] - MEAN["linear"])  # and less
    off = np.where(np.arange(400) < 360, 5.0, 0) - np.where(np.arange(400) < 120, 4.0, 0)
    half = 1.96 * off.std(ddof=1) / 20
    ends = (off.mean() - half, off.mean() + half)
    assert pair.difference.interval == pytest.approx(ends, abs=1e-3)
    assert back.difference.interval == pytest.approx((-ends[1], -ends[0]), abs=1e-3)
    assert pair.clear
    assert pair.p == back.p < 1e-9
    assert pair.difference.p_above(-0.01) < 1e-9
    found = find(results)
    assert (
        found.sentence
        == "EP4 reads 1.200 mean distance where a linear probe reads 4.500 mean distance."
    )
    assert found.strong == "−3.300"
    assert re.match(r"95% interval −3\.\d{3} to −3\.\d{3}, EP4 ", found.detail)


def test_tables_write_it_without_percent(results):
    by_distance = ["ep4", "ep8", "linear"]
    assert [one.label for one in leaderboard(results)] == by_distance
    head, _, first, *_ = to_markdown(results).splitlines()
    assert head.startswith("| probe | mean distance | 95% interval |")
    assert re.match(r"\| ep4 \| 1\.200 ± 0\.000 \| 1\.\d{3} to 1\.\d{3} \|", first)
    assert to_rich_matrix(results).title == "Mean distance"
    table = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert float(table[0]["distance"]) == pytest.approx(1.2)
    assert float(table[0]["exact"]) == pytest.approx(0.7)
    assert float(table[0]["low"]) < 1.2 < float(table[0]["high"])
    linear, ep4, _ = results
    compared = compare_table([compare_pair(ep4, linear)], None, ["", "linear"])
    titles = [column.title for column in compared.columns]
    assert titles == [
        "probe",
        "mean distance",
        "linear",
        "difference",
        "95% interval",
        "p",
        "clear",
    ]
    assert compared.rows[0][1:4] == ["1.200", "4.500", "−3.300"]


def test_advice_is_in_its_unit(results):
    (question,) = iceprobe.advise(results, margin=0.25).questions
    assert question.encoders[0].best.label == "ep4"
    text = question.paragraph
    assert "scores are mean distance (less is better)." in text
    assert "may lose less than 0.25." in text
    assert "ep4, the best of 2 attentive probes, reads 1.200 (95% interval 1." in text
    assert "linear 4.500, −3.300 (paired 95% interval −3." in text
    assert "%" not in text.replace("95% interval", "")
    assert "point" not in text


def test_page_tiles_tables_and_charts_are_in_its_unit(results):
    page = render(results, images=0)
    tiles = re.findall(r'<div class="number">(.*?)</div>', page)
    assert tiles == [f"{number}<small> mean distance</small>" for number in ("4.500", "1.200")]
    table = section(page, "leaderboard")
    assert re.findall(r'<button type="button">(.*?)</button>', table)[1] == "Mean distance"
    assert "in percent" not in table
    differences = section(page, "differences")
    assert "below 0 where the probe is better" in differences
    assert '<td class="n better">−3.300</td>' in differences
    specs = dict(re.findall(r'id="chart-(\w+)">(.*?)</script>', page))
    titles = {name: set(re.findall(r'"title":"([^"]*)"', spec)) for name, spec in specs.items()}
    assert "Mean distance" in titles["parameters"]
    assert "Mean distance on held-out images" in titles["accuracy"]
    assert "Mean distance when selecting" in titles["rates"]
    scores = {r["score"] for r in rows_of(json.loads(specs["parameters"])) if "probe" in r}
    assert sorted(scores) == pytest.approx(sorted(MEAN.values()))
    # The front goes down: the best of equal costs is the lowest.
    front = [
        r["score"] for r in rows_of(json.loads(specs["flops"])) if r.keys() == {"cost", "score"}
    ]
    assert front == sorted(front, reverse=True)
    # Of a rate whose member diverged nothing is known; its distance isn't 0.
    rates = {r["rate"]: r["score"] for r in rows_of(json.loads(specs["rates"]))}
    assert rates == pytest.approx({0.001: 1.1, 0.003: 0.1})


def test_a_diverged_member_scores_the_worst_or_nothing():
    rows = [
        CurveRow(
            probe="ep4", seed=seed, learning_rate=0.1, weight_decay=0.0, phase="select",
            epoch=epoch, train_loss=loss, eval_accuracy=value,
        )
        for seed, epoch, loss, value in (
            (0, 1, 1.0, 4.0), (0, 2, 1.0, 2.0), (1, 1, math.nan, None),
        )
    ]  # fmt: skip
    assert seed_means(rows, 10.0) == {(0.1, 0.0): {1: 7.0, 2: 6.0}}
    assert seed_means(rows, None) == {(0.1, 0.0): {1: 4.0, 2: 2.0}}


def test_a_score_that_is_far_worse_than_the_held_out_one_is_reported(ordinal):  # noqa: F811
    held, worse = (SelectedScore(mean=m, images=100, error=0.1, size=100) for m in (1.0, 2.0))
    (said,) = far_below(ordinal.metric(), worse, held)
    assert said.startswith("it reads 2.000 on test and 1.000 on the 100 images held out of train")
    assert "7.1 standard errors less" in said
    assert far_below(ordinal.metric(), held, worse) == []


def test_a_score_is_drawn_as_it_is_written():
    score = Score.of([0.1, 0.3], (0.15, 0.25))
    percentage, plain = get_task("classification").metric(), get_task("regression").metric()
    assert scored(score, percentage) == {
        "score": pytest.approx(20), "low": 15, "high": 25, "shown": "20.0 ± 14.1", "span": "15.0 to 25.0",
    }  # fmt: skip
    assert scored(Score.of([0.5]), plain) == {
        "score": 0.5, "low": 0.5, "high": 0.5, "shown": "0.500", "span": "–",
    }  # fmt: skip
    assert domain_of(percentage, [10.0, 99.0]) == [10 - 0.04 * 89, 100]
