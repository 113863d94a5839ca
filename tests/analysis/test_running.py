"""From images with boxes and masks to ``analysis.json``: a real run on a small backbone."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.analysis.background import OtherBackgrounds
from iceprobe.analysis.files import read_analyses
from iceprobe.cli import main
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.fitted import load_fitted
from iceprobe.store import extract_in_memory
from iceprobe.tokens import Tokens
from tests.reference import analysis as reference
from tests.store.conftest import SMALL, make_backbone, make_dataset

EP = "ep16?out_dim=16"
pytestmark = pytest.mark.usefixtures("no_signs")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("analysed")
    store = iceprobe.extract(make_backbone(), make_dataset(), place / "features", **SMALL)
    iceprobe.fit(
        store,
        ["knn", "linear", EP, "clip4"],
        seeds=2,
        epochs=5,
        min_steps=50,
        learning_rates=[1e-1],
        output=place / "run",
    )
    return place / "run"


@pytest.fixture(scope="module")
def results(run):
    return {one.probe: one for one in iceprobe.read_results(run)}


@pytest.fixture(scope="module")
def analysed(results):
    return iceprobe.analyze(list(results.values()), draws=50, thresholds=10, batch_size=7)


def test_every_number_of_a_predictor_is_that_of_loops_over_images(results, analysed):
    ep, clip = analysed
    assert (ep.probe, clip.probe) == (EP, "clip4")
    assert (len(ep.predictors), len(clip.predictors)) == (32, 8)
    store = iceprobe.Store.open(results[EP].store.path)
    part, grid = store["test"], store.grid
    size = store.manifest.backbone.preprocessing["image_size"]
    rows = torch.arange(len(part))
    tokens = Tokens(part.patches(rows).float(), part.prefix.float(), grid, store.has_class)
    each = max(ep.predictors, key=lambda one: (one.seed, one.predictor))
    j, probe = each.predictor - 1, load_fitted(results[EP], store.shape, each.seed)
    with torch.no_grad():
        maps, logits = probe.pooling.attention(tokens.patches)[:, j].double(), probe(tokens)
    maps = [(a / a.sum()).tolist() for a in maps]
    boxes, masks = part.boxes.tolist(), part.masks(rows).numpy()

    def mean(values):
        return pytest.approx(np.mean(list(values)), abs=1e-5)

    pairs = list(zip(maps, boxes, strict=True))
    assert each.entropy.mean == mean(reference.entropy(a) for a in maps)
    assert each.mass_in_box.mean == mean(
        reference.mass_in_box(a, box, grid, size) for a, box in pairs
    )
    assert each.mass_in_mask.mean == mean(
        reference.mass_in_mask(a, mask, grid) for a, mask in zip(maps, masks, strict=True)
    )
    points = [(reference.centroid(a, grid, size), box) for a, box in pairs]
    assert each.centroid_in_box.mean == mean(
        box[0] <= x < box[2] and box[1] <= y < box[3] for (x, y), box in points
    )
    right = (logits.argmax(1).numpy() == part.labels).mean()
    probe.pooling.query.data[j] = 0  # a softmax over nothing is uniform
    with torch.no_grad():
        left = (probe(tokens).argmax(1).numpy() == part.labels).mean()
    assert each.importance.mean == pytest.approx(right - left)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) / size**2 for box in boxes]
    assert ep.uniform["mass_in_box"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert ep.uniform["mass_in_mask"] == pytest.approx(masks.mean(), abs=1e-6)
    assert ep.accuracy.mean == pytest.approx(results[EP].top1.mean)


def share_of_the_mean_token(result):
    """What CLIP's pool gives to the mean token, over seeds, images and heads, by its own method."""
    store = iceprobe.Store.open(result.store.path)
    part = store["test"]
    tokens = part.patches(np.arange(len(part))).float()
    found = []
    for seed in result.seeds:
        probe = load_fitted(result, store.shape, seed)
        with torch.no_grad():
            found.append(probe.pooling.prefix_attention(probe.select(tokens)))
    return float(torch.stack(found).mean())


def test_probes_are_summed_up_with_intervals_and_what_is_missing_is_said(results, analysed):
    ep, clip = analysed
    importances = [one.importance.mean for one in ep.predictors]
    assert importances == sorted(importances, reverse=True)
    assert set(ep.correlation) == {"entropy", "centroid_in_box", "mass_in_box", "mass_in_mask"}
    assert ep.correlation["mass_in_box"].predictors == 32
    assert ep.entropy.interval[0] < ep.entropy.mean < ep.entropy.interval[1]
    assert set(ep.max_box_accuracy) == {"0.3", "0.5", "0.7", "mean"}
    assert set(ep.recall) == {"1", "5", "10"}
    assert ep.notes == []
    assert ep.prefix_share == pytest.approx(0, abs=1e-6)
    share = share_of_the_mean_token(results["clip4"])
    assert clip.prefix_share == pytest.approx(share, rel=1e-3)
    assert share > 1e-5
    assert clip.predictors[0].importance is None
    assert clip.correlation == {}
    assert clip.notes == [
        "no importance: its descriptor isn't a function of what predictors pool alone"
    ]


def test_batches_change_nothing(results, analysed):
    again = iceprobe.analyze([results[EP]], draws=50, thresholds=10, batch_size=100)
    for a, b in zip(again[0].predictors, analysed[0].predictors, strict=True):
        assert a.importance == b.importance
        assert a.mass_in_box.mean == pytest.approx(b.mass_in_box.mean, abs=1e-6)


def test_the_command_writes_both_files_and_shows_what_they_say(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stop:
        main(["analyze", str(run), "--probe", EP, "--thresholds", "5", "--device", "cpu"])
    captured = capsys.readouterr()
    assert (stop.value.code, captured.err) == (0, "")
    document = json.loads((run / "analysis.json").read_text())
    assert [one["probe"] for one in document["analyses"]] == [EP]
    rows = list(csv.DictReader((run / "analysis.csv").open()))
    assert len(rows) == 32
    best = document["analyses"][0]["predictors"][0]
    assert float(rows[0]["importance"]) == pytest.approx(best["importance"]["mean"], abs=1e-5)
    assert "importance and mass in box, Spearman" in captured.out
    assert str(run / "analysis.csv") in captured.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no results at nowhere"),
        (["RUN", "--probe", "linear"], "no probe on a frozen backbone with attention among linear"),
        (["RUN", "--probe", "ep8"], "ep8"),
    ],
)
def test_errors_are_one_line(words, said, run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["analyze", *(str(run) if word == "RUN" else word for word in words)])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in err
    assert err.count("\n") == 1


def test_without_boxes_the_rest_is_measured_and_it_is_said(results, tmp_path):
    store = iceprobe.Store.open(results[EP].store.path)
    part = store["test"]
    part.boxes, part.masks = None, lambda rows: torch.zeros(len(rows), 16, 16, dtype=torch.uint8)
    one = iceprobe.read_results(results[EP].run)[2].replaced(open_store=store)
    (found,) = iceprobe.analyze([one], draws=5, output=tmp_path)
    assert json.loads((tmp_path / "analysis.json").read_text())["analyses"][0]["uniform"] == {}
    assert found.mass_in_box is found.mass_in_mask is None
    assert set(found.correlation) == {"entropy"}
    assert found.max_box_accuracy == {}
    assert len(found.notes) == 2
    with pytest.raises(IceprobeError, match="draws=0"):
        iceprobe.analyze([one], draws=0)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A run on composed images with a class token: what the new tests and the page need."""
    place = tmp_path_factory.mktemp("composed")
    store = iceprobe.extract(
        iceprobe.load_backbone("bundled:mae-tiny"),
        iceprobe.load_dataset("bundled:fashion-clutter"),
        place / "features",
        limit=40,
    )
    iceprobe.fit(
        store, ["linear", "ep4"], seeds=2, epochs=2, min_steps=4, learning_rates=[1e-2],
        output=place / "run",
    )  # fmt: skip
    return place / "run"


def test_backgrounds_and_heads_go_from_the_command_to_the_page(composed, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["analyze", str(composed), "--background", "--heads", "--thresholds", "3"])
    captured = capsys.readouterr()
    assert (stop.value.code, captured.err) == (0, "")
    ep, heads = read_analyses(composed)
    (result,) = [one for one in iceprobe.read_results(composed) if one.probe == "ep4"]
    store = iceprobe.Store.open(result.store.path)
    part, backbone = store["test"], iceprobe.load_backbone("bundled:mae-tiny")
    source = store.dataset().splits["test"]
    # Composed anew, pixel by pixel: inside the box its image, outside another one's clutter.
    others = OtherBackgrounds(store, "test", backbone)
    rows, right = np.arange(len(part)), []
    assert not (others.other == rows).any()
    assert sorted(others.other) == rows.tolist()
    pictures = []
    for row in rows:
        pixels = source.backgrounds[part.index[others.other[row]]].copy()
        x0, y0, x1, y1 = part.boxes[row].astype(int)
        own = source.images[part.index[row]]
        pixels[y0:y1, x0:x1] = own[y0:y1, x0:x1]
        pictures.append(backbone.preprocessing.transform(Image.fromarray(pixels)))
    images = torch.stack(pictures)
    torch.testing.assert_close(others.images(rows), images)
    for seed in result.seeds:
        probe = load_fitted(result, store.shape, seed)
        with torch.no_grad():
            right.append(probe(backbone(images)).argmax(1).numpy() == part.labels)
    found = ep.shortcut
    assert found.background == "clutter of other images"
    assert found.images == len(part)
    assert found.replaced.mean == pytest.approx(np.mean(right))
    assert found.accuracy.mean == pytest.approx(result.top1.mean)
    assert found.drop.mean == pytest.approx(found.accuracy.mean - found.replaced.mean)
    assert found.drop.interval[0] <= found.drop.mean <= found.drop.interval[1]
    # The heads' entropy, from their maps.
    seen = torch.stack([backbone.preprocessing.normalised(p) for p in store.images("test", rows)])
    maps = backbone.attention(seen).double()
    maps = maps / maps.sum(-1, keepdim=True)
    entropies = [reference.entropy(a) for image in maps.tolist() for a in image]
    assert heads.probe == "backbone heads"
    assert heads.accuracy is heads.shortcut is None
    assert len(heads.predictors) == maps.shape[1]
    assert heads.entropy.mean == pytest.approx(np.mean(entropies), abs=1e-5)
    assert set(heads.complementarity) == {"cosine", "intersection"}
    page = (composed / "report.html").read_text()
    assert "Background drop" in page
    assert "backbone’s heads" in page
    assert "points lost with another background" in captured.out


def test_without_a_known_background_the_mean_colour_is_put_there_and_without_boxes_it_is_said():
    backbone = make_backbone()
    store = extract_in_memory(backbone, make_dataset())
    others = OtherBackgrounds(store, "test", backbone)
    images = others.images(others.rows)
    assert others.name == "mean colour"
    box = store["test"].boxes[others.rows[0]]
    assert images[0, :, 0, : int(box[0])].abs().max() == 0
    assert images[0, :, int(box[1]) + 2, int(box[0]) + 2].abs().min() > 0
    store["test"].boxes = None
    with pytest.raises(IceprobeError, match="has no boxes"):
        OtherBackgrounds(store, "test", backbone)


def test_evidence_goes_into_a_figure(composed, tmp_path, capsys):
    for words, code in (
        (["--evidence", "true"], 2),
        (["--figure", str(tmp_path / "e.svg"), "--evidence", "predicted"], 0),
        (["--figure", str(tmp_path / "e.svg"), "--evidence", "nothing"], 2),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["analyze", str(composed), "--images", "2", *words])
        assert (stop.value.code, capsys.readouterr().err.count("\n")) == (code, code // 2)
    assert (tmp_path / "e.svg").read_text().count("<image") == 2 * (1 + 2 * 2)


def test_where_the_evidence_lies_is_measured_beside_the_attention(results):
    (found,) = iceprobe.analyze([results[EP]], draws=5, thresholds=3)
    assert found.metric == "top1"
    assert found.score == found.accuracy
    more, mine = found.evidence.above_attention["mass_in_mask"], found.evidence.mass_in_mask
    assert more.mean == pytest.approx(mine.mean - found.mass_in_mask.mean, abs=1e-6)
