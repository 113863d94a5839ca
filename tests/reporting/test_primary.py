"""Where the mean per class leads, all of the page, the tables and the advice are by it."""

import json
import re

import numpy as np
import pytest

import iceprobe
from iceprobe.reporting.page import render
from iceprobe.results import CurveRow, Predictions, compare_pair, leaderboard, to_markdown, to_rich
from iceprobe.results.building import scores_of
from iceprobe.results.curves import write_curves
from iceprobe.results.schema import Parameters
from iceprobe.results.sweeps import rank
from tests.reporting.conftest import make_result
from tests.reporting.test_page import section

# 360 images of class 0 and 40 of class 1. By top-1 the linear probe is best, by class EP4.
LABELS = np.repeat([0, 1], [360, 40])
RIGHT = {"linear": (350, 4), "ep4": (300, 36), "ep8": (340, 8)}


@pytest.fixture
def results(tmp_path) -> list:
    """Predictions made by hand."""
    found, rows = [], []
    for label, (first, second) in RIGHT.items():
        right = np.r_[np.arange(360) < first, np.arange(40) < second]
        predicted = np.where(right, LABELS, 1 - LABELS).astype(np.int32)
        predictions = Predictions(LABELS, np.stack([predicted] * 3))
        one, _ = make_result(label, 0.5)
        changed = {"primary": "mean_per_class", "metrics": scores_of(predictions, "classification")}
        counts = Parameters(pooling=90, classifier=10, total=100)
        changed |= {"classes": 2, "parameters": counts, "images": "same"}
        found.append(one.replaced(run=tmp_path, predictions=predictions, **changed))
        rows += [
            CurveRow(
                probe=label, seed=0, learning_rate=0.003, weight_decay=0, phase="select",
                epoch=epoch, train_loss=1, eval_accuracy=0.5,
            )
            for epoch in (1, 2)
        ]  # fmt: skip
    write_curves(tmp_path, rows)
    return found


def mean_per_class(label: str) -> float:
    first, second = RIGHT[label]
    return 100 * (first / 360 + second / 40) / 2


def test_sentence_tiles_table_and_charts_of_a_page_agree(results):
    page = render(results, images=0)
    ep, linear = (f"{mean_per_class(label):.1f}" for label in ("ep4", "linear"))
    assert (ep, linear) == ("86.7", "53.6")
    sentence = re.search(r"<h1>(.*?)</h1>", page)[1]
    assert sentence.startswith(
        f"EP4 reads {ep}% mean per class where a linear probe reads {linear}%"
    )
    tiles = re.findall(r'<div class="number">(.*?)</div>', page)
    assert tiles == [f"{number}<small>% per class</small>" for number in (linear, ep)]
    table = section(page, "leaderboard")
    headings = re.findall(r'<button type="button">(.*?)</button>', table)
    assert headings[1:3] == ["Per class %, headline", "Top-1 %"]
    first = table.split("<tbody>")[1].split("</tr>")[0]
    numbers = re.findall(r'<td class="n[^"]*" data-value="[^"]*">([\d.]+) ±', first)
    assert numbers[:2] == [ep, "84.0"]
    # The interval beside the first number is that number's.
    interval = leaderboard(results)[0].mean_per_class.interval
    assert f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" in first
    assert "Difference in mean per class accuracy on the same test images" in page
    specs = re.findall(r'id="chart-(\w+)">(.*?)</script>', page)
    titles = {name: set(re.findall(r'"title":"([^"]*)"', spec)) for name, spec in specs}
    assert "Mean per class accuracy, %" in titles["parameters"]
    assert "Mean per class accuracy on held-out images, %" in titles["accuracy"]
    points = [
        row for _, spec in specs if '"cost"' in spec
        for row in _rows(json.loads(spec)) if row.get("probe") == "EP4"
    ]  # fmt: skip
    assert points
    assert {round(row["score"], 6) for row in points} == {round(mean_per_class("ep4"), 6)}


def test_tables_orders_comparisons_and_advice_agree_with_it(results):
    by_class = ["ep4", "ep8", "linear"]
    assert [one.label for one in leaderboard(results)] == by_class
    assert [one.result.label for one in rank(results)] == by_class
    assert to_markdown(results).splitlines()[2].startswith("| ep4 | 86.7")
    assert to_rich(results).rows[0][:2] == ["ep4", "86.7 ± 0.0"]
    linear, ep4, _ = results
    assert compare_pair(ep4, linear).difference.mean == pytest.approx(
        (mean_per_class("ep4") - mean_per_class("linear")) / 100
    )
    assert compare_pair(ep4, linear).metric.title == "mean per class"
    (question,) = iceprobe.advise(results).questions
    assert question.encoders[0].best is ep4
    assert "accuracies are mean per class" in question.paragraph


def _rows(spec: object) -> list[dict]:
    if isinstance(spec, dict):
        own = spec["values"] if isinstance(spec.get("values"), list) else []
        return [row for row in own if isinstance(row, dict)] + _rows(list(spec.values()))
    return [row for part in spec for row in _rows(part)] if isinstance(spec, list) else []
