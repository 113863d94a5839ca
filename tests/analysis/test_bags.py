"""Attention over bags: what is measured without a grid, and weights written back to coordinates."""

import csv
import math
from importlib import util

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.analysis import bags as measured
from iceprobe.analysis import places
from iceprobe.analysis.association import mean_intervals
from iceprobe.analysis.concentration import effective_tokens, entropy, top_share
from iceprobe.analysis.files import read_analyses
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.fitted import load_fitted
from iceprobe.store.split import StoredSplit
from tests.analysis.needles import Bags, bags, fitted
from tests.reference import analysis as reference

h5py = pytest.importorskip("h5py", reason="needs the extra [hdf5]")
GROUPS = {"train": [f"p{i // 2}" for i in range(48)], "test": [f"q{i // 3}" for i in range(36)]}


@pytest.fixture(scope="module")
def test():
    return bags(36, seed=1)


@pytest.fixture(scope="module")
def results(test):
    return fitted(bags(48, seed=0), test, seeds=2, groups=GROUPS)


@pytest.fixture(scope="module")
def analysed(results):
    return iceprobe.analyze(results, draws=40)


def alone(result, tokens, seed=None):
    """The maps of a probe on one bag without padding, ``(M, N)`` float64, its logits, and the probe."""
    shape = result.open_store.shape
    probe = load_fitted(result, shape, seed)
    state = probe.state_dict()
    probe = load_fitted(result.replaced(), shape, seed).double()
    x = torch.from_numpy(tokens).double()[None]
    with torch.no_grad():
        maps, logits = probe.attention(x)[0], probe(x)[0]
    probe.float().load_state_dict(state)
    return maps / maps.sum(-1, keepdim=True), logits


def test_concentration_by_hand():
    maps = torch.tensor([[[0.5, 0.25, 0.25, 0, 0]], [[0.25, 0.75, 0, 0, 0]], [[1.0, 0, 0, 0, 0]]])
    lengths = torch.tensor([4, 2, 1])  # the rest is padding
    nats = [
        0.5 * math.log(2) + 0.5 * math.log(4),
        -0.25 * math.log(0.25) - 0.75 * math.log(0.75),
        0,
    ]
    found = entropy(maps, lengths)[:, 0]
    assert found[:2].tolist() == pytest.approx([nats[0] / math.log(4), nats[1] / math.log(2)])
    assert found[2].isnan()
    assert effective_tokens(maps)[:, 0].tolist() == pytest.approx([math.exp(one) for one in nats])
    assert top_share(maps, torch.tensor([2, 1, 10]))[:, 0].tolist() == [0.75, 0.75, 1]
    assert measured.percent_of(torch.tensor([1, 99, 100, 101, 250])).tolist() == [1, 1, 1, 2, 3]


def test_every_number_is_that_of_each_bag_alone(results, test, analysed):
    for result, analysis in zip(results, analysed, strict=True):
        each = analysis.predictors[-1]
        found = [alone(result, tokens, each.seed) for tokens in test.tokens]
        maps = [m[each.predictor - 1].tolist() for m, _ in found]
        entropies = [reference.entropy(a) for a in maps]
        assert each.entropy.mean == pytest.approx(np.mean(entropies), abs=1e-5)
        predicted = [int(logits.argmax()) for _, logits in found]
        assert result.predictions().predicted[result.seeds.index(each.seed)].tolist() == predicted

        all_maps = [
            [alone(result, t, seed)[0].tolist() for t in test.tokens] for seed in result.seeds
        ]
        for name, measure in {
            "effective_tokens": lambda a: math.exp(-sum(w * math.log(w) for w in a if w > 0)),
            "top_10": lambda a: sum(sorted(a)[-10:]),
            "top_percent": lambda a: max(a),  # of at most 50 tokens it is one
        }.items():
            values = [measure(a) for of_seed in all_maps for of_bag in of_seed for a in of_bag]
            assert analysis.concentration[name].mean == pytest.approx(np.mean(values), rel=1e-4)
        lengths = [len(tokens) for tokens in test.tokens]
        assert analysis.uniform["effective_tokens"] == pytest.approx(np.mean(lengths))
        assert analysis.uniform["top_10"] == pytest.approx(
            np.mean([min(10, n) / n for n in lengths])
        )
        if len(all_maps[0][0]) > 1:
            differing = [reference.intersection_complementarity(m) for s in all_maps for m in s]
            assert analysis.complementarity["intersection"].mean == pytest.approx(
                np.mean(differing), abs=1e-5
            )


def test_importance_is_what_a_uniform_predictor_loses(results, test, analysed):
    (ep, *_), result = analysed, results[0]
    each = ep.predictors[0]
    probe = load_fitted(result, result.open_store.shape, each.seed)
    right = result.predictions().correct[result.seeds.index(each.seed)].mean()
    query = probe.pooling.query.data.clone()
    probe.pooling.query.data[each.predictor - 1] = 0  # a softmax over nothing is uniform
    with torch.no_grad():
        read = [int(probe(torch.from_numpy(one)[None]).argmax()) for one in test.tokens]
    probe.pooling.query.data[:] = query
    assert each.importance.mean == pytest.approx(right - (read == test.labels).mean())


def test_intervals_are_over_groups_and_what_is_missing_is_said(results, analysed):
    ep = analysed[0]
    assert (ep.groups, ep.images, ep.images_with_box, ep.mass_in_box) == (12, 36, 0, None)
    correct = np.mean(results[0].predictions().correct, 0, keepdims=True)
    codes = np.array([int(one[1:]) for one in GROUPS["test"]])
    (expected,) = mean_intervals(correct.astype(float), groups=codes, draws=40)
    assert ep.accuracy.interval == pytest.approx(tuple(expected))
    assert [note for note in ep.notes if "grid" in note] == [
        "no grid: tokens of bags lie on none, so nothing is said of boxes, masks and MaxBoxAccV2"
    ]


def test_one_bag_is_read_at_a_time_where_it_is_large(results, test, monkeypatch):
    before = iceprobe.analyze(results[:1], draws=5)
    reads = []
    patches = StoredSplit.patches

    def counted(self, rows, *args, **more):
        found = patches(self, rows, *args, **more)
        reads.append((len(rows), found.shape[0] * found.shape[1]))
        return found

    monkeypatch.setattr(StoredSplit, "patches", counted)
    monkeypatch.setattr(measured, "AT_ONCE", 20)
    after = iceprobe.analyze(results[:1], draws=5)
    assert all(padded <= 20 or bags == 1 for bags, padded in reads)
    assert max(padded for _, padded in reads) == max(map(len, test.tokens))
    assert sum(count for count, _ in reads) == 2 * 36  # each once in a fit
    for a, b in zip(before, after, strict=True):
        assert a.entropy.mean == pytest.approx(b.entropy.mean, abs=1e-6)
        assert a.accuracy == b.accuracy
        assert a.recall == b.recall


def read(folder):
    """Arrays of each file of a probe, in the order of the table, and the table."""
    with (folder / "bags.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    found = []
    for row in rows:
        with h5py.File(folder / row["file"], "r") as file:
            found.append(({name: one[()] for name, one in file.items()}, dict(file.attrs)))
    return rows, found


def test_weights_are_written_back_to_the_tokens_they_are_of(results, test, tmp_path):
    analyses = iceprobe.analyze(results, attention=tmp_path / "out", draws=5)
    assert analyses[0].notes[-1] == (
        "weights of seed 0 of 36 bags written, tokens in their own order; coordinates in the order x, y"
    )
    names = results[0].open_store.names("test", range(36))
    for result in results:
        rows, files = read(tmp_path / "out" / result.label)
        assert [row["name"] for row in rows] == names
        assert [row["truth"] for row in rows] == [str(label) for label in test.labels]
        found = np.zeros(2)  # planted tiles among the two largest weights, by class
        for i, (row, (arrays, said)) in enumerate(zip(rows, files, strict=True)):
            maps, logits = alone(result, test.tokens[i])
            np.testing.assert_allclose(arrays["maps"], maps.T, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(
                arrays["attention_scores"], maps.mean(0)[:, None], rtol=1e-4, atol=1e-7
            )
            down, right = test.places[i].T
            assert arrays["coords"].dtype == np.int64
            assert arrays["coords"].tolist() == np.stack([right, down], 1).tolist()
            assert row["predicted"] == said["predicted"] == str(int(logits.argmax()))
            assert int(row["tokens"]) == len(test.tokens[i])
            # Looked up by where they are.
            best = arrays["coords"][np.argsort(-arrays["attention_scores"][:, 0])[:2]].tolist()
            planted = [[int(x), int(y)] for y, x in test.places[i][test.planted[i]]]
            found[test.labels[i]] += sum(place in planted for place in best)
        precision = found / (2 * np.bincount(test.labels))
        assert precision.max() > 0.9  # who finds the one class's knows the other by what is missing


def test_evidence_of_the_predicted_class_adds_up_to_its_logit(results, test, tmp_path):
    iceprobe.analyze(results[:1], attention=tmp_path / "out", draws=5)
    _, files = read(tmp_path / "out" / results[0].label)
    bias = load_fitted(results[0], results[0].open_store.shape).classifier.bias.detach()
    for (arrays, _), tokens in zip(files, test.tokens, strict=True):
        _, logits = alone(results[0], tokens)
        assert arrays["evidence"].shape == (len(tokens), 1)
        assert arrays["evidence"].sum() + bias[logits.argmax()] == pytest.approx(
            float(logits.max()), rel=1e-4
        )


def test_without_coordinates_the_weights_are_in_the_order_of_the_tokens(test, tmp_path):
    results = fitted(bags(48, seed=0), test, ["ep2"], coords=False)
    (analysis,) = iceprobe.analyze(results, attention=tmp_path / "out", draws=5)
    assert analysis.notes[-1].endswith("tokens in their own order; this store has no coordinates")
    _, files = read(tmp_path / "out" / "ep2")
    arrays, _ = files[7]
    assert "coords" not in arrays
    np.testing.assert_allclose(arrays["maps"].T, alone(results[0], test.tokens[7])[0], rtol=1e-4)


def test_a_file_gets_its_own_coordinates_back(tmp_path):
    rows = ["slide_id,label"]
    for split, part in {"train": bags(24, seed=0), "test": bags(12, seed=1)}.items():
        folder = tmp_path / split
        folder.mkdir()
        for i, tokens in enumerate(part.tokens):
            with h5py.File(folder / f"{split}_{i}.h5", "w") as file:
                file["features"] = tokens
                file["coords"] = part.places[i].astype(np.int64)[:, ::-1] + [1000, 7]  # x, y
        rows += [f"{split}_{i},{'ab'[label]}" for i, label in enumerate(part.labels)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    store = iceprobe.load_features(f"features:{tmp_path}?table={table}&target=label")
    results = iceprobe.fit(store, ["ep2"], epochs=1, learning_rates=[1e-2], output=tmp_path / "run")
    iceprobe.analyze(iceprobe.read_results(tmp_path / "run"), attention=tmp_path / "out", draws=5)
    assert results[0].label == "ep2"
    for i in range(12):
        with (
            h5py.File(tmp_path / "test" / f"test_{i}.h5") as given,
            h5py.File(tmp_path / "out" / "ep2" / f"test_{i}.h5") as written,
        ):
            assert given["coords"][()].tolist() == written["coords"][()].tolist()


DAMAGED = [
    "../../outside",
    "a/b",
    "a_b",
    "A_B",
    "..",
    "",
    "x\x1b[2Jy",
    "=cmd|'/c calc'!A0",
    "bags.csv",
    "long" * 90,
    "long" * 90 + "!",
    "\udcff",
    "Schnitt é",
    "con:1",
    "a/b",
]


def test_names_of_data_become_plain_and_different_file_names():
    found = places.file_names(DAMAGED, ".h5")
    assert len({one.casefold() for one in found}) == len(DAMAGED)
    assert found[2] == "a_b.h5"  # one that needs no change stays
    for one in found:
        assert one.isascii()
        assert one.isprintable()
        assert not set("/\\:\0") & set(one)
        assert not one.startswith(".")
        assert len(one) <= 180
    assert places.file_names(["bags"], ".csv") != ["bags.csv"]  # the table's own name


def test_what_is_true_of_a_bag_in_words():
    assert places._truth(np.array(1), ["benign", "tumour"]) == "tumour"
    assert places._truth(np.array([1, 0, 255, 1], np.uint8), ["a", "b", "c", "d"]) == "a; d"
    assert places._truth(np.array([61.5, np.nan]), ["age", "weight"]) == "age 61.5; weight ?"


def test_damaged_names_stay_in_the_folder_and_the_table_is_no_formula(tmp_path):
    names = [*dict.fromkeys(DAMAGED)][:12]
    names = [name for name in names if name]
    few = bags(len(names), seed=1)
    given = {"train": [f"t{i}" for i in range(24)], "test": names}
    results = fitted(bags(24, seed=0), few, ["ep2"], names=given)
    iceprobe.analyze(results, attention=tmp_path / "out", draws=5)
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.parent for path in written} == {tmp_path / "out" / "ep2"}
    assert len(written) == len(names) + 1
    rows, files = read(tmp_path / "out" / "ep2")
    assert next(row["name"] for row in rows if "cmd" in row["name"]).startswith("'=")
    assert all(said["name"].isprintable() for _, said in files)


def test_numpy_files_where_h5py_is_missing(results, test, tmp_path, monkeypatch):
    monkeypatch.setattr(
        places, "find_spec", lambda name: None if name == "h5py" else util.find_spec(name)
    )
    iceprobe.analyze(results[:1], attention=tmp_path / "out", draws=5)
    file = sorted((tmp_path / "out" / "ep2").glob("*.npz"))[0]
    with np.load(file, allow_pickle=False) as arrays:
        assert {"attention_scores", "coords", "maps", "evidence", "truth"} <= set(arrays)
        assert str(arrays["probe"]) == "ep2"


def test_what_is_wrong_is_refused_before_anything_is_read(results, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    read = []
    with pytest.raises(IceprobeError, match="is not empty"):
        iceprobe.analyze(results, attention=full, progress=lambda *one: read.append(one))
    assert read == []
    for option in ({"heads": True}, {"background": True}):
        with pytest.raises(IceprobeError, match="bags, and --background and --heads are of single"):
            iceprobe.analyze(results, **option)
    rng = np.random.default_rng(0)
    on_grid = iceprobe.from_tokens(
        {s: (rng.normal(size=(20, 6, 8)), np.arange(20) % 2) for s in ("train", "test")},
        grid=(2, 3),
    )
    of_images = iceprobe.fit(on_grid, ["ep2"], epochs=1, learning_rates=[1e-2])
    with pytest.raises(IceprobeError, match="lie on a grid: leave it out"):
        iceprobe.analyze(of_images, attention=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bags_of_one_token(tmp_path):
    train, part = bags(24, seed=0), bags(12, seed=1)
    single = Bags(
        [one[:1] for one in part.tokens], part.labels, [one[:1] for one in part.places], []
    )
    results = fitted(train, single, ["ep2"])
    with pytest.raises(IceprobeError, match="every bag of 'test' has one token"):
        iceprobe.analyze(results, draws=5)
    some = Bags(
        [*single.tokens[:3], *part.tokens[3:]],
        part.labels,
        [*single.places[:3], *part.places[3:]],
        [],
    )
    (analysis,) = iceprobe.analyze(fitted(train, some, ["ep2"]), draws=5)
    assert "the entropy leaves out 3 bags of one token" in analysis.notes
    assert 0 < analysis.entropy.mean < 1


def test_the_command_writes_files_and_says_where(test, tmp_path, capsys, monkeypatch):
    from iceprobe.cli import main
    from iceprobe.store import save

    monkeypatch.chdir(tmp_path)
    train = bags(24, seed=0)
    given = iceprobe.from_tokens(
        {"train": train.pair, "test": test.pair},
        coords={"train": train.places, "test": test.places},
    )
    iceprobe.fit(save(given, "features"), ["ep2"], epochs=1, learning_rates=[1e-2], output="run")
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "run", "--attention", "out", "--device", "cpu"])
    said = capsys.readouterr().out
    assert (stop.value.code, (tmp_path / "out" / "ep2" / "bags.csv").is_file()) == (0, True)
    assert str(tmp_path / "out") in said
    assert "effective tokens" in said
    assert "centroid in box" not in said
    (kept,) = read_analyses(tmp_path / "run")
    assert kept.concentration["top_10"].mean > 0
