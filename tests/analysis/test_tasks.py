"""Tags and numbers: importance by the leading metric, evidence on the object, what is left out and said."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score

import iceprobe
from iceprobe.analysis.evidence import true_map, true_outputs
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.fitting.fitted import load_fitted
from iceprobe.reporting.answers import Namer, spread, spread_rule
from iceprobe.reporting.attention import Album, draw_gallery
from iceprobe.reporting.by_task import PAGES
from iceprobe.reporting.paper_figure import evidence_columns
from iceprobe.store import extract_in_memory
from iceprobe.tasks import get_task
from iceprobe.tokens import Tokens
from tests.reference import analysis as reference
from tests.store.conftest import make_backbone, make_dataset

NAMES = {"multilabel": ["even", "low", "bright"], "regression": ["brightness", "class"]}


def targets_of(task: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    light = images.reshape(len(images), -1).mean(1)
    if task == "regression":
        found = np.stack([100 + light, labels.astype(float)], 1)
        found[::6, 1] = np.nan
        return found
    found = np.stack([labels % 2 == 0, labels < 2, light > np.median(light)], 1).astype(float)
    found[::7, 0] = np.nan
    return found


def dataset(task: str) -> Dataset:
    made = {}
    for name, split in make_dataset().splits.items():
        images, labels = np.asarray(split.images), np.asarray(split.labels)
        targets = targets_of(task, images, labels)
        made[name] = ArraySplit(
            name, images, targets, split.names, task=task, boxes=np.asarray(split.boxes)
        )
    return Dataset(f"test:{task}", task, NAMES[task], made)


@pytest.fixture(scope="module", params=["multilabel", "regression"])
def fitted(request, tmp_path_factory):
    store = extract_in_memory(make_backbone(), dataset(request.param), tokens="float32")
    results = iceprobe.fit(
        store, ["knn", "mean_value", "ep4?out_dim=16", "clip4", "siglip4"],
        seeds=1, epochs=3, min_steps=20, learning_rates=[1e-2],
        output=tmp_path_factory.mktemp("fitted") / "run",
    )  # fmt: skip
    return {one.probe: one for one in results}


def tokens_of(store) -> Tokens:
    part = store["test"]
    rows = torch.arange(len(part))
    return Tokens(part.patches(rows).float(), part.prefix.float(), store.grid, store.has_class)


def leading(task: str, targets: np.ndarray, logits: np.ndarray) -> float:
    """By scikit-learn, over what is known of each output."""
    found = []
    for k in range(targets.shape[1]):
        if task == "multilabel":
            there = targets[:, k] != 255
            found.append(average_precision_score(targets[there, k] == 1, logits[there, k]))
        else:
            there = ~np.isnan(targets[:, k])
            found.append(r2_score(targets[there, k], logits[there, k]))
    return float(np.mean(found))


def test_importance_is_what_the_leading_metric_loses(fitted):
    result = fitted["ep4?out_dim=16"]
    (found,) = iceprobe.analyze([result], draws=20, thresholds=3, batch_size=17)
    store, targets = result.open_store, np.asarray(result.open_store["test"].labels)
    assert found.accuracy is None
    assert found.metric == result.primary
    assert found.score.mean == pytest.approx(result.score.mean, abs=1e-6)
    probe = load_fitted(result, store.shape)
    for each in found.predictors:
        kept = probe.pooling.query.data[each.predictor - 1].clone()
        with torch.no_grad():
            before = leading(result.task, targets, probe(tokens_of(store)).numpy())
            probe.pooling.query.data[each.predictor - 1] = 0  # uniform
            after = leading(result.task, targets, probe(tokens_of(store)).numpy())
            probe.pooling.query.data[each.predictor - 1] = kept
        assert each.importance.mean == pytest.approx(before - after, abs=1e-4)
    assert found.recall == {}
    outputs = "tags" if result.task == "multilabel" else "numbers"
    assert f"no retrieval: it asks for images of one class, and these have {outputs}" in found.notes


def test_evidence_of_what_is_true_is_measured_like_attention(fitted):
    result = fitted["ep4?out_dim=16"]
    (found,) = iceprobe.analyze([result], draws=20, thresholds=3)
    store = result.open_store
    part, grid, tokens = store["test"], store.grid, tokens_of(store)
    size = store.manifest.backbone.preprocessing["image_size"]
    probe, targets = load_fitted(result, store.shape), torch.from_numpy(np.asarray(part.labels))
    evidence = probe.evidence(tokens).double().numpy()
    inside = []
    for e, target, box in zip(evidence, targets.tolist(), part.boxes.tolist(), strict=True):
        if result.task == "multilabel":
            maps = [e[k].clip(0) for k, value in enumerate(target) if value == 1]
        else:
            maps = [abs(e[k]) for k, value in enumerate(target) if value == value]
        maps = [one / one.sum() for one in maps if one.sum() > 0]
        if maps:
            inside.append(reference.mass_in_box(np.mean(maps, 0).tolist(), box, grid, size))
    assert found.evidence.mass_in_box.mean == pytest.approx(np.mean(inside), abs=1e-5)
    assert set(found.evidence.max_box_accuracy) == {"0.3", "0.5", "0.7", "mean"}
    assert set(found.evidence.above_attention) == {"centroid_in_box", "mass_in_box"}


def test_a_probe_whose_logits_are_no_sums_says_so(fitted):
    (found,) = iceprobe.analyze([fitted["siglip4"]], draws=5, thresholds=3)
    assert found.evidence is None
    assert any(note.startswith("no evidence: an MLP") for note in found.notes)


def test_galleries_name_what_is_true_and_what_is_read(fitted):
    result = fitted["ep4?out_dim=16"]
    store = result.open_store
    album = Album.spread(store, "test", 5)
    gallery = draw_gallery(result, album)
    assert len(gallery.rows) == 5
    assert all(len(row.maps) == len(row.captions) == len(gallery.columns) for row in gallery.rows)
    targets = np.asarray(store["test"].labels)[album.rows]
    if result.task == "regression":
        assert gallery.columns[:2] == ["evidence about brightness", "evidence about class"]
        assert (np.diff(targets[:, 0]) >= 0).all()
        assert gallery.rows[0].correct is None
        assert "→" in gallery.rows[0].captions[0]
        assert gallery.rule == "spread evenly over the order of their brightness"
    else:
        for row, target in zip(gallery.rows, targets, strict=True):
            tags = [NAMES["multilabel"][k] for k in np.flatnonzero(target == 1)]
            unknown = " (1 unknown)" if (target == 255).any() else ""
            assert row.label == (", ".join(tags) or "no tag") + unknown
            assert [one.rsplit(" ", 1)[0] for one in row.captions if one] == tags
            assert [bool(m) for m in row.maps[: gallery.evidence]].count(True) == len(tags)
    assert draw_gallery(fitted["mean_value"], album).predictors == 0
    assert "an MLP" in draw_gallery(fitted["siglip4"], album).remark
    assert draw_gallery(fitted["knn"], album) is None


def test_pictures_need_no_tokens_and_maps_do(fitted):
    store = fitted["knn"].open_store
    album = Album(store, "folds", np.arange(3))  # those of train, whose probes aren't kept
    assert [album.names, len(album.pictures)] == [store.names("train", np.arange(3)), 3]
    with pytest.raises(IceprobeError, match="tested by folds, whose probes aren't kept"):
        _ = album.tokens
    with pytest.raises(IceprobeError, match="tested by folds, whose probes aren't kept"):
        Album.spread(store, "folds", 3)


def test_a_probe_is_loaded_once_for_its_gallery(fitted, monkeypatch):
    result, loaded = fitted["ep4?out_dim=16"], []

    def load(*asked):
        loaded.append(asked)
        return load_fitted(*asked)

    monkeypatch.setattr("iceprobe.reporting.attention.load_fitted", load)
    album = Album.spread(result.open_store, "test", 2)
    assert draw_gallery(result, album).predictors == 4
    assert len(loaded) == 1
    assert len(evidence_columns([result], album, album.store.classes[0])) == 2
    assert len(loaded) == 2


def test_the_page_words_evidence_by_the_task(fitted, tmp_path, monkeypatch):
    """A task of your own has a page by an entry of the table alone."""
    chosen = [fitted["ep4?out_dim=16"].replaced(run=None)]
    page = PAGES[chosen[0].task]
    said = iceprobe.report(chosen, tmp_path / "r.html", images=2).read_text()
    number = chosen[0].task == "regression"
    assert ("red raises it, blue lowers it" in said) == number
    assert ("red speaks for it, blue against it" in said) == (not number)
    assert ("adds up exactly to the prediction minus" in said) == number
    assert ("Each picture has its own scale" in said) == number
    other = dataclasses.replace(page, words=dataclasses.replace(page.words, positive="warms it"))
    monkeypatch.setitem(PAGES, chosen[0].task, other)
    said = iceprobe.report(chosen, tmp_path / "r.html", images=2).read_text()
    assert f"red warms it, blue {page.words.negative}" in said


def test_evidence_counts_from_the_average_image_where_there_is_a_batch_norm(fitted, tmp_path):
    result = fitted["ep4?out_dim=16"]
    bare = "ep2?batch_norm=false"
    plain = iceprobe.fit(
        result.open_store, [bare], seeds=1, epochs=1, min_steps=2, learning_rates=[1e-2],
        output=tmp_path / "run",
    )  # fmt: skip
    plain = [one.replaced(run=None) for one in plain]
    album = Album.spread(result.open_store, "test", 2)
    assert [draw_gallery(one, album).centred for one in (result, *plain)] == [True, False]
    with torch.no_grad():  # of a token that is 0, all is the bias
        probe = plain[0].probes[0].eval()
        shape = result.open_store.shape
        nothing = torch.zeros(1, shape.num_tokens, shape.dim)
        assert probe.evidence(nothing).abs().max() == 0
    claims = []
    for chosen in ([result.replaced(run=None)], plain, [result.replaced(run=None), *plain]):
        said = iceprobe.report(chosen, tmp_path / "r.html", images=2).read_text()
        claims.append(re.search("classifier’s bias(.*?)\\.", said)[1])
    assert claims == [
        ", so it counts from the average training image",
        "",
        "; of probes with a batch norm it counts from the average training image",
    ]


def test_a_figure_has_evidence_for_a_named_output(fitted, tmp_path):
    chosen = [fitted["ep4?out_dim=16"], fitted["mean_value"], fitted["siglip4"]]
    name = fitted["ep4?out_dim=16"].open_store.classes[1]
    text = iceprobe.figure(chosen, tmp_path / "e.svg", images=2, evidence=name).read_text()
    assert text.count("<image") == 2 * (1 + 2 * 3)  # image; mean map and evidence, evidence
    with pytest.raises(IceprobeError, match="output of"):
        iceprobe.figure(chosen, tmp_path / "f.svg", evidence="true")
    with pytest.raises(
        IceprobeError, match="no probe whose evidence can be drawn; siglip4: an MLP"
    ):
        iceprobe.figure([fitted["siglip4"]], tmp_path / "f.svg", evidence=name)


def test_folds_are_refused_in_a_line(fitted):
    one = fitted["ep4?out_dim=16"]
    with pytest.raises(IceprobeError, match="was tested by folds, whose probes aren't kept"):
        iceprobe.analyze([one.replaced(split="folds")])
    with pytest.raises(IceprobeError, match="folds"):
        iceprobe.figure([one.replaced(split="folds")], "m.svg")


def test_what_is_true_of_classes_tags_and_numbers():
    outputs, counts = true_outputs(torch.tensor([3, 0]))
    assert (outputs.tolist(), counts.all()) == ([[3], [0]], True)
    tags = torch.tensor([[0, 1, 1], [255, 0, 1], [0, 0, 0]], dtype=torch.uint8)
    outputs, counts = true_outputs(tags)
    assert outputs[0].tolist() == [1, 2]
    assert outputs[1, 0] == 2
    assert counts.tolist() == [[True, True], [True, False], [False, False]]
    numbers = torch.tensor([[torch.nan, 1.0], [2.0, 3.0]])
    assert true_outputs(numbers)[1].tolist() == [[True, False], [True, True]]
    from iceprobe import probes

    probe = probes.build("ep2", 8, 3).eval()
    maps = true_map(probe, Tokens(torch.randn(3, 4, 8), torch.zeros(3, 0, 8), (2, 2), False), tags)
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[:2].sum(1), torch.ones(2))


def test_images_are_spread_over_tags_and_quantiles():
    tags = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 1]], np.uint8)
    assert spread(tags, 3).tolist() == [2, 1, 3]
    assert len(set(spread(tags, 9).tolist())) == 4
    assert spread_rule(tags, ["a", "b"]) == "one of each tag in the order of the split"
    numbers = np.array([[5.0], [np.nan], [1.0], [3.0], [9.0]])
    assert spread(numbers, 3).tolist() == [2, 0, 4] or spread(numbers, 3).tolist() == [2, 3, 4]
    assert spread(np.zeros((4, 2), np.uint8), 2).tolist() == [0, 1]


def test_numbers_have_their_units():
    namer = Namer(get_task("regression"), ["age", "dose"], ["years"])
    assert namer.label(np.array([61.26, -0.0123])) == "age 61.3 years, dose −0.0123"
    assert namer.label(np.array([np.nan, 12345.6])) == "age ?, dose 12,346"
    assert namer.read(np.array([5.0, 12345.6])) == "age 5 years, dose 12,346"


def test_tags_are_named_with_what_is_unknown_and_how_probable_they_are():
    namer = Namer(get_task("multilabel"), ["a", "b", "a", *"cdefg"])
    assert namer.label(np.array([0, 1, 1, 0, 255, 0, 0, 255], np.uint8)) == "b, a (2 unknown)"
    assert namer.label(np.zeros(8, np.uint8)) == "no tag"
    assert namer.read(np.array([0.1, 0.51, 0.9, 0, 0, 0, 0, 0.49])) == "a 90%, b 51%"
    assert namer.read(np.linspace(0.6, 0.9, 8)).endswith("a 69% and 2 more")
    # Equal names are of different outputs.
    (answer,) = namer.answers(
        torch.tensor([[-2.0, -2, 2, -2, -2, -2, -2, -2]]), np.array([[1, *[0] * 7]], np.uint8)
    )
    assert [answer.asked[0].caption, answer.predicted, answer.correct] == ["a 12%", "a 88%", False]
