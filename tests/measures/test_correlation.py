"""Measures beside what probes scored: coefficients, when there are none, which results count, the picture."""

import re

import numpy as np
import pytest
from scipy import stats

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.measures.schema import Measured
from iceprobe.reporting.measure_chart import measure_chart, write_measure_chart
from iceprobe.results.agreement import pearson, spearman
from iceprobe.results.schema import Files, Score, StoreReference
from tests.results.test_files import result

RNG = np.random.default_rng(0)


def measured(values, **fields):
    """A store a value: layer i of a backbone."""
    return [
        Measured(f"store{i}", None, f"timm:A?layer={i}", i, "folder:x", "train", "mean", 50, 50, 8,
                 {"rankme": float(value)}, **fields)
        for i, value in enumerate(values)
    ]  # fmt: skip


def scored(values, probe="linear", **fields):
    """A result a store."""
    return [
        result(
            probe, backbone=f"timm:A?layer={i}", layer=i, dataset="folder:x", images="same",
            metrics={"top1": Score.of([value])}, seeds=[], files=Files(),
            store=StoreReference(path=None, identity=f"store{i}"), **fields,
        )
        for i, value in enumerate(values)
    ]  # fmt: skip


def test_coefficients_are_those_of_scipy():
    x, y = RNG.normal(size=(2, 9))
    y[3] = y[5]
    assert float(spearman(x, y)) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert float(pearson(x, y)) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert np.isnan(pearson(np.ones(4), x[:4]))


def test_each_measure_is_correlated_with_each_probe_over_stores():
    x, y = np.arange(8.0) ** 2, np.array([0.1, 0.2, 0.4, 0.3, 0.5, 0.7, 0.6, 0.9])
    results = [*scored(y), *scored(1 - y, probe="knn")]
    first, second = iceprobe.measures.correlate(measured(x), results)
    assert (first.probe, second.probe, first.measure) == ("linear", "knn", "rankme")
    assert first.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert first.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert second.spearman.value == pytest.approx(-first.spearman.value)
    assert [(one.x, one.y) for one in first.points] == list(zip(x, y, strict=True))
    # The interval is scipy's percentile bootstrap over stores.
    expected = stats.bootstrap(
        (x, y), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False,
        n_resamples=2000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert first.spearman.interval == pytest.approx(tuple(expected), abs=0.05)
    again = iceprobe.measures.correlate(measured(x), results)
    assert again == [first, second]


def test_few_or_equal_stores_tell_nothing():
    (found,) = iceprobe.measures.correlate(measured([1, 2, 3]), scored([0.1, 0.2, 0.3]))
    assert (found.spearman, found.pearson, len(found.points)) == (None, None, 3)
    assert found.why == "3 stores tell nothing, take 4 or more"
    (found,) = iceprobe.measures.correlate(measured([2] * 5), scored([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert found.why == "rankme is the same on all of them"
    (found,) = iceprobe.measures.correlate(measured(range(5)), scored([0.5] * 5))
    assert found.why == "top1 is the same on all of them"
    assert iceprobe.measures.correlate(measured([1]), scored([0.1])) == []


def test_only_like_scores_of_measured_stores_count():
    y = [0.1, 0.2, 0.3, 0.4, 0.6]
    others = [*scored(y, protocol="paper"), *scored(y, adaptation="bitfit")]
    found = iceprobe.measures.correlate(measured(range(5)), [*scored(y), *others])
    assert [one.on.split(" · ")[1] for one in found] == ["heldout", "paper"]
    assert all(len(one.points) == 5 for one in found)
    found = iceprobe.measures.correlate(measured(range(3)), scored(y))
    assert len(found[0].points) == 3
    without = measured(range(5))
    without[0].values.clear()
    assert len(iceprobe.measures.correlate(without, scored(y))[0].points) == 4


def test_the_picture_has_a_panel_a_measure_and_a_point_a_store(tmp_path):
    stores = measured(range(6))
    for number, one in enumerate(stores):
        one.values["lidar"] = float(-number)
    results = [*scored(np.linspace(0.2, 0.7, 6)), *scored(np.linspace(0.3, 0.5, 6), probe="ep8")]
    found = iceprobe.measures.correlate(stores, results)
    spec = measure_chart(stores, results, found)
    panels = spec["concat"]
    assert [panel["title"]["text"] for panel in panels] == ["RankMe", "LiDAR"]
    rows = panels[1]["data"]["values"]
    assert [row["x"] for row in rows if row["probe"] == "EP8"] == [0, -1, -2, -3, -4, -5]
    assert [row["y"] for row in rows if row["probe"] == "EP8"] == pytest.approx(
        100 * np.linspace(0.3, 0.5, 6)
    )
    written = write_measure_chart(tmp_path / "m.svg", stores, results, found).read_text()
    assert written.startswith("<svg")
    words = re.findall(r">([^<>]+)</text>", written)
    assert {"RankMe", "LiDAR", "EP8", "linear", "Top-1 accuracy, %", "5"} <= set(words)
    assert "linear: ρ +1.00 [+1.00, +1.00]" in written
    assert "linear: ρ -1.00 [-1.00, -1.00]" in written
    assert (
        write_measure_chart(tmp_path / "m.png", stores, results, found).read_bytes()[1:4] == b"PNG"
    )
    assert (
        write_measure_chart(tmp_path / "m.pdf", stores, results, found).read_bytes()[:4] == b"%PDF"
    )
    with pytest.raises(IceprobeError, match=r"m.gif': it ends in .svg, .pdf, .png"):
        write_measure_chart(tmp_path / "m.gif", stores, results, found)
    with pytest.raises(IceprobeError, match="no two of the stores were read by one probe"):
        write_measure_chart(tmp_path / "m.svg", stores, results, [])
