"""Tokens in files on the command line: `fit`, `knn`, `plan`, and what stands in their run folders."""

import numpy as np
import pytest

import iceprobe as library
from iceprobe.results.stores import stored_for
from tests.cli.test_plan import table
from tests.store.test_features import tokens, write

FAST = ("--epochs", "2", "--seeds", "1")


@pytest.fixture
def spec(tmp_path):
    for name, n in (("train", 60), ("test", 30)):
        write(tmp_path / f"{name}.h5", *tokens(n), where=np.arange(n) % 2)
    return "features:train.h5?test=test.h5&target=y&slice=where"


def test_fit_is_the_call_from_python(iceprobe, spec, tmp_path):
    ended = iceprobe("fit", spec, "--probe", "linear", "--probe", "ep4", *FAST, "--output", "run")
    assert (ended.code, ended.err) == (0, "")
    found = library.read_results("run")
    own = library.fit(spec, ["linear", "ep4"], epochs=2, seeds=1, output=tmp_path / "own")
    for mine, its in zip(found, own, strict=True):
        assert mine.score == its.score
        assert set(mine.predictions().slices) == {"where"}
    assert f"store: {spec}" in (tmp_path / "run" / "config.yaml").read_text()
    again = iceprobe("fit", "run/config.yaml")
    assert "complete already" in again.out
    read = library.read_results("run")[0]  # knows no open store
    assert read.open_store is None
    assert stored_for(read)["test"].patches([3]).equal(own[0].open_store["test"].patches([3]))


def test_the_run_is_named_after_the_file(iceprobe, spec, tmp_path):
    assert iceprobe("knn", spec).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("train-heldout-")
    assert [result.probe for result in library.read_results(run)] == ["knn"]


def test_a_finished_run_of_other_tokens_is_refused(iceprobe, spec, tmp_path):
    asked = ("fit", spec, "--probe", "linear", *FAST, "--output", "run")
    assert iceprobe(*asked).code == 0
    x, y = tokens(60)
    write(tmp_path / "train.h5", x + 1, y, where=y % 2)
    ended = iceprobe(*asked)
    assert ended.code == 2
    assert "its features have changed since" in ended.err


def test_plan_reads_no_token(iceprobe, spec, monkeypatch):
    from iceprobe.datasets.feature_files import examples

    monkeypatch.setattr(examples.OneFile, "read", None)
    ended = iceprobe("plan", spec, "--probe", "ep4", "--probe", "knn", *FAST)
    assert (ended.code, ended.err) == (0, "")
    rows = table(ended.out)
    assert rows["examples"] == "train 60, test 30"
    assert "select 5 × 2 × 3 members, refit 2 × 1 members" in rows["time, fit"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "features:none.h5"), "no tokens at 'none.h5'"),
        (("fit", "features:train.h5?test=test.h5&targets=y"), "Did you mean target"),
        (("knn", "features:train.h5?test=test.h5&target=z"), "unknown column of train.h5 'z'"),
        (("fit", "features:train.h5?test_fraction=1", "--probe", "linear"), "no split 'train'"),
        (("plan", "features:train.h5?test_fraction=1"), "no split 'train'"),
        (("run", "--backbone", "bundled:mae-tiny", "--data", "features:train.h5?test=test.h5"),
         "which no backbone reads: probe them with iceprobe fit"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(iceprobe, spec, arguments, words):
    ended = iceprobe(*arguments)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.count("\n") == 1


def test_ls_shows_the_source(iceprobe):
    assert "features:train.h5?test=test.h5&target=y" in iceprobe("ls", "datasets", "features").out


def test_extract_from_writes_a_store_that_fit_reads(iceprobe, spec, tmp_path):
    ended = iceprobe("extract", "--from", spec)
    assert (ended.code, ended.err) == (0, "")
    place = ended.out.splitlines()[-1]
    assert iceprobe("extract", "--verify", place).code == 0
    one = library.fit(place, ["linear", "ep4"], epochs=2, seeds=1, output=tmp_path / "one")
    other = library.fit(spec, ["linear", "ep4"], epochs=2, seeds=1, output=tmp_path / "other")
    assert [result.score for result in one] == [result.score for result in other]
    wrong = iceprobe("extract", "--from", spec, "--tokens", "int8")
    assert "--tokens is of images and a backbone" in wrong.err
    for option in ("--verify", "--repair"):
        both = iceprobe("extract", "--from", spec, option, place)
        assert (both.code, both.err.count("\n")) == (2, 1)
        assert f"{option} '{place}' and --from" in both.err


def test_a_run_is_read_on_the_tokens_of_another_hospital(iceprobe, spec, tmp_path):
    """The other one has the same examples here, so that predictions are those of the run's own test split."""
    x, y = tokens(30)
    write(tmp_path / "b.h5", x, y)
    other = "features:b.h5?test_fraction=1"
    asked = ("--probe", "knn", "--probe", "ep4", *FAST, "--output", "run")
    ended = iceprobe("fit", spec, *asked, "--test", f"b={other}")
    assert (ended.code, ended.err) == (0, "")
    read = library.read_results("run/tests/b")
    for one, own in zip(read, library.read_results("run"), strict=True):
        logits, expected = (r.predictions().logits().values.astype(np.float32) for r in (one, own))
        np.testing.assert_allclose(logits, expected, atol=1e-2)
    assert any("taken to be of the run's own encoder" in line for line in read[0].assumed)
    for change, words in (
        ("&backbone=uni", "say backbone=tokens of them if one encoder made both"),
        ("&key=narrow", "has tokens of width 4, and the run's have 8"),
    ):
        write(tmp_path / "b.h5", x, y, narrow=x[..., :4].copy())
        key = "" if "key" in change else "&key=features"
        wrong = iceprobe("test", "run", "--data", f"{other}{key}{change}", "--name", "wrong")
        assert wrong.code == 2
        assert words in wrong.err
