"""``run`` and the stages by themselves, from images to the last file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from iceprobe.results import read_results
from tests.cli.conftest import BACKBONE
from tests.cli.tiny import build

PROBES = ["--probe", "knn", "--probe", "linear", "--probe", "ep4"]
VOLATILE = {"seconds", "created", "command", "store"}  # of a result, between two equal runs


def the_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def numbers(run: Path) -> list[dict]:
    entries = json.loads((run / "results.json").read_text())["results"]
    for entry in entries:  # a fit on a store alone keeps no names beside its predictions
        entry["files"].pop("digests", None)
    return [{key: e[key] for key in e.keys() - VOLATILE} for e in entries]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_run_leaves_everything_and_ends_with_the_path_of_the_report(iceprobe, quick, tmp_path):
    ended = iceprobe("run", *quick, *PROBES)
    assert (ended.code, ended.err) == (0, "")
    run = the_run(tmp_path)
    assert ended.out.splitlines()[-1] == str(run / "report.html")
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.yaml",
        "results.json",
        "curves.csv",
        "report.html",
        "log.txt",
        "probes",
    }
    results = {result.probe: result for result in read_results(run)}
    assert list(results) == ["knn", "linear", "ep4"]
    # Grey levels three standard deviations apart, 64 pixels a patch: neighbours tell them.
    assert results["knn"].top1.mean == 1.0
    assert results["ep4"].command.startswith("iceprobe run --backbone 'python:tests.cli.tiny")
    assert results["ep4"].seeds == [0, 1]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["probe"] == ["knn", "linear", "ep4"]
    assert config["forward_batch_size"] == 64
    assert "store features/" in (run / "log.txt").read_text()


def test_the_same_command_again_shows_the_finished_run_and_changes_nothing(
    iceprobe, quick, tmp_path
):
    first = iceprobe("run", *quick, *PROBES)
    before = contents(tmp_path)
    again = iceprobe("run", *quick, *PROBES)
    assert again.code == 0
    assert "is complete already" in again.out
    assert again.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert contents(tmp_path) == before
    # From its own configuration file it is the same run as well.
    config = the_run(tmp_path).relative_to(tmp_path) / "config.yaml"
    assert "is complete already" in iceprobe("run", config).out
    refused = iceprobe("run", config, "--no-resume")
    assert refused.code == 2
    assert "finished run" in refused.err


def test_a_finished_run_is_not_shown_when_its_images_have_changed(iceprobe, quick, tmp_path):
    from tests.cli.conftest import write_images

    folder = write_images(tmp_path / "images", {"train": 4, "test": 2})
    run = ["run", *quick[:2], "--data", f"folder:{folder}", "--probe", "knn"]
    assert iceprobe(*run, "--output", "runs/mine").code == 0
    image = folder / "test" / "grey" / "00.png"
    times, good = image.stat(), image.read_bytes()
    image.write_bytes((folder / "test" / "dark" / "00.png").read_bytes())
    before = contents(tmp_path)
    ended = iceprobe(*run, "--output", "runs/mine")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "runs/mine" in ended.err
    assert "features have changed" in ended.err
    assert "another --output" in ended.err
    assert contents(tmp_path) == before  # nor was anything extracted
    image.write_bytes(good)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "complete already" in iceprobe(*run, "--output", "runs/mine").out


def test_a_finished_run_is_not_shown_when_its_weights_have_changed(iceprobe, quick, tmp_path):
    weights = build().state_dict()
    torch.save(weights, "c.pth")
    run = ["run", "--backbone", f"{quick[1]}&checkpoint=c.pth", *quick[2:], "--probe", "knn"]
    assert iceprobe(*run).code == 0
    torch.save({name: value + 1 for name, value in weights.items()}, "c.pth")
    ended = iceprobe(*run)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "features have changed" in ended.err
    torch.save(weights, "c.pth")
    assert "complete already" in iceprobe(*run).out


def test_a_run_that_read_a_richer_store_is_shown(iceprobe, quick):
    # k-NN reads no patches and takes the store of the run before, which has them.
    iceprobe("run", *quick, "--probe", "ep4")
    assert iceprobe("run", *quick, "--probe", "knn").code == 0
    assert len(list(Path("features").iterdir())) == 1
    assert "complete already" in iceprobe("run", *quick, "--probe", "knn").out


def test_a_finished_fit_is_not_shown_when_its_store_is_another(iceprobe, quick):
    stores = [
        Path(iceprobe("extract", *quick[:4], *words).out.splitlines()[-1])
        for words in ([], ["--limit", 24])
    ]
    for command in ("fit", "knn"):
        fit = [command, stores[0], "--output", f"runs/{command}"]
        fit += ["--probe", "knn"] if command == "fit" else []
        assert iceprobe(*fit).code == 0
        assert "complete already" in iceprobe(*fit).out
        stores[0].rename("aside")
        stores[1].rename(stores[0])
        ended = iceprobe(*fit)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "features have changed" in ended.err
        stores[0].rename(stores[1])
        Path("aside").rename(stores[0])


def test_a_temporary_of_a_killed_run_is_in_nobodys_way(iceprobe, quick, tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / ".config.yaml.x1_yz2ab").write_text("backbo")
    assert iceprobe("run", *quick, "--probe", "knn", "--output", "runs/mine").code == 0
    assert (folder / "results.json").exists()
    assert not (folder / ".config.yaml.x1_yz2ab").exists()


def test_a_saved_configuration_does_it_again_elsewhere(iceprobe, quick):
    iceprobe("run", *quick, *PROBES, "--learning-rates", "1e-3,1e-2", "--output", "runs/a")
    assert iceprobe("run", "runs/a/config.yaml", "output=runs/b").code == 0
    assert numbers(Path("runs/b")) == numbers(Path("runs/a"))
    (store,) = Path("features").iterdir()
    grid = ["--learning-rates", "1e-3,1e-2", "--weight-decays", "0"]
    assert iceprobe("fit", store, *quick[4:], *PROBES, *grid, "--output", "runs/c").code == 0
    assert numbers(Path("runs/c")) == numbers(Path("runs/a"))
    rates = {row.split(",")[2] for row in Path("runs/c/curves.csv").read_text().splitlines()[1:]}
    assert {float(rate) for rate in rates} - {0.0} == {1e-3, 1e-2}  # a linear probe has none
    assert "complete already" in iceprobe("fit", "runs/c/config.yaml").out
    assert iceprobe("fit", "runs/c/config.yaml", "seeds=1", "output=runs/d").code == 0
    assert read_results("runs/d")[1].seeds == [0]
    assert iceprobe("knn", store, "--device", "cpu", "--output", "runs/k").code == 0
    assert yaml.safe_load(Path("runs/k/config.yaml").read_text())["device"] == "cpu"
    assert iceprobe("fit", "runs/k/config.yaml", "output=runs/l").code == 0
    assert numbers(Path("runs/l")) == numbers(Path("runs/k")) == numbers(Path("runs/a"))[:1]


def test_another_configuration_does_not_overwrite_a_run(iceprobe, quick, tmp_path):
    where = ["--output", "runs/mine"]
    assert iceprobe("run", *quick, "--probe", "knn", *where).code == 0
    before = contents(tmp_path)
    ended = iceprobe("run", *quick, "--probe", "linear", *where)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "runs/mine" in ended.err
    assert "['knn'] → ['linear']" in ended.err
    assert "--output" in ended.err
    assert contents(tmp_path) == before
    # Where the store lies and how fast it is read is no other configuration.
    assert (
        "complete already"
        in iceprobe(
            "run", *quick, "--probe", "knn", *where, "--workers", 1, "--features", "elsewhere"
        ).out
    )


def test_a_report_that_was_not_reached_is_made_up_for(iceprobe, quick, tmp_path):
    iceprobe("run", *quick, "--probe", "knn")
    run = the_run(tmp_path)
    (run / "report.html").unlink()
    assert iceprobe("run", *quick, "--probe", "knn").code == 0
    assert (run / "report.html").stat().st_size > 1000


def test_file_options_and_overrides_in_rising_order(iceprobe, images, quick, tmp_path):
    config = {"backbone": quick[1], "data": quick[3], "seeds": 1, "epochs": 1, "memory": "1GB"}
    config |= {"probe": "knn", "output": "runs/from-file"}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    ended = iceprobe(
        "run", "c.yaml", "output=runs/from-override", "--seeds", 2, "--output", "runs/o"
    )
    assert ended.code == 0
    resolved = yaml.safe_load(Path("runs/from-override/config.yaml").read_text())
    assert (resolved["seeds"], resolved["epochs"], resolved["probe"]) == (2, 1, ["knn"])
    assert resolved["memory"] == 10**9


def test_stages_one_by_one_equal_the_run(iceprobe, quick, tmp_path):
    backbone, data, rest = quick[:2], quick[2:4], quick[4:]
    iceprobe("run", *quick, *PROBES, "--output", "runs/whole")
    extracted = iceprobe("extract", *backbone, *data, "--output", "other")
    assert extracted.code == 0
    store = extracted.out.splitlines()[-1]
    assert iceprobe("fit", store, *rest, *PROBES, "--output", "runs/staged").code == 0
    assert numbers(Path("runs/staged")) == numbers(Path("runs/whole"))
    assert iceprobe("knn", store, "--output", "runs/knn").code == 0
    assert numbers(Path("runs/knn")) == numbers(Path("runs/whole"))[:1]


def test_runs_are_listed_compared_and_reported(iceprobe, quick, tmp_path):
    iceprobe("run", *quick, *PROBES, "--output", "runs/a")
    iceprobe("run", *quick, *PROBES, "--output", "runs/b", "--seeds", 1)
    listed = iceprobe("ls", "runs").out
    assert "a" in listed
    assert "b" in listed
    own = iceprobe("compare", "runs/a", "--against", "ep4", "--margin", 1.5)
    assert own.code == 0
    assert "linear" in own.out
    assert "same ±1.5" in own.out
    assert "corrected for 2 comparisons (Holm); same: each comparison's own." in " ".join(
        own.out.split()
    )
    both = iceprobe("compare", "runs/a", "runs/b")
    assert "runs/a" in both.out
    assert "runs/b" in both.out
    own_report = Path("runs/a/report.html").read_bytes()
    assert iceprobe("report", "runs/a", "runs/b").code == 2
    assert Path("runs/a/report.html").read_bytes() == own_report
    assert iceprobe("report", "runs/a", "runs/b", "--output", "both.html").code == 0
    assert Path("both.html").stat().st_size > 1000
    assert iceprobe("report", "runs/a", "--output", "t.md").code == 0
    assert Path("t.md").read_text().count("\n| ") == 3
    assert iceprobe("report", "runs/a", "--output", "t.csv").code == 0
    assert Path("t.csv").read_text().startswith("probe,top1")


def test_plan_tells_the_cost_and_writes_nothing(iceprobe, quick, tmp_path):
    ended = iceprobe("plan", *quick, *PROBES)
    assert (ended.code, ended.err) == (0, "")
    assert "train 36, test 12" in ended.out
    # Two epochs of five folds, each of EP's three learning rates with a seed; then both seeds.
    assert "select 5 × 2 × 3 members, refit 2 × 2 members" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_bad_images_can_be_skipped_and_are_counted(iceprobe, quick, tmp_path):
    from tests.cli.conftest import write_images

    folder = write_images(tmp_path / "images", {"train": 6, "test": 2})
    (folder / "train" / "grey" / "00.png").write_bytes(b"no image")
    options = [*quick[:2], "--data", f"folder:{folder}", *quick[4:], "--probe", "knn"]
    refused = iceprobe("run", *options)
    assert refused.code == 2
    assert refused.err.count("--on-bad-image skip") == 1
    assert "skipped: " not in refused.out + refused.err  # nothing was: it is refused
    assert not Path("runs").exists()
    ended = iceprobe("run", *options, "--on-bad-image", "skip")
    assert ended.code == 0
    assert (ended.out + ended.err).count("skipped: image") == 1  # and not by the estimate as well
    (result,) = read_results(the_run(tmp_path))
    assert (result.skipped_images, result.train_images) == (1, 17)


def test_corrupt_shard_is_named_and_mended(iceprobe, quick, tmp_path):
    store = Path(iceprobe("extract", *quick[:4]).out.splitlines()[-1])
    shard = sorted(store.glob("test-*.safetensors"))[0]
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    ended = iceprobe("extract", "--repair", store)
    assert ended.code == 0
    assert shard.name in ended.out
    assert shard.read_bytes() == good


@pytest.mark.parametrize("tokens", ["int8", "bfloat16", "float32"])
def test_every_dtype_of_tokens_goes_from_images_to_report(iceprobe, quick, tmp_path, tokens):
    ended = iceprobe("run", *quick, *PROBES, "--tokens", tokens)
    assert (ended.code, ended.err) == (0, "")
    assert read_results(the_run(tmp_path))[0].top1.mean == 1.0  # as with float16
    assert iceprobe("plan", *quick[:4], "--probe", "ep4", "--tokens", tokens).code == 0


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_the_same(iceprobe, quick, tmp_path):
    """``kill -9`` in every stage, one after the other, then the same command to its end."""
    command = ["run", *quick, *PROBES, "--batch-size", "8"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()

    def ended(folder: Path, *how: str) -> int:
        root = Path(__file__).parents[2]
        paths = f"{root / 'src'}{os.pathsep}{root}"
        return subprocess.run(
            [sys.executable, "-m", *how, *command],
            cwd=folder, env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
        ).returncode  # fmt: skip

    assert ended(whole, "iceprobe") == 0
    for stage, done in (("extract_test", 1), ("select_2/5", 3), ("refit", 1), ("report", 0)):
        assert ended(killed, "tests.robustness.moments", stage, str(done), "kill") == -9
        assert not list(killed.glob("runs/*/report.html"))
    assert ended(killed, "iceprobe") == 0
    assert contents(whole / "features") == contents(killed / "features")
    assert numbers(the_run(whole)) == numbers(the_run(killed))
    assert contents(the_run(whole) / "probes") == contents(the_run(killed) / "probes")


def test_halving_is_an_option_a_key_and_part_of_the_result(iceprobe, quick, tmp_path):
    options = [*quick[:-1], "4", "--probe", "ep4", "--learning-rates", "1e-7,1e-2", "--halving"]
    assert iceprobe("run", *options, "--output", "runs/a").code == 0
    assert yaml.safe_load(Path("runs/a/config.yaml").read_text())["halving"] is True
    (result,) = read_results("runs/a")
    assert result.early_stopping.rungs == [1, 2]
    assert "Early stopping: " in Path("runs/a/report.html").read_text()
    assert iceprobe("run", "runs/a/config.yaml", "output=runs/b").code == 0
    assert numbers(Path("runs/b")) == numbers(Path("runs/a"))
    (store,) = Path("features").iterdir()
    fit = ["fit", store, *options[4:-1]]
    assert iceprobe(*fit, "--halving", "--output", "runs/c").code == 0
    assert numbers(Path("runs/c")) == numbers(Path("runs/a"))
    for off, name in ([], "d"), (["--no-halving"], "e"):
        assert iceprobe(*fit, *off, "--output", f"runs/{name}").code == 0
        assert read_results(f"runs/{name}")[0].early_stopping is None
    planned = iceprobe("plan", *options)
    assert (planned.code, "at most" in planned.out) == (0, True)


def test_a_probe_that_diverges_whole_is_reported_after_the_others_are_shown(iceprobe, quick):
    options = [*quick, "--probe", "knn", "--probe", "ep4", "--learning-rates", "1e38"]
    for _ in range(2):  # run, then show what is there
        ended = iceprobe("run", *options, "--output", "runs/a")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "every member of ep4 has diverged: give smaller --learning-rates" in ended.err
        assert "knn" in ended.out
        assert ended.out.splitlines()[-1].endswith("report.html")
    assert [result.probe for result in read_results("runs/a")] == ["knn"]
    log = Path("runs/a/log.txt").read_text()
    assert "ep4, learning rate 1e+38, weight decay 0, seed 0 diverged in epoch" in log


def test_streamed_images_are_ordered_as_asked(iceprobe, quick, tmp_path, monkeypatch):
    """The results say how, and another order is another run. Freed memory is given back."""
    given_back: list[bool] = []
    monkeypatch.setattr(
        "iceprobe.cli.stages.give_back_freed_memory", lambda: given_back.append(True)
    )
    streamed = [*quick, "--probe", "ep2", "--memory", 1, "--batch-size", 8]
    for shuffle, buffer in (("blocks", 32), ("rows", None)):
        output = tmp_path / shuffle
        ended = iceprobe("run", *streamed, "--shuffle", shuffle, "--output", output)
        assert ended.code == 0
        assert "0 of 36 examples in memory, the rest streamed" in (output / "log.txt").read_text()
        (result,) = read_results(output)
        assert result.training["shuffle"] == shuffle
        assert result.training.get("buffer_images") == buffer
    assert len(given_back) == 2
    other = iceprobe("run", *streamed, "--shuffle", "blocks", "--output", output)
    assert (other.code, "shuffle" in other.err) == (2, True)
    assert iceprobe("plan", *quick, "--probe", "ep2", "--shuffle", "blocks").code == 0


def test_a_split_that_is_not_there_is_told_before_tokens_are_made(iceprobe, images, tmp_path):
    rows = [f"{p.relative_to(images)},{p.parent.name}" for p in sorted(images.rglob("*.png"))]
    rows = [f"{row},{number % 3}" for number, row in enumerate(rows)]
    (tmp_path / "table.csv").write_text("\n".join(["file,label,kit", *rows]) + "\n")
    data = f"table:{tmp_path}/table.csv?images={images}&image=file&target=label&fold=kit"
    asked = [
        "--backbone",
        BACKBONE,
        "--data",
        data,
        "--probe",
        "linear",
        "--features",
        tmp_path / "f",
    ]
    for command in ("run", "plan"):
        ended = iceprobe(command, *asked)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "has no split 'test', all is in train: give it one" in ended.err
        assert "--protocol folds" in ended.err
    assert not (tmp_path / "f").exists()
    ended = iceprobe("run", *asked, "--protocol", "folds", "--epochs", 1, "--min-steps", 1)
    assert ended.code == 0, ended.err
