"""From a store with masks to numbers, files and a picture."""

import base64
import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Column
from iceprobe.dense import (
    Segmentation,
    build,
    read_segmentations,
    upsample,
    write_segmentations,
)
from iceprobe.dense.classes_picture import SIDE as SHOWN
from iceprobe.dense.classes_picture import colour
from iceprobe.reporting.segment_page import headline
from iceprobe.results import Score
from iceprobe.results.segmentation import Difference
from iceprobe.store import extract, extract_in_memory
from tests.dense.masks import planted
from tests.reporting.test_layout import measured
from tests.reporting.test_page import browser
from tests.store.conftest import make_backbone

QUICK = dict(seeds=2, epochs=12, batch_size=8, learning_rates=[1e-2, 1e-1])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return extract(make_backbone(), planted(), tmp_path_factory.mktemp("features"), batch_size=16)


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory):
    store = type(store).open(store.path, dataset=planted())
    folder = tmp_path_factory.mktemp("runs") / "segment"
    return iceprobe.segment(store, ["linear", "ep2"], output=folder, **QUICK), folder


def test_an_objects_pixels_are_found_and_named(fitted):
    results, _ = fitted
    assert [result.probe for result in results] == ["linear", "ep2"]
    for result in results:
        assert result.class_names == ["background", "dark", "bright", "<b>grey</b>"]
        assert result.miou.mean > 0.6 > 3 * result.all_background
        low, high = result.miou.interval
        assert low < result.miou.mean < high
        assert result.object_iou.mean > 0.6
    linear, ep = results
    assert linear.beside is None
    assert ep.beside.probe == "linear"
    assert ep.beside.mean == pytest.approx(ep.miou.mean - linear.miou.mean)
    assert ep.beside.interval[0] <= ep.beside.mean <= ep.beside.interval[1]


def test_numbers_are_those_of_the_fitted_probes(fitted, store):
    """Read from their files and scored by scikit-learn, from the images up."""
    results, folder = fitted
    split = store["test"]
    objects = planted().splits["test"].objects[split.index]
    truth = np.where(objects, split.labels[:, None, None] + 1, 0)
    tokens = split.patches(range(len(split)), dtype=torch.float32)
    for result in read_segmentations(folder):
        scores = []
        for file in result.files:
            probe = build(result.probe, store.dim, 4)
            probe.load_state_dict(load_file(folder / file))
            with torch.no_grad():
                called = upsample(probe(tokens), (4, 4), 16).argmax(1).numpy()
            each = jaccard_score(truth.ravel(), called.ravel(), average=None, labels=range(4))
            scores.append(each)
        assert result.miou.values == pytest.approx(np.mean(scores, 1))
        assert result.iou == pytest.approx(np.mean(scores, 0))
        assert np.sum(result.confusion) == truth.size * len(result.seeds)
        background = np.mean(truth == 0)
        assert result.all_background == pytest.approx(background / 4)
    again, first = read_segmentations(folder), results
    assert [one.model_dump() for one in again] == [one.model_dump() for one in first]


def test_the_page_says_what_the_results_say(fitted, tmp_path):
    results, folder = fitted
    page = iceprobe.report(read_segmentations(folder), tmp_path / "report.html").read_text()
    for one in results:
        low, high = one.miou.interval
        assert (
            f'data-value="{one.miou.mean}">{100 * one.miou.mean:.1f} ± {100 * one.miou.sd:.1f}<'
            in page
        )
        assert f'<td class="n">{100 * low:.1f} to {100 * high:.1f}</td>' in page
        for iou in one.iou:
            assert f'data-value="{iou}">{100 * iou:.1f}</td>' in page
    linear, ep = results
    sign = "+" if ep.beside.mean > 0 else "−"
    assert f'<td class="n">{sign}{abs(100 * ep.beside.mean):.1f} <span' in page
    assert f"<h1>{html.escape(headline(results).sentence)}</h1>" in page
    assert iceprobe.report(results, tmp_path / "fresh.html").read_text() == page
    bare = iceprobe.report(results, tmp_path / "bare.html", title="<t>", images=0).read_text()
    assert "<title>iceprobe: &lt;t&gt;</title>" in bare
    assert "data:image" not in bare
    assert "&lt;b&gt;grey&lt;/b&gt;" in page  # a class's name is text
    assert "<b>grey" not in page
    picture = base64.b64encode((folder / "segmentation.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{picture}"' in page
    assert f"<pre>{html.escape(linear.command)}</pre>" in page.replace("&#39;", "&#x27;")
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL).replace(
        "http-equiv", ""
    )
    assert "Assumed." not in page


def test_what_was_assumed_is_in_results_and_on_the_page(fitted, store, tmp_path):
    results, folder = fitted
    manifest = store.manifest
    assert results[0].assumed == [*manifest.backbone.assumed, *manifest.dataset.assumed]
    changed = [one.replaced(assumed=["mean & std of <ImageNet>"]) for one in results]
    write_segmentations(tmp_path, changed, type(store).open(store.path, dataset=planted()))
    (tmp_path / "segmentation.png").unlink()
    page = iceprobe.report(read_segmentations(tmp_path), tmp_path / "report.html").read_text()
    assert page.count("<b>Assumed.</b> mean &amp; std of &lt;ImageNet&gt;.") == 1
    assert "Not shown: segmentation.png is no longer in the run folder." in page
    # A file written before there was such a list reads as one without.
    earlier = json.loads((folder / "dense.json").read_text())["segmentations"][0]
    for field in ("assumed", "undertrained"):
        earlier.pop(field)
    first = Segmentation.model_validate(earlier)
    assert (first.assumed, first.undertrained) == ([], [])


def test_the_headline_claims_what_the_interval_shows(fitted):
    def scored(one, mean: float, **fields):
        miou = Score(**(dict(one.miou) | {"mean": mean}))
        return one.replaced(**({"miou": miou, "all_background": 0.08, "undertrained": []} | fields))

    def beside(mean: float, interval) -> Difference:
        return Difference(probe="linear", mean=mean, interval=interval)

    linear, ep = fitted[0]
    linear = scored(linear, 0.30)
    ep = scored(ep, 0.34, beside=beside(0.04, (0.01, 0.07)))
    said = headline([linear, ep])
    assert said.sentence == "EP2 reads 34.0% mean IoU where linear reads 30.0%."
    assert said.strong == "+4.0 points"
    assert said.detail == (
        "95% interval +1.0 to +7.0 (paired bootstrap over the test images); "
        "calling every pixel background reads 8.0%"
    )
    ep = ep.replaced(beside=beside(0.04, (-0.01, 0.09)))
    assert headline([linear, ep]).sentence == (
        "EP2 reads 34.0% mean IoU and linear 30.0%: no clear difference."
    )
    # The first is the best: the same difference, with its sign turned.
    ep = scored(ep, 0.25, beside=beside(-0.05, (-0.08, -0.02)))
    said = headline([linear, ep])
    assert said.sentence == "Linear reads 30.0% mean IoU where EP2 reads 25.0%."
    assert said.detail.startswith("95% interval +2.0 to +8.0")
    ep = ep.replaced(undertrained=["9 training steps"])
    said = headline([linear, ep])
    assert said.sentence == (
        "Linear reads 30.0% mean IoU and EP2 25.0%, but EP2 is undertrained: that shows no order."
    )
    assert said.strong is None
    assert said.detail == "EP2: 9 training steps. To compare them leave --epochs out, or raise it"
    assert headline([ep]).sentence == "EP2 reads 25.0% mean IoU, but it is undertrained."


def test_a_short_fit_is_undertrained_and_a_long_one_is_not(store):
    """One epoch against twenty: the rule of classification, with chance as pixels have it."""
    options = dict(seeds=1, batch_size=8, learning_rates=[1e-2, 1e-1], progress=False)
    (short,) = iceprobe.segment(store, ["linear"], epochs=1, **options)
    assert short.undertrained[0] == "11 training steps"
    assert headline([short]).sentence.endswith("but it is undertrained.")
    (long,) = iceprobe.segment(store, ["linear"], epochs=20, **options)
    assert long.undertrained == []


@browser
def test_in_a_browser_a_narrow_page_scrolls_its_picture_alone(fitted, tmp_path):
    linear, ep = fitted[0]
    names = ["background", "Boeing_" + "7" * 60, "a name of many words that goes on and on", "c"]
    many = [
        one.replaced(class_names=names, probe=probe)
        for one, probe in ((linear, "linear"), *((ep, f"ep{n}") for n in (2, 8, 16, 128)))
    ]
    page = iceprobe.report(many, tmp_path / "report.html").read_text()
    seen = measured(page, tmp_path, 500)
    assert seen["page"] <= seen["width"] <= 500
    assert [name for _, name, *_ in seen["wide"]] == ["scroll"]
    bare = iceprobe.report(many, tmp_path / "bare.html", images=0).read_text()
    assert measured(bare, tmp_path, 500)["wide"] == []


def test_segmentations_of_two_runs_or_with_results_are_refused(fitted, tmp_path):
    results, _ = fitted
    other = results[0].replaced(created="2001-01-01T00:00:00+00:00")
    with pytest.raises(IceprobeError, match="segmentations of several runs in one report"):
        iceprobe.report([results[0], other], tmp_path / "r.html")
    with pytest.raises(IceprobeError, match=r"read_segmentations\(RUN\)"):
        iceprobe.report([results[0], "linear"], tmp_path / "r.html")
    with pytest.raises(IceprobeError, match=r"ends in \.html; its table is dense\.csv"):
        iceprobe.report(results, tmp_path / "r.md")
    assert not (tmp_path / "r.html").exists()


def test_files_say_the_same(fitted):
    results, folder = fitted
    assert {path.name for path in folder.iterdir()} == {
        "dense.json", "dense.csv", "request.json", "segmentation.png", "probes",
    }  # fmt: skip
    with (folder / "dense.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["probe"], row["class"]) for row in rows] == [
        (result.probe, name) for result in results for name in result.class_names
    ]
    for row in rows:
        hits, pixels, called = (int(row[name]) for name in ("hits", "pixels", "called"))
        assert hits <= min(pixels, called)
    entry = json.loads((folder / "dense.json").read_text())["segmentations"][1]
    assert entry["selection"]["images"] == 9
    assert entry["parameters"] == 4 * 8 + 4 + 2 * 8 + 2 * 4 * 8


def test_the_picture_shows_images_truth_and_probes(fitted, store):
    _, folder = fitted
    sheet = np.asarray(Image.open(folder / "segmentation.png")).astype(int)
    assert sheet.shape[1] > 3 * SHOWN
    # Of the first image of each class, the middle of the true object has its class's colour.
    for label in range(3):
        hue = np.array(colour(label + 1))
        near = np.abs(sheet - hue).sum(-1) == 0
        assert near.sum() >= 100  # the legend's square


def test_the_same_again_is_the_same(fitted, store):
    results, _ = fitted
    again = iceprobe.segment(store, ["linear", "ep2"], **QUICK)
    for one, other in zip(results, again, strict=True):
        assert one.miou == other.miou
        assert one.confusion == other.confusion


def test_a_finished_run_is_shown_again(fitted, store, tmp_path, monkeypatch):
    """As `fit` does: read from its folder, probes and all, if it is the run that is asked for."""
    results, folder = fitted
    with monkeypatch.context() as patch:
        patch.setattr("iceprobe.dense.api.run_heldout", None)  # nothing is fitted
        patch.setenv("HOME", str(folder.parent))
        again = iceprobe.segment(store, ["linear", "ep2"], output=f"~/{folder.name}", **QUICK)
    assert {one.run for one in again} == {folder}
    assert [one.model_dump() for one in again] == [one.model_dump() for one in results]
    tokens = store["test"].patches(range(3), dtype=torch.float32)
    for one, first in zip(again, results, strict=True):
        for probe, fresh in zip(one.probes, first.probes, strict=True):
            assert torch.equal(probe(tokens), fresh(tokens))
    with pytest.raises(
        IceprobeError, match=r"other settings \(seeds 2 → 3\): give another --output"
    ):
        iceprobe.segment(store, ["linear", "ep2"], output=folder, **QUICK | {"seeds": 3})
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    file = damaged / results[1].files[1]
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IceprobeError, match=r"ep2-seed1.* isn't what was written"):
        iceprobe.segment(store, ["linear", "ep2"], output=damaged, **QUICK)
    file.unlink()
    with pytest.raises(IceprobeError, match=r"ep2-seed1.* can't be read"):
        iceprobe.segment(store, ["linear", "ep2"], output=damaged, **QUICK)
    (damaged / "request.json").unlink()
    with pytest.raises(IceprobeError, match="of an earlier iceprobe"):
        iceprobe.segment(store, ["linear", "ep2"], output=damaged, **QUICK)


def test_intervals_draw_groups_where_there_are_any(fitted):
    """Each draw takes whole groups: recomputed from each image's counts of pixels."""
    dataset = planted()
    for name, split in dataset.splits.items():
        split.columns["scene"] = Column.of({name: [f"g{i % 11}" for i in range(len(split))]})[name]
    store = extract_in_memory(make_backbone(), dataset, batch_size=16).grouped_by("scene")
    (linear,) = iceprobe.segment(store, ["linear"], **QUICK)
    codes = np.unique([f"g{i % 11}" for i in range(30)], return_inverse=True)[1]
    truth = np.where(dataset.splits["test"].objects, store["test"].labels[:, None, None] + 1, 0)
    tokens = store["test"].patches(range(30), dtype=torch.float32)
    times = np.random.default_rng(0).multinomial(11, [1 / 11] * 11, size=2_000)[:, codes]
    of_seeds = []
    for probe in linear.probes:
        with torch.no_grad():
            called = upsample(probe(tokens), (4, 4), 16).argmax(1).numpy()
        hit, true, said = (
            np.stack([of(c).sum((1, 2)) for c in range(4)], 1)
            for of in (
                lambda c, p=called: (truth == c) & (p == c),
                lambda c: truth == c,
                lambda c, p=called: p == c,
            )
        )
        of_seeds.append((times @ hit / (times @ (true + said - hit))).mean(1))
    wanted = np.quantile(np.mean(of_seeds, 0), [0.025, 0.975])
    assert linear.miou.interval == pytest.approx(wanted, abs=1e-12)
    assert (linear.group, linear.miou.caveat) == ("scene", None)
    assert linear.miou.values == pytest.approx(fitted[0][0].miou.values, abs=0.05)
    assert linear.miou.interval != fitted[0][0].miou.interval


def test_views_and_memory_do_not_change_what_masks_belong_to(fitted):
    """Augmented views have no masks: their evaluation view is what learns."""
    results, _ = fitted
    store = extract_in_memory(make_backbone(), planted(), batch_size=16, views=2)
    (linear,) = iceprobe.segment(store, ["linear"], **QUICK)
    assert linear.miou.mean == pytest.approx(results[0].miou.mean, abs=0.02)


def test_a_store_without_masks_is_refused():
    dataset = planted()
    dataset.splits["test"].masks = False
    store = extract_in_memory(make_backbone(), dataset, batch_size=16)
    shown = "'test' of test:planted has no masks.*bundled:fashion-clutter or pets"
    with pytest.raises(IceprobeError, match=shown):
        iceprobe.segment(store, ["linear"])


def test_live_tokens_are_refused():
    store = iceprobe.live(make_backbone(), planted(), augmentation=None)
    with pytest.raises(IceprobeError, match="live tokens come without masks"):
        iceprobe.segment(store, ["linear"])


def test_a_store_without_patch_tokens_is_refused(tmp_path):
    store = extract(make_backbone(), planted(), tmp_path, batch_size=16, patches=False)
    with pytest.raises(IceprobeError, match="no patch tokens: extract it again with patches"):
        iceprobe.segment(store, ["linear"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"probes": ["ep8", "ep?queries=8"]}, "'ep8' is named twice"),
        ({"probes": []}, "no probe was named"),
        ({"probes": ["aim12"]}, "doesn't segment"),
        ({"seeds": 0}, "seeds=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"split": "val"}, "unknown split"),
        (
            {"learning_rates": [1e38], "epochs": 3},
            "linear diverged: give smaller --learning-rates",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(store, tmp_path, arguments, shown):
    arguments = {"probes": ["linear"], "epochs": 1, "output": tmp_path / "run"} | arguments
    store = type(store).open(store.path, dataset=planted())
    with pytest.raises(IceprobeError, match=shown):
        iceprobe.segment(store, **arguments)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_data_sets_named_as_having_masks_have_them():
    from iceprobe.datasets import CATALOGUE, load_dataset
    from iceprobe.dense.api import MASKED

    bundled, *others = MASKED
    assert all(split.masks for split in load_dataset(bundled).splits.values())
    assert ["mask" in CATALOGUE[name].summary for name in others] == [True]
