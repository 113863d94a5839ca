"""Bags in the report: tokens at their places, or how few have the attention."""

import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.fitting.fitted import load_fitted
from iceprobe.reporting.bag_pictures import (
    attention_uri,
    curve_uri,
    evidence_uri,
    raster,
    tile_spacing,
)
from iceprobe.reporting.bag_view import chosen_bags, draw_bags
from iceprobe.reporting.pictures import colour
from iceprobe.store.split import StoredSplit
from tests.analysis.needles import SPACING, bags, fitted

NAMES = {"train": [f"t{i}" for i in range(40)], "test": [f"slide <b>{i}</b>" for i in range(24)]}


@pytest.fixture(scope="module")
def test():
    return bags(24, seed=1)


@pytest.fixture(scope="module")
def results(test):
    return fitted(bags(40, seed=0), test, ["ep2", "abmilp", "max"], names=NAMES)


def pixels(uri):
    """``(H, W, 4)`` of a picture in a page."""
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def test_tokens_lie_in_cells_a_tile_wide():
    coords = np.array([[100.0, 700], [100, 956], [612, 700]])  # 256 apart; down, right
    found = raster(coords, np.array([1.0, -2, 3]))
    np.testing.assert_array_equal(found, [[1, -2], [np.nan, np.nan], [3, np.nan]])
    assert tile_spacing(coords) == 256
    assert tile_spacing(coords[:1]) == 1
    assert raster(coords[:1], np.ones(1)).tolist() == [[1]]
    assert raster(np.zeros((3, 2)), np.array([1.0, -4, 2])).tolist() == [[-4]]
    # Two pieces of tissue, whose grids are 3 pixels apart where they meet, still have tiles of 256.
    left = np.stack(np.meshgrid(256 * np.arange(10), 256 * np.arange(10)), -1).reshape(-1, 2)
    right = left + np.array([3, 256 * 9 + 3])
    assert tile_spacing(np.concatenate([left, right]).astype(float)) == 256
    # Twelve pairs far from each other, the two of a pair 1 to 12 apart: no distance is frequent.
    pairs = [[1000.0 * i, 0] for i in range(1, 13)] + [[1000.0 * i, i] for i in range(1, 13)]
    assert tile_spacing(np.array(pairs)) == 6.5


def test_large_bags_show_the_strongest_token_of_a_cell():
    down, right = np.divmod(np.arange(400 * 300), 300)
    coords, values = 32.0 * np.stack([down, right], 1), np.full(400 * 300, 0.1)
    values[123 * 300 + 45] = -7
    found = raster(coords, values, most=100)
    assert max(found.shape) == 100
    assert (found == -7).sum() == 1
    height, width = (np.argwhere(found == -7)[0] + 0.5) / found.shape
    assert (height, width) == pytest.approx((123 / 400, 45 / 300), abs=0.02)


def test_colours_start_at_uniform_and_count_factors():
    coords = 10.0 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = pixels(attention_uri(coords, np.array([0.7, 0.25, 0.05, 0.0])))
    # 2.8, 1, 0.2 and 0 times uniform; full colour is at four times.
    levels = [round(99 * math.log(2.8) / math.log(4)) / 99, 0, 0, 0]
    expected = colour(np.array(levels)).round()
    np.testing.assert_array_equal(found.reshape(-1, 4)[:, :3], expected)
    assert (found[..., 3] == 255).all()
    holes = pixels(attention_uri(coords[[0, 3]], np.array([0.5, 0.5])))
    assert holes[..., 3].tolist() == [[255, 0], [0, 255]]


def test_red_speaks_for_and_blue_against():
    coords = 10.0 * np.array([[0, 0], [0, 1], [0, 2]])
    ((pro, contra, plain),) = pixels(evidence_uri(coords, np.array([3.0, -3, 0])))[..., :3].astype(
        int
    )
    assert pro[0] > pro[2] + 100
    assert contra[2] > contra[0] + 100
    assert np.ptp(plain) < 20
    nothing = pixels(evidence_uri(coords, np.zeros(3)))
    assert np.ptp(nothing[..., :3].astype(int)) < 20


def test_the_curve_is_the_sum_of_the_largest_weights():
    weights = np.array([0.1, 0.6, 0.05, 0.25])
    uri = curve_uri(weights)
    svg = base64.b64decode(uri.split(",", 1)[1]).decode()
    uniform, ours = (
        [tuple(map(float, point.split(","))) for point in line.split()]
        for line in re.findall(r'<polyline points="([^"]+)"', svg)
    )
    zero, top = 98, 6  # where 0 and 100% lie

    def heights(points):
        return [(zero - y) / (zero - top) for _, y in points]

    assert heights(ours) == pytest.approx([0.6, 0.85, 0.95, 1], abs=1e-3)
    assert heights(uniform) == pytest.approx([0.25, 0.5, 0.75, 1], abs=1e-3)
    assert "nan" not in base64.b64decode(curve_uri(np.ones(1)).split(",", 1)[1]).decode()


def test_some_bags_are_read_wrongly_and_the_others_rightly(results, test):
    result = results[0]
    predicted = result.predictions().predicted.copy()
    predicted[0] = np.where(np.isin(np.arange(24), [3, 5, 6, 8, 10]), 1 - test.labels, test.labels)
    object.__setattr__(result.predictions(), "predicted", predicted)
    rows, rule = chosen_bags(result, test.labels, ["0", "1"], 8)
    assert sorted(rows[:4].tolist()) == [3, 5, 6, 8]  # two of each class
    assert not set(rows[4:].tolist()) & {3, 5, 6, 8, 10}
    assert len(set(rows.tolist())) == 8
    assert rule == "the first 4 read wrongly by the first probe, the others rightly"


def test_pictures_are_of_the_probe_on_the_bag_alone_and_each_is_read_once(
    results, test, monkeypatch
):
    store, read = results[0].open_store, []
    tokens = StoredSplit.tokens

    def counted(self, rows, *args, **more):
        read.append(np.asarray(rows).tolist())
        return tokens(self, rows, *args, **more)

    monkeypatch.setattr(StoredSplit, "tokens", counted)
    ep, abmilp, largest = draw_bags(results, store, 6)
    assert [len(rows) for rows in read] == [1] * 6
    assert (ep.predictors, abmilp.predictors, largest.predictors) == (2, 1, 0)
    assert largest.remark == ""
    assert all(row.evidence and not row.attention for row in largest.rows)
    for gallery in (ep, abmilp):
        probe = load_fitted(gallery.result, store.shape)
        for (i,), row in zip(read, gallery.rows, strict=True):
            assert row.name == NAMES["test"][i]
            with torch.no_grad():
                x = torch.from_numpy(test.tokens[i])[None]
                weights = probe.attention(x)[0].mean(0).double().numpy()
                assert row.predicted == str(int(probe(x).argmax()))
            assert row.correct == (row.predicted == str(test.labels[i]))
            found = pixels(row.attention)
            cells = ((test.places[i] - test.places[i].min(0)) / SPACING).astype(int)
            assert (found[..., 3] > 0).sum() == len(weights)
            level = np.log((len(weights) * weights).clip(1)) / math.log(
                max(4, len(weights) * weights.max())
            )
            expected = colour((99 * level).round() / 99).round()
            ours = found[cells[:, 0], cells[:, 1], :3].astype(int)
            assert np.abs(ours - expected).max() <= 9  # a level more or less
            assert f"of {len(weights)} tokens effective" in row.concentration
            assert row.caption.startswith(row.predicted)


def test_the_page_has_bags_and_no_word_of_missing_grids(results, tmp_path):
    iceprobe.analyze(results, draws=5)
    page = iceprobe.report(results, tmp_path / "r.html", images=4).read_text()
    section = page.split('<section id="bags">')[1].split("</section>")[0]
    assert section.count('class="cells"') == 2 * (4 + 4) + 4  # max has evidence alone
    assert "&lt;b&gt;" in section
    assert "<b>1</b>" not in section
    assert '<section id="attention">' not in page
    disputes = page.split("Where two probes disagree")[1].split("</section>")[0]
    assert "Not shown, tokens of bags lie on no grid." in disputes
    assert "no maps" not in page


def test_curves_without_coordinates(test, tmp_path):
    results = fitted(bags(40, seed=0), test, ["ep2"], coords=False)
    page = iceprobe.report(results, tmp_path / "r.html", images=3).read_text()
    section = page.split('<section id="bags">')[1].split("</section>")[0]
    assert section.count("data:image/svg+xml") == 3
    assert "lie in no plane" in section


def test_an_analysis_of_bags_on_the_page(test, tmp_path):
    fitted(bags(40, seed=0), test, ["ep2"], output=tmp_path / "run")
    results = iceprobe.read_results(tmp_path / "run")
    given = fitted(bags(40, seed=0), test, ["ep2"])[0]
    results = [one.replaced(open_store=given.open_store) for one in results]
    (analysis,) = iceprobe.analyze(results, draws=5, output=tmp_path / "run")
    page = iceprobe.report(results, tmp_path / "r.html", images=2).read_text()
    section = page.split('<section id="analysis">')[1].split("</section>")[0]
    assert "Effective tokens" in section
    assert "MaxBoxAccV2" not in section
    assert f"{analysis.concentration['effective_tokens'].mean:,.1f}" in section
    assert "24 test bags" in section
