"""From a store with depth maps to numbers, files, a picture and a page."""

import csv
import html
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.dense import Depth, build, read_segmentations
from iceprobe.dense.numbers_picture import coloured
from iceprobe.reporting.dense_text import difference, floor
from iceprobe.reporting.segment_page import headline
from iceprobe.results import Score
from iceprobe.results.dense import Difference
from iceprobe.store import extract, extract_in_memory
from tests.dense.depths import GROUPS, deep
from tests.reporting.test_layout import measured
from tests.reporting.test_page import browser
from tests.store.conftest import SIDE, make_backbone

QUICK = dict(seeds=2, epochs=12, batch_size=8, learning_rates=[1e-2, 1e-1], progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = extract(make_backbone(), deep(), tmp_path_factory.mktemp("f"), batch_size=16).path
    return iceprobe.Store.open(path, dataset=deep())


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "depth"
    return iceprobe.segment(store, ["linear", "ep2"], output=folder, **QUICK), folder


def predicted(probe, split) -> np.ndarray:
    """Predictions of the module upsampled by torch, ``(n, S, S)``."""
    with torch.no_grad():
        cells = probe(split.patches(range(len(split)), dtype=torch.float32))
    cells = cells.transpose(1, 2).reshape(len(split), 1, 4, 4)
    return F.interpolate(cells, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0].numpy()


def plain_metrics(p, t) -> dict[str, float]:
    """Of predictions and targets of any shape, NaN where a target isn't known."""
    known = ~np.isnan(t)
    p, t = p[known].astype(np.float64), t[known].astype(np.float64)
    with np.errstate(divide="ignore"):
        within = (p > 0) & (np.maximum(p / t, t / p) < 1.25)
    return {
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "delta1": within.mean(),
        "abs_rel": np.mean(np.abs(p - t) / t),
    }


def test_numbers_are_those_of_the_fitted_modules(fitted, store):
    results, _ = fitted
    truth = deep().splits["test"].maps
    train = deep().splits["train"].maps
    assert np.array_equal(store["test"].depths(range(30)).numpy(), truth, equal_nan=True)
    floor_ = plain_metrics(np.full_like(truth, np.nanmean(train.astype(np.float64))), truth)
    for result in results:
        assert isinstance(result, Depth)
        each = [plain_metrics(predicted(probe, store["test"]), truth) for probe in result.probes]
        for name, score in (
            ("rmse", result.rmse), ("delta1", result.delta1), ("abs_rel", result.abs_rel)
        ):  # fmt: skip
            assert score.values == pytest.approx([one[name] for one in each], rel=1e-6)
            assert score.interval[0] < score.mean < score.interval[1]
            assert getattr(result.training_mean, name) == pytest.approx(floor_[name], rel=1e-6)
        assert result.rmse.mean < 0.6 * result.training_mean.rmse
        assert result.mean == pytest.approx(np.nanmean(train.astype(np.float64)), rel=1e-6)
        assert result.deviation == pytest.approx(np.nanstd(train.astype(np.float64)), rel=1e-6)
        assert result.pixels == np.isfinite(truth).sum() < result.all_pixels == truth.size
        assert (result.unit, result.number) == ("m", "<b>depth</b>")
    linear, ep = results
    assert linear.beside is None
    assert ep.beside.mean == pytest.approx(ep.rmse.mean - linear.rmse.mean)
    assert linear.parameters == store.dim + 1
    assert ep.parameters == store.dim + 1 + 2 * store.dim + 2 * store.dim


def test_the_rate_with_the_least_error_on_held_out_images_is_taken(store):
    """RMSE is better low: a rate that learns nothing is never chosen."""
    rates = [1e-7, 1e-1]
    (one,) = iceprobe.segment(store, ["linear"], **QUICK | {"learning_rates": rates})
    assert one.selection.learning_rate == 1e-1
    assert one.selection.best_minus_median > 0


def test_what_stands_at_unknown_pixels_changes_no_number(fitted):
    results, _ = fitted
    for garbage in (0.0, -3.0, np.inf):
        store = extract_in_memory(make_backbone(), deep(garbage), batch_size=16)
        for one, first in zip(
            iceprobe.segment(store, ["linear", "ep2"], **QUICK), results, strict=True
        ):
            for name in ("rmse", "delta1", "abs_rel", "training_mean", "mean", "pixels"):
                assert getattr(one, name) == getattr(first, name), (garbage, name)


def test_intervals_draw_groups_where_there_are_any(fitted, store, tmp_path):
    results, _ = fitted
    grouped = store.grouped_by("scene")
    found = iceprobe.segment(grouped, ["linear", "ep2"], **QUICK)
    truth, codes = deep().splits["test"].maps, np.arange(30) % GROUPS
    rng = np.random.default_rng(0)
    times = rng.multinomial(GROUPS, [1 / GROUPS] * GROUPS, size=2_000)[:, codes]
    draws = []
    for one in found:
        assert one.group == "scene"
        assert one.rmse.caveat == "the interval can't be trusted: it is over 6 groups"
        of_seeds = []
        for probe in one.probes:
            p = predicted(probe, store["test"]).astype(np.float64)
            squares = np.where(np.isnan(truth), 0, (p - np.nan_to_num(truth)) ** 2).sum((1, 2))
            pixels = np.isfinite(truth).sum((1, 2))
            of_seeds.append(np.sqrt((times @ squares) / (times @ pixels)))
        draws.append(np.mean(of_seeds, 0))
        assert one.rmse.interval == pytest.approx(np.quantile(draws[-1], [0.025, 0.975]), rel=1e-6)
    paired = np.quantile(draws[1] - draws[0], [0.025, 0.975])
    assert found[1].beside.interval == pytest.approx(paired, abs=1e-6)
    assert results[0].rmse.caveat is None
    assert results[0].group is None
    assert "(paired over groups of 'scene')" in difference(found[1])
    page = iceprobe.report(found, tmp_path / "r.html").read_text()
    assert "The interval can&#39;t be trusted: it is over 6 groups." in page
    assert "bootstraps over groups of &#39;scene&#39;" in page


def test_files_say_the_same(fitted, store):
    results, folder = fitted
    assert {path.name for path in folder.iterdir()} == {
        "dense.json", "dense.csv", "request.json", "segmentation.png", "probes",
    }  # fmt: skip
    document = json.loads((folder / "dense.json").read_text())
    assert document["task"] == "depth"
    again = read_segmentations(folder)
    assert [one.model_dump() for one in again] == [one.model_dump() for one in results]
    with (folder / "dense.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["probe"], row["metric"], row["unit"]) for row in rows] == [
        (one.probe, name, "m" * (name == "rmse"))
        for one in results
        for name in ("rmse", "delta1", "abs_rel")
    ]
    for row, one in zip(rows[::3], results, strict=True):
        assert float(row["value"]) == pytest.approx(one.rmse.mean, rel=1e-5)
        assert float(row["low"]) == pytest.approx(one.rmse.interval[0], rel=1e-5)
        assert float(row["training_mean"]) == pytest.approx(one.training_mean.rmse, rel=1e-5)
    tokens = store["test"].patches(range(3), dtype=torch.float32)
    reopened = iceprobe.segment(store, ["linear", "ep2"], output=folder, **QUICK)
    for one, first in zip(reopened, results, strict=True):
        for probe, fresh in zip(one.probes, first.probes, strict=True):
            assert torch.equal(probe(tokens), fresh(tokens))


def test_an_untrained_probe_begins_at_the_mean_in_the_targets_unit():
    probe = build("ep2", 8, 1).double()
    before = {name: one.detach().clone() for name, one in probe.named_parameters()}
    tokens = torch.randn(3, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        z = probe(tokens)
        probe.scale(torch.tensor([7.0]).double(), torch.tensor([3.0]).double())
        torch.testing.assert_close(probe(tokens), 3 * z + 7)
    assert probe.bias.tolist() == [7.0]
    assert torch.equal(probe.query, before["query"])


def test_the_picture_has_one_scale_of_colours(fitted):
    _, folder = fitted
    assert coloured(np.array([0, 1.0, 2, -9, 99, np.nan]), 0, 2).tolist() == [
        [68, 1, 84], [33, 145, 140], [253, 231, 37], [68, 1, 84], [253, 231, 37], [214, 217, 222],
    ]  # fmt: skip
    sheet = np.asarray(Image.open(folder / "segmentation.png"))
    grey = (sheet == (214, 217, 222)).all(-1).sum()
    assert grey > 1000  # unknown pixels of the truth, and the legend's square


def test_the_page_says_what_the_results_say(fitted, tmp_path):
    results, folder = fitted
    page = iceprobe.report(read_segmentations(folder), tmp_path / "report.html").read_text()
    for one in results:
        for name in ("rmse", "delta1", "abs_rel"):
            assert f'data-value="{getattr(one, name).mean}"' in page
            assert f'data-value="{getattr(one.training_mean, name)}"' in page
    assert f"<h1>{html.escape(headline(results).sentence)}</h1>" in page
    assert "&lt;b&gt;depth&lt;/b&gt; of every pixel, in m" in page
    assert "<b>depth" not in page
    assert "data:image/png;base64," in page


def test_the_headline_claims_what_the_interval_shows(fitted):
    def scored(one, mean: float, **fields):
        rmse = Score(**(dict(one.rmse) | {"mean": mean}))
        return one.replaced(**({"rmse": rmse, "undertrained": []} | fields))

    linear, ep = fitted[0]
    linear = scored(linear, 2.5)
    ep = scored(ep, 2.25, beside=Difference(probe="linear", mean=-0.25, interval=(-0.3, -0.2)))
    said = headline([linear, ep])
    assert said.sentence == "EP2 is off by 2.25 m (RMSE) where linear is off by 2.50 m."
    assert said.strong == "−0.250 m"
    assert said.detail.startswith(
        "95% interval −0.300 to −0.200 (paired bootstrap over the test images)"
    )
    assert "; the training mean at every pixel is off by " in said.detail
    ep = ep.replaced(beside=Difference(probe="linear", mean=-0.25, interval=(-0.6, 0.1)))
    assert headline([linear, ep]).sentence == (
        "EP2 is off by 2.25 m (RMSE) and linear 2.50 m: no clear difference."
    )
    worse = scored(ep, 3.0, beside=Difference(probe="linear", mean=0.5, interval=(0.3, 0.7)))
    said = headline([linear, worse])
    assert said.sentence == "Linear is off by 2.50 m (RMSE) where EP2 is off by 3.00 m."
    assert said.strong == "−0.500 m"
    assert floor(linear).startswith("the training mean, ")


@browser
def test_in_a_browser_a_narrow_page_scrolls_its_picture_alone(fitted, tmp_path):
    page = iceprobe.report(fitted[0], tmp_path / "report.html").read_text()
    seen = measured(page, tmp_path, 500)
    assert seen["page"] <= seen["width"] <= 500
    assert [name for _, name, *_ in seen["wide"]] == ["scroll"]


def test_maps_of_which_nothing_can_be_learnt_are_refused():
    for number, why in ((np.nan, "no pixel of train has a known number"), (4.0, "all the same")):
        dataset = deep()
        for split in dataset.splits.values():
            split.maps = np.full_like(split.maps, number)
        store = extract_in_memory(make_backbone(), dataset, batch_size=16)
        with pytest.raises(IceprobeError, match=why):
            iceprobe.segment(store, ["linear"], **QUICK)


def test_a_test_split_of_which_nothing_is_known_is_refused_before_the_fit(monkeypatch):
    dataset = deep()
    dataset.splits["test"].maps = np.zeros_like(dataset.splits["test"].maps)
    store = extract_in_memory(make_backbone(), dataset, batch_size=16)
    monkeypatch.setattr("iceprobe.dense.api.run_heldout", None)
    with pytest.raises(IceprobeError, match="no pixel of test has a known number"):
        iceprobe.segment(store, ["linear"], **QUICK)


def test_probes_of_whole_images_say_what_to_take(store):
    for call in (
        lambda: iceprobe.fit(store, ["linear"]),
        lambda: iceprobe.fit(store, ["linear"], task="classification"),
        lambda: iceprobe.fit(store, ["knn"]),
    ):
        with pytest.raises(IceprobeError, match="of single patches: take iceprobe segment"):
            call()
