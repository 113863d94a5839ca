"""What a program reads: one JSON document on stdout, whose numbers are those of the files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from iceprobe.cli.answer import Answer, plain
from iceprobe.cli.app import GROUPS, app
from iceprobe.cli.console import console
from iceprobe.results.schema import Score
from tests.cli.conftest import options, write_images

COMMANDS = [name for commands in GROUPS.values() for name in commands]


def read(ended):
    """The document, after all that stands beside it was checked."""
    assert ended.code == 0, ended.err

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    document = json.loads(ended.out, parse_constant=refuse)
    assert ended.out.isascii()
    for lists in document.values():
        assert isinstance(lists, str | list)
    return document


def entries_of(path: Path, name: str):
    return json.loads(path.read_text())[name]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of two probes on 36 images."""
    folder = tmp_path_factory.mktemp("answer")
    write_images(folder / "images", {"train": 12, "test": 4})
    probes = ["--probe", "knn", "--probe", "ep2", "--learning-rates", "1e-2", "--json"]
    command = [sys.executable, "-m", "iceprobe", "run", *options(folder / "images"), *probes]
    command += ["--output", str(folder / "r"), "--features", str(folder / "features")]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), *sys.path])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    (folder / "out.json").write_text(ended.stdout)
    (folder / "err.txt").write_text(ended.stderr)
    return folder / "r"


def test_a_run_answers_with_the_entries_of_its_results(run):
    document = json.loads((run.parent / "out.json").read_text())
    assert document["command"] == "run"
    written = entries_of(run / "results.json", "results")
    assert sorted(document["results"], key=str) == sorted(written, key=str)
    scores = [one["metrics"]["top1"]["mean"] for one in document["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert document["paths"] == [str(run / "report.html")]
    assert any("undertrained" in note for note in document["notes"])
    said = (run.parent / "err.txt").read_text()
    assert "extract train: 36/36" in said
    assert "refit: 2/2" in said


def test_commands_on_a_run_answer_with_what_they_write(iceprobe, run, images):
    shown = read(iceprobe("run", run / "config.yaml", "--json"))
    assert shown["results"] == read(iceprobe("run", run / "config.yaml", "--json", "-q"))["results"]

    analysed = read(iceprobe("analyze", run, "--predictors", 2, "--json"))
    assert analysed["analyses"] == entries_of(run / "analysis.json", "analyses")
    assert analysed["paths"][0] == str(run / "analysis.json")

    read_on = read(iceprobe("test", run, "--data", f"folder:{images}", "--name", "o", "--json"))
    there = entries_of(run / "tests/o/results.json", "results")
    assert sorted(read_on["tests"], key=str) == sorted(there, key=str)

    assert read(iceprobe("report", run, "--json"))["paths"] == [str(run / "report.html")]
    exported = read(iceprobe("export", run, "--probe", "ep2", "--json"))
    assert exported["paths"] == [str(run / "exported/ep2-seed0")]


def test_fits_of_a_store_and_predictions_answer_too(iceprobe, run, images):
    (store,) = (
        one["path"]
        for one in read(iceprobe("ls", "stores", "--features", run.parent / "features", "--json"))[
            "stores"
        ]
        if "train" in one["images"]
    )
    for command, more in (("fit", ["--probe", "ep2", "--epochs", 1, "--seeds", 1]), ("knn", [])):
        document = read(iceprobe(command, store, *more, "--output", command, "--json"))
        assert document["results"] == entries_of(Path(command) / "results.json", "results")
    exported = read(
        iceprobe("export", run, "--probe", "ep2", "--output", "e", "--trust", "--json")
    )["paths"][0]
    asked = ["--trust", "--examples", images / "test", "--output", "p.csv"]
    document = read(iceprobe("predict", exported, *asked, "--json"))
    assert document["paths"] == [str(Path("p.csv").resolve())]
    (model,) = document["models"]
    assert (model["source"], model["probe"], model["seed"]) == (str(Path(exported)), "ep2", 0)


@pytest.mark.slow
def test_dense_and_adapted_fits_answer_with_what_they_write(iceprobe, images):
    tiny = ["--backbone", "bundled:mae-tiny", "--data", "bundled:fashion-clutter", "--limit", 40]
    quick = ["--epochs", 1, "--seeds", 1, "--learning-rates", "1e-1"]
    document = read(iceprobe("segment", *tiny, *quick, "--output", "s", "--json"))
    written = entries_of(Path("s/dense.json"), "segmentations")
    assert sorted(document["results"], key=str) == sorted(written, key=str)
    vit = "python:tests.cli.tiny:build_vit?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    asked = [
        "--backbone",
        vit,
        "--data",
        f"folder:{images}",
        "--adapt",
        "bitfit",
        "--batch-size",
        18,
    ]
    document = read(iceprobe("adapt", *asked, *quick, "--output", "a", "--json"))
    assert document["results"] == entries_of(Path("a/results.json"), "results")


def test_a_comparison_has_scores_as_fractions_and_its_difference(iceprobe, run):
    document = read(iceprobe("compare", run, "--margin", 1.5, "--mistakes", 1, "--json"))
    (one,) = document["comparisons"]
    scores = {r["probe"]: r["metrics"]["top1"] for r in entries_of(run / "results.json", "results")}
    assert one["probe"]["label"] == "ep2"
    assert one["probe"]["score"] == scores["ep2"]
    assert one["against"]["score"] == scores["knn"]
    gap = scores["ep2"]["mean"] - scores["knn"]["mean"]
    assert one["difference"]["mean"] == pytest.approx(gap, abs=1e-12)
    low, high = one["difference"]["interval"]
    assert low <= gap <= high
    assert one["margin"] == 0.015
    assert one["same"] is False
    assert one["undertrained"] == ["ep2"]


def test_measures_and_plans_are_numbers(iceprobe, run, images):
    document = read(iceprobe("measure", run, "--output", "m.json", "--json"))
    assert document["measured"] == entries_of(Path("m.json"), "measured")
    assert document["paths"] == [str(Path("m.json").resolve())]
    (advice,) = read(iceprobe("advise", run, "--json"))["advice"]
    assert {one["label"] for one in advice["encoders"][0]["probes"]} == {"knn", "ep2"}
    assert advice["encoders"][0]["undertrained"] == ["ep2"]
    assert "undertrained" in advice["paragraph"]
    asked = options(images)[:4]
    (plan,) = read(iceprobe("plan", *asked, "--probe", "ep2", "--json"))["plans"]
    assert plan["extraction"]["images"] == {"train": 36, "test": 12}
    assert isinstance(plan["fit"]["flops"], int | float)
    assert plan["refused"] == []


def test_lists_are_entries_and_an_empty_one_is_there(iceprobe, run):
    everything = read(iceprobe("ls", "--json"))
    assert everything["runs"] == everything["stores"] == []
    assert {"top1", "map", "r2"} <= {one["name"] for one in everything["metrics"]}
    (top1,) = (one for one in everything["metrics"] if one["name"] == "top1")
    assert (top1["task"], top1["range"], top1["percent"]) == ("classification", [0, 1], True)
    (listed,) = read(iceprobe("ls", "runs", "--runs", run.parent, "--json"))["runs"]
    best = read(iceprobe("run", run / "config.yaml", "--json"))["results"][0]
    assert listed["score"] == best["metrics"]["top1"]
    stores = read(iceprobe("ls", "stores", "--features", run.parent / "features", "--json"))
    (store,) = (one for one in stores["stores"] if "train" in one["images"])
    assert store["images"] == {"train": 36, "test": 12}
    assert store["bytes"] == sum(
        file.stat().st_size for file in Path(store["path"]).rglob("*") if file.is_file()
    )
    pruned = read(iceprobe("prune", "--features", run.parent / "features", "--json"))["stores"]
    assert [one["path"] for one in pruned] == [one["path"] for one in stores["stores"]]
    assert not any(one["removed"] for one in pruned)
    (ep32,) = (
        one
        for one in read(iceprobe("ls", "probes", "ep", "--json"))["probes"]
        if one["name"] == "ep32"
    )
    assert ep32["counts"]["pooling"] == 614_400
    assert ep32["counts"]["total"] == 1_383_400
    assert read(iceprobe("ls", "probes", "zzz", "--json"))["probes"] == []


@pytest.mark.parametrize("flags", [["--json"], ["-q"], ["--json", "--quiet"]])
def test_an_error_stays_one_line_on_stderr(iceprobe, flags):
    for arguments in (["ls", "zzz"], ["compare", "nowhere"], ["fit", "nowhere"]):
        ended = iceprobe(*arguments, *flags)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("iceprobe: error: ")
        assert ended.err.count("\n") == 1
    assert console.answer is None
    assert not console.brief
    assert not console.stderr


def test_quiet_says_only_the_table_paths_and_what_matters_to_a_number(iceprobe, quick, run):
    ended = iceprobe(
        "run", *quick, "--probe", "ep2", "--learning-rates", "1e-2", "--output", "r", "-q"
    )
    assert ended.code == 0
    for word in ("extract", "plan:", "refit", "report: "):
        assert word not in ended.out + ended.err
    assert "INFO extract train: 36/36" in Path("r/log.txt").read_text()  # the log has it
    assert "ep2 " in ended.out
    assert "undertrained" in ended.out
    assert ended.out.splitlines()[-1] == str(Path("r/report.html").resolve())
    compared = iceprobe("compare", run, "-q")
    assert "undertrained" in compared.err
    assert "95% interval" in compared.out
    assert " reads and " not in compared.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_them(name):
    parameters = get_command(app).commands[name].params  # type: ignore[attr-defined]
    assert {"--json", "--quiet", "--debug"} <= {flag for one in parameters for flag in one.opts}


def test_a_record_is_plain_values():
    score = Score.of([0.5, 0.75], (0.25, 1.0))
    found = plain({"a": score, 1: (np.float32(0.5), float("nan"), Path("x")), "b": np.arange(2)})
    assert found == {
        "a": {"mean": 0.625, "sd": score.sd, "values": [0.5, 0.75], "interval": [0.25, 1.0]},
        "1": [0.5, None, "x"],
        "b": [0, 1],
    }
    answer = Answer("x")
    assert answer.empty
    answer.add("rows", [])
    answer.note("ü\x1b")
    assert json.loads(str(answer)) == {"command": "x", "rows": [], "notes": ["ü\x1b"], "paths": []}
    assert "\\u001b" in str(answer)
