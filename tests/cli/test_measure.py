"""``iceprobe measure``: tables, files and the picture, of stores and of runs."""

import json

import pytest

import iceprobe as library
from iceprobe.results import read_results

RUN = [
    *("--backbone", "bundled:mae-tiny", "--layers", "0,1,3,5", "--data", "bundled:fashion"),
    *("--limit", "60", "--probe", "knn?input=mean", "--output", "c"),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A run over four layers, and its stores."""
    from iceprobe.cli import main

    folder = tmp_path_factory.mktemp("measure")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as stop:
            main(["run", *RUN])
        assert not stop.value.code
    return folder


def cells(out, first):
    """The cells of the row that begins with ``first``."""
    return next(line for line in out.splitlines() if line.strip().startswith(first)).split()


def test_a_store_is_measured(iceprobe, workplace):
    store = sorted((workplace / "features").iterdir())[0]
    ended = iceprobe("measure", store, "--input", "mean", "--output", "m.csv")
    assert (ended.code, ended.err) == (0, "")
    (expected,) = library.measure(store, input="mean")
    row = cells(ended.out, "bundled:mae-tiny?layer")
    assert row[1:5] == ["mean", "60", "192", f"{expected.values['rankme']:.3f}"]
    assert "no LiDAR: it needs stored views: iceprobe extract --views 4 writes them" in ended.out
    assert "60 vectors have at most 60 dimensions, of 192" in ended.out
    assert "linear CKA" not in ended.out


def test_a_run_is_measured_beside_its_scores(iceprobe, workplace):
    ended = iceprobe("measure", workplace / "c", "--output", "m.json", "--figure", "m.svg")
    assert (ended.code, ended.err) == (0, "")
    assert "bundled:mae-tiny on bundled:fashion, train" in ended.out
    results = read_results(workplace / "c")
    stores = [one.store.path for one in results]
    measured = library.measure(stores)
    found = {one.measure: one for one in library.measures.correlate(measured, results)}
    row = cells(ended.out, "knn")
    assert row[:2] == ["knn?input=mean", "RankMe"]
    assert row[2] == "4"
    assert " ".join(row[3:6]) == str(found["rankme"].spearman)
    row = cells(ended.out, "4 layer")
    cka = [measured[3].others[measured[other].store]["cka"] for other in range(3)]
    assert row == ["4", "layer", "5", *(f"{value:.2f}" for value in cka)]
    document = json.loads(library_file(ended.out, ".json").read_text())
    assert [one["layer"] for one in document["measured"]] == [0, 1, 3, 5]
    assert document["correlations"][0]["points"][0]["y"] == results[0].score.mean
    assert library_file(ended.out, ".svg").read_text().count("RankMe") >= 1


def library_file(out, suffix):
    from pathlib import Path

    return Path(next(line.strip() for line in out.splitlines() if line.strip().endswith(suffix)))


def test_some_measures_of_named_stores(iceprobe, workplace):
    backbone, data = "bundled:mae-tiny?layer=1,4", "bundled:fashion"
    stores = [one.path for one in library.extract_layers(backbone, data, "tokens", limit=60)]
    ended = iceprobe(
        "measure", *stores, "--measure", "rankme", "--input", "patches", "--limit", "20"
    )
    assert ended.code == 0
    assert "participation" not in ended.out
    assert "20 of 60 examples were drawn by a seed" in ended.out
    assert "16 patch tokens of an example, drawn by a seed, are the vectors" in ended.out
    assert cells(ended.out, "layer")[2:4] == ["patches", "320"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["features", "--measure", "rank"], "unknown measure 'rank'. Did you mean rankme?"),
        (["nowhere"], "no feature store at nowhere"),
        (["STORE", "--figure", "m.svg"], "no run was named: name a run folder beside the stores"),
        (["STORE", "--output", "m.txt"], "is written to .json or .csv"),
        (["STORE", "--measure", "lidar"], "lidar of store"),
        (["c", "--figure", "m.gif"], "it ends in .svg, .pdf, .png"),
        (["STORE", "--input", "pooled"], "has no pooled output"),
    ],
)
def test_errors_are_a_line(iceprobe, workplace, words, said):
    store = sorted((workplace / "features").iterdir())[0]
    places = {"STORE": store, "c": workplace / "c", "features": store}
    ended = iceprobe("measure", *(places.get(word, word) for word in words))
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_ls_lists_the_measures(iceprobe):
    out = iceprobe("ls", "measures").out
    for words in ("rankme", "Garrido et al. 2023", "λ_i ∝ i^−α", "near 1 is usually better"):
        assert words in out
