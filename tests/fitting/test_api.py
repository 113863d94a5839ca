"""Stored tokens → run folder: what is written, what is read, and what a kill costs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import iceprobe
from iceprobe import IceprobeError
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.fitting import api, phases, selection
from iceprobe.results import read_curves, read_results
from iceprobe.store.reader import StoredSplit
from iceprobe.tokens import Tokens
from tests.cli.tiny import Tiny
from tests.store.conftest import make_backbone

PROBES = ["knn", "linear?input=mean", "ep4", "aim2", "abmilp"]
QUICK = dict(seeds=2, epochs=4, batch_size=32, learning_rates=[3e-3, 3e-2])


def planted_images(name: str, n: int, seed: int) -> ArraySplit:
    """A texture of the class in one of sixteen cells, noise in the others."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).integers(0, 2, (3, 4, 4)) * 255
    images = rng.integers(0, 120, (n, 16, 16), dtype=np.uint8)
    labels = np.arange(n) % 3
    for image, label, cell in zip(images, labels, rng.integers(0, 4, (n, 2)), strict=True):
        y, x = 4 * cell
        image[y : y + 4, x : x + 4] = patterns[label]
    return ArraySplit(name, images, labels, [f"{name}/{i:04d}.png" for i in range(n)], None)


def planted_dataset() -> Dataset:
    splits = {"train": planted_images("train", 240, 0), "test": planted_images("test", 90, 1)}
    return Dataset(spec="test:planted", name="planted", classes=["a", "b", "c"], splits=splits)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16)


def content(results) -> list[dict]:
    """Results without what differs between two runs of the same thing."""
    changing = {"seconds", "created", "command", "files"}
    return [r.model_dump(mode="json", exclude=changing) for r in results]


def test_fit_writes_a_run_that_reads_back(store, tmp_path):
    results = iceprobe.fit(store, PROBES, output=tmp_path / "run", **QUICK)
    assert [r.probe for r in results] == PROBES
    again = read_results(tmp_path / "run")
    assert content(again) == content(results)
    for result in again:
        predictions = result.predictions()
        accuracy = (predictions.predicted == store["test"].labels).mean(1)
        assert result.top1.values == pytest.approx(accuracy.tolist())
        assert len(result.files.probes) == (0 if result.probe == "knn" else 2)
    rows = read_curves(tmp_path / "run")
    # 4 trained probes × 2 rates × 2 seeds × 4 epochs to select, then 2 seeds up to the chosen epoch.
    assert sum(row.phase == "select" for row in rows) == 4 * 2 * 2 * 4
    chosen = sum(2 * int(r.selected["epoch"]) for r in again if r.method == "trained")
    assert sum(row.phase == "refit" for row in rows) == chosen
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_saved_probes_predict_what_was_reported(store, tmp_path):
    results = iceprobe.fit(store, PROBES, output=tmp_path / "run", **QUICK)
    test = store["test"]
    patches = test.patches(np.arange(len(test))).float()
    tokens = Tokens(patches, test.prefix.float(), store.grid, store.has_class)
    for result in results[1:]:
        for seed, file in enumerate(result.files.probes):
            probe = iceprobe.probes.build(result.probe, store.dim, 3, store.grid, store.has_class)
            probe.load_state_dict(load_file(tmp_path / "run" / file))
            with safe_open(tmp_path / "run" / file, "pt") as opened:
                assert opened.metadata()["probe"] == result.probe
            predicted = probe.eval()(tokens).argmax(1).numpy()
            agree = (predicted == result.predictions().predicted[seed]).mean()
            assert agree > 0.98  # the stored mean wasn't rounded to float16; patches were


def test_attending_finds_what_averaging_drowns(store, tmp_path):
    """On planted data EP must beat k-NN and the mean, or the engine doesn't learn."""
    settings = dict(seeds=1, epochs=60, batch_size=32, learning_rates=[1e-2, 3e-2])
    knn, mean, ep = iceprobe.fit(
        store, ["knn?input=mean", "linear?input=mean", "ep4"], output=tmp_path / "r", **settings
    )
    assert ep.top1.mean > 0.9
    assert ep.top1.mean > mean.top1.mean + 0.1
    assert ep.top1.mean > knn.top1.mean + 0.1


def test_the_test_split_is_read_once(store, tmp_path, monkeypatch):
    read = []
    gather = StoredSplit.patches

    def spy(self, rows):
        if len(self) == 90:
            read.extend(np.asarray(rows).tolist())
        return gather(self, rows)

    monkeypatch.setattr(StoredSplit, "patches", spy)
    iceprobe.fit(store, ["ep4"], output=tmp_path / "run", **QUICK)
    assert sorted(read) == list(range(90))


def test_paper_says_that_it_selected_on_the_reported_split(store, tmp_path):
    (result,) = iceprobe.fit(
        store, ["ep4"], protocol="paper", seeds=2, epochs=12, output=tmp_path / "run"
    )
    assert "reported split" in result.selected_on
    assert result.selected_on_reported
    assert all(
        best >= last
        for best, last in zip(result.top1.values, result.last_epoch.values, strict=True)
    )
    rows = read_curves(tmp_path / "run")
    assert {row.learning_rate for row in rows} == {0.1 * 15 / 256}  # 240 images in 16 steps
    for seed, value in enumerate(result.top1.values):
        mine = [row.eval_accuracy for row in rows if row.seed == seed]
        assert value == pytest.approx(max(mine))
        assert result.last_epoch.values[seed] == pytest.approx(mine[-1])


class Killed(BaseException):
    pass


def kill_after(calls: int):
    """A progress callback that kills the fit at its n-th step."""
    count = 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal count
        if stage in ("select", "refit", "paper"):
            count += 1
            if count == calls:
                raise Killed

    return progress


@pytest.mark.parametrize(
    ("protocol", "moments"), [("heldout", (1, 9, 12, 10, 9)), ("paper", (40, 50))]
)
def test_a_killed_fit_ends_as_one_that_was_not(store, tmp_path, monkeypatch, protocol, moments):
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings = QUICK | dict(protocol=protocol)
    if protocol == "paper":
        settings |= dict(epochs=6, learning_rates=[0.1, 0.3])
    whole = iceprobe.fit(store, PROBES, output=tmp_path / "whole", **settings)
    for moment in moments:
        with pytest.raises(Killed):
            iceprobe.fit(
                store, PROBES, output=tmp_path / "r", progress=kill_after(moment), **settings
            )
        assert not (tmp_path / "r" / "results.json").exists()
    resumed = iceprobe.fit(store, PROBES, output=tmp_path / "r", **settings)
    assert content(resumed) == content(whole)
    for result in whole:
        for name in result.files.probes:
            one, other = load_file(tmp_path / "whole" / name), load_file(tmp_path / "r" / name)
            assert all(torch.equal(one[key], other[key]) for key in one)
    assert read_curves(tmp_path / "whole") == read_curves(tmp_path / "r")


@pytest.mark.slow
def test_kill_9_costs_nothing_but_time(store, tmp_path):
    """A real process, killed for real, twice."""
    code = (
        "import sys, iceprobe; from iceprobe.fitting import phases;"
        "phases.SECONDS_BETWEEN_CHECKPOINTS = 0.0;"
        "store = iceprobe.Store.open(sys.argv[1]);"
        "iceprobe.fit(store, ['knn', 'ep4', 'aim2'], output=sys.argv[2], seeds=2, epochs=30,"
        " batch_size=32, learning_rates=[3e-3, 3e-2],"
        " progress=lambda *a: print(*a, flush=True))"
    )

    def start(folder: Path) -> subprocess.Popen:
        arguments = [sys.executable, "-c", code, str(store.path), str(folder)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    assert start(tmp_path / "whole").communicate()[0]
    for lines in (30, 120):
        process = start(tmp_path / "killed")
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        assert process.wait() == -9
        assert not (tmp_path / "killed" / "results.json").exists()
    assert start(tmp_path / "killed").wait() == 0
    whole, killed = (read_results(tmp_path / name) for name in ("whole", "killed"))
    assert content(whole) == content(killed)


def test_a_finished_run_is_not_overwritten(store, tmp_path):
    iceprobe.fit(store, ["knn"], output=tmp_path / "run")
    before = (tmp_path / "run" / "results.json").read_bytes()
    with pytest.raises(IceprobeError, match="finished run"):
        iceprobe.fit(store, ["knn"], output=tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_another_fits_state_is_refused(store, tmp_path):
    with pytest.raises(Killed):
        iceprobe.fit(store, ["ep4"], output=tmp_path / "r", progress=kill_after(29), **QUICK)
    with pytest.raises(IceprobeError, match="other settings"):
        iceprobe.fit(store, ["ep2"], output=tmp_path / "r", **QUICK)


@pytest.mark.parametrize(
    ("probes", "settings", "says"),
    [
        ([], {}, "no probe"),
        (["ep4", "ep?queries=4"], {}, "twice"),
        (["ep3"], {}, "does not divide"),
        (["ep4"], {"seeds": 0}, "seeds=0"),
        (["ep4"], {"amp": "float8"}, "amp"),
        (["ep4"], {"split": "val"}, "no split 'val'"),
        (["ep4"], {"device": "cuda:99"}, "cuda:99"),
        (["epp"], {}, "unknown probe"),
    ],
)
def test_what_cannot_be_fitted_is_named_before_anything_is_written(
    store, tmp_path, probes, settings, says
):
    with pytest.raises(IceprobeError, match=says):
        iceprobe.fit(store, probes, output=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_step_too_large_for_memory_is_told_with_the_batch_size_that_would_do(
    store, tmp_path, monkeypatch
):
    """4 queries × 2 rates × 2 seeds, each 4·16 + 2·8 floats an image: 5,120 bytes, and parameters."""
    parameters = 16 * 4 * iceprobe.probes.build("ep4", 8, 3, (4, 4)).num_parameters()["total"]
    for free, remedy in ((parameters + 20 * 5120, "--batch-size 20"), (parameters, "fewer probes")):
        monkeypatch.setattr(selection, "available_memory", lambda free=free: free)
        with pytest.raises(IceprobeError, match=remedy):
            iceprobe.fit(store, ["ep4"], output=tmp_path / "run", memory=0, **QUICK)
    assert not (tmp_path / "run").exists()


def test_probe_in_memory_leaves_the_model_as_it_was():
    model = Tiny().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (result,) = iceprobe.probe(
        model,
        planted_dataset(),
        ["ep4"],
        epochs=2,
        learning_rates=[1e-2],
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    assert result.run is None
    assert result.store.path is None
    assert result.num_tokens == 4
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_the_fingerprint_covers_the_settings(store):
    base = api._fingerprint(store, probes=["ep4"], seeds=3)
    assert base != api._fingerprint(store, probes=["ep4"], seeds=2)
    assert base != api._fingerprint(store, probes=["ep8"], seeds=3)
    assert json.dumps(base)
