"""Stored tokens → run folder: what is written, what is read, and what a kill costs."""

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
from iceprobe.fitting import memory, phases
from iceprobe.fitting.engine import forward
from iceprobe.fitting.feed import Batch, Feed
from iceprobe.fitting.members import Member, make_groups
from iceprobe.probes import build_pooling
from iceprobe.results import compare_pair, read_curves, read_results
from iceprobe.store import extract_in_memory
from iceprobe.store.split import StoredSplit
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


def assert_same_run(whole, resumed, place) -> None:
    """The run in ``place / "r"``, which was killed and went on, is that in ``place / "whole"``."""
    assert content(resumed) == content(whole)
    for result in whole:
        for name in result.files.probes:
            one, other = load_file(place / "whole" / name), load_file(place / "r" / name)
            assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [(place / name / "curves.csv").read_text() for name in ("whole", "r")]
    assert lines[0] == lines[1]


def test_fit_writes_a_run_that_reads_back(store, tmp_path):
    results = iceprobe.fit(store, PROBES, output=tmp_path / "run", **QUICK)
    assert [r.probe for r in results] == PROBES
    again = read_results(tmp_path / "run")
    assert content(again) == content(results)
    for result in again:
        predictions = result.predictions()
        accuracy = (predictions.predicted == store["test"].labels).mean(1)
        assert result.top1.values == pytest.approx(accuracy.tolist())
        # The optimum of a linear probe is the same for every seed.
        modules = {"knn": 0, "linear?input=mean": 1, "linear": 1}.get(result.probe, 2)
        assert len(result.files.probes) == modules
    solved = [one.probe for one in again if one.probe.startswith("linear")]
    rows = [row for row in read_curves(tmp_path / "run") if row.probe not in solved]
    trained = [one for one in again if one.method == "trained" and one.probe not in solved]
    # A probe × 2 rates × 5 folds × 4 epochs to select, then 2 seeds up to the chosen epoch.
    assert sum(row.phase == "select" for row in rows) == len(trained) * 2 * 5 * 4
    chosen = sum(2 * int(r.selected["epoch"]) for r in trained)
    assert sum(row.phase == "refit" for row in rows) == chosen
    assert not list((tmp_path / "run").glob("state*"))


def test_few_images_train_for_more_epochs(store, tmp_path):
    """240 images in batches of 32 are 8 steps: 70 steps are 9 epochs, whatever a probe reads."""
    iceprobe.fit(store, ["mean_value", "ep4"], output=tmp_path / "run", min_steps=70, **QUICK)
    last = {}
    for row in read_curves(tmp_path / "run"):
        if row.phase == "select":
            last[row.probe] = max(last.get(row.probe, 0), row.epoch)
    assert last == {"mean_value": 9, "ep4": 9}


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
    assert ep.top1.mean > mean.top1.mean + 0.05
    assert ep.top1.mean > knn.top1.mean + 0.1


def test_the_test_split_is_read_once(store, tmp_path, monkeypatch):
    read = []
    gather = StoredSplit.patches

    def spy(self, rows, *where):
        if len(self) == 90:
            read.extend(np.asarray(rows).tolist())
        return gather(self, rows, *where)

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
        if stage.partition(" ")[0] in ("select", "refit", "paper"):
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
    assert_same_run(whole, resumed, tmp_path)


@pytest.mark.slow
def test_kill_9_costs_nothing_but_time(store, tmp_path):
    """A real process, killed for real, twice: at the 30th and at the 120th call of ``progress``."""
    code = (
        "import itertools, os, signal, sys, iceprobe; from iceprobe.fitting import phases;"
        "calls, fatal = itertools.count(1), int(sys.argv[3]);"
        "phases.SECONDS_BETWEEN_CHECKPOINTS = 0.0;"
        "store = iceprobe.Store.open(sys.argv[1]);"
        "iceprobe.fit(store, ['knn', 'ep4', 'aim2'], output=sys.argv[2], seeds=2, epochs=30,"
        " batch_size=32, learning_rates=[3e-3, 3e-2],"
        " progress=lambda *_: next(calls) == fatal and os.kill(os.getpid(), signal.SIGKILL))"
    )

    def ended(folder: Path, fatal: int = 0) -> int:
        arguments = [sys.executable, "-c", code, str(store.path), str(folder), str(fatal)]
        return subprocess.run(arguments).returncode

    assert ended(tmp_path / "whole") == 0
    for fatal in (30, 120):
        assert ended(tmp_path / "killed", fatal) == -9
        assert not (tmp_path / "killed" / "results.json").exists()
    assert ended(tmp_path / "killed") == 0
    whole, killed = (read_results(tmp_path / name) for name in ("whole", "killed"))
    assert content(whole) == content(killed)


def test_a_finished_run_is_shown_to_the_same_request_and_never_overwritten(store, tmp_path):
    run, ask = tmp_path / "run", dict(seeds=1, epochs=1, learning_rates=[1e-2])
    fresh = iceprobe.fit(store, ["knn", "linear"], output=run, **ask)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run / "state-0.safetensors").write_bytes(b"of a run killed before it removed it")
    seen = []
    again = iceprobe.fit(
        store,
        ["knn", "linear"],
        output=run,
        memory=10**9,
        progress=lambda *t: seen.append(t),
        **ask,
    )
    assert not seen  # nothing was fitted
    assert [one.model_dump() for one in again] == [one.model_dump() for one in fresh]
    for mine, other in zip(again, fresh, strict=True):
        assert np.array_equal(mine.predictions().predicted, other.predictions().predicted)
        assert mine.open_store is store
    (ours,), (theirs,) = again[1].probes, fresh[1].probes
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    for changes, named in [
        (dict(epochs=2), r"protocol\.epochs 1 → 2"),
        (dict(seeds=2), "seeds 1 → 2"),
        (dict(resume=False), "finished run"),
    ]:
        with pytest.raises(IceprobeError, match=named):
            iceprobe.fit(store, ["knn", "linear"], output=run, **ask | changes)
    with pytest.raises(
        IceprobeError, match=r"probes \['knn', 'linear'\] → \['knn'\].*another --out"
    ):
        iceprobe.fit(store, ["knn"], output=run, **ask)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (run / "request.json").unlink()  # as of an earlier version
    with pytest.raises(IceprobeError, match="finished run of an earlier iceprobe"):
        iceprobe.fit(store, ["knn", "linear"], output=run, **ask)


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
        (["ep4"], {"amp": "float8"}, "fit_dtype"),
        (["ep4"], {"split": "val"}, "unknown split of test:planted 'val'. There are: test, train"),
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


def test_a_step_too_large_for_memory_is_reported_with_the_batch_size_that_would_do(
    store, tmp_path, monkeypatch
):
    """Two members a rate and seed, each of 4 queries with 3·16 + 2·8 floats an image and four times
    8 channels and 3 classes: 4,800 bytes; the 16·8 numbers of its patches under way, once in 2 bytes
    and twice in 4: 1,280 bytes; parameters, and what is read at once.
    """
    fixed = 16 * 4 * iceprobe.probes.build("ep4", 8, 3, (4, 4)).num_parameters()["total"] + 2**22
    each = 4 * 4 * (4 * (3 * 16 + 2 * 8) + 4 * (8 + 3)) + (16 * 8 * 2 + 2 * 16 * 8 * 4)
    for free, remedy in ((fixed + 20 * each, "--batch-size 20"), (fixed, "fewer probes")):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        with pytest.raises(IceprobeError, match=remedy):
            iceprobe.fit(store, ["ep4"], output=tmp_path / "run", memory=0, **QUICK)
    assert not (tmp_path / "run").exists()


def test_what_a_block_keeps_for_the_backward_pass_is_counted(store, tmp_path, monkeypatch):
    """Two norms, q, k, v, what they mix, two of the MLP's width 4: 14 tokens a token or more."""
    kept = memory.kept_for_backward(build_pooling("block", 64), num_tokens=9, dim=64)
    assert 14 * 9 * 64 <= kept <= 20 * 9 * 64
    assert memory.kept_for_backward(build_pooling("linear", 64), num_tokens=9, dim=64) == 0
    scorer = memory.kept_for_backward(build_pooling("abmilp", 64), num_tokens=9, dim=64)
    assert 9 * 64 + 9 <= scorer <= 9 * 64 + 2 * 9  # tanh's output, weights
    monkeypatch.setattr(memory, "available_memory", lambda: 5_000_000)
    with pytest.raises(IceprobeError, match="--batch-size"):
        iceprobe.fit(store, ["block"], output=tmp_path / "run", memory=0, **QUICK)


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


def test_the_reported_split_is_the_one_asked_for(tmp_path):
    """k-NN and trained probes alike; the test split isn't read at all."""
    data = planted_dataset()
    data.splits["val"] = planted_images("val", 45, 2)
    store = extract_in_memory(make_backbone(), data)
    store["test"].labels[:] = -1  # reading it would show
    results = iceprobe.fit(store, ["knn", "linear"], split="val", output=tmp_path / "r", **QUICK)
    for result in results:
        assert (result.split, result.test_images) == ("val", 45)
        assert result.predictions().labels.tolist() == (np.arange(45) % 3).tolist()


def test_a_look_during_training_leaves_random_numbers_alone(monkeypatch):
    backbone = make_backbone()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("reseeded"))
    before = torch.random.get_rng_state()
    iceprobe.probe(backbone, planted_dataset(), ["linear", "ep4"], **QUICK | dict(seeds=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_narrow_tokens_leave_classifiers_and_losses_wide(store):
    labels = ("ep4", "aim2", "abmilp", "linear", "block", "delf", "cbam", "slot2")
    for amp in (torch.bfloat16, torch.float16):
        members = [Member(label, 1e-2, 0.0, 0) for label in labels]
        groups = make_groups(members, store.shape, 3, torch.device("cpu"))
        feed = Feed(store["train"], np.arange(32), {"patches", "class"}, torch.device("cpu"), amp)
        (batch,) = feed.in_order(32)
        assert batch.inputs["patches"].dtype == amp
        wide = Batch({k: v.float() for k, v in batch.inputs.items()}, batch.labels)
        narrow_logits, wide_logits = forward(groups, batch), forward(groups, wide)
        for one, other in zip(narrow_logits, wide_logits, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("amp", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("held", [False, True])
def test_batches_of_an_int8_store(tmp_path, amp, held):
    store = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path, tokens="int8")
    split, rows = store["train"], np.array([200, 3, 77])
    shard = load_file(store.path / "train-00000.safetensors")
    patches = (shard["patches"].double() * shard["scales"].double()[..., None])[rows]
    prefix = shard["prefix"][rows].double()
    feed = Feed(
        split.hold(10**9) if held else split,
        rows,
        {"patches", "class+patches", "prefix+patches", "class"},
        torch.device("cpu"),
        amp,
    )
    (batch,) = feed.in_order(3)
    for name, expected in {
        "patches": patches,
        "class+patches": torch.cat([prefix[:, :1], patches], 1),
        "prefix+patches": torch.cat([prefix, patches], 1),
    }.items():
        assert batch.inputs[name].dtype == amp
        error = (batch.inputs[name].double() - expected).abs()
        assert (error <= torch.finfo(amp).eps * expected.abs() + 1e-7).all()
    assert torch.equal(batch.inputs["class"].double(), prefix[:, 0])


def test_a_fit_streams_int8_as_it_holds_it(tmp_path):
    store = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path, tokens="int8")
    streamed = iceprobe.fit(store, PROBES, memory=0, output=tmp_path / "a", **QUICK)
    held = iceprobe.fit(store, PROBES, output=tmp_path / "b", **QUICK)
    assert content(streamed) == content(held)
    assert held[2].top1.mean > 0.6  # ep4, of three classes


def test_a_backbone_with_a_learned_pooler_is_read_by_its_mean(tmp_path):
    backbone = make_backbone()
    backbone.pooled_class = True
    store = extract_in_memory(backbone, planted_dataset())
    given = iceprobe.fit(store, ["knn", "linear"], output=tmp_path / "a", **QUICK)
    mean = ["knn?input=mean", "linear?input=mean"]
    for one, other in zip(
        given, iceprobe.fit(store, mean, output=tmp_path / "b", **QUICK), strict=True
    ):
        assert one.top1 == other.top1


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"epochs": 5},
        {"batch_size": 16},
        {"learning_rates": [3e-3]},
        {"weight_decays": [0.1]},
        {"run_seed": 1},
        {"amp": "bfloat16"},
        {"protocol": "paper"},
    ],
    ids=str,
)
def test_a_state_is_taken_up_by_the_same_settings_only(store, tmp_path, monkeypatch, change):
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(Killed):
        iceprobe.fit(store, ["ep4"], output=tmp_path / "r", progress=kill_after(9), **QUICK)
    with pytest.raises(IceprobeError, match="other settings"):
        iceprobe.fit(store, ["ep4"], output=tmp_path / "r", **QUICK | change)


def test_a_state_that_was_cut_off_is_named(store, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "state-0.safetensors").write_bytes(bytes(100))
    with pytest.raises(IceprobeError, match=r"state-0\.safetensors can't be read"):
        iceprobe.fit(store, ["linear"], output=tmp_path / "r", **QUICK)


def test_a_folder_of_something_else_is_left_alone(store, tmp_path):
    (tmp_path / "curves.csv").write_text("mine")
    with pytest.raises(IceprobeError, match="no run"):
        iceprobe.fit(store, ["linear"], output=tmp_path, **QUICK)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("curves.csv", "mine")]


def test_one_image_a_class_leaves_none_to_hold_out(tmp_path):
    data = planted_dataset()
    data.splits["train"] = planted_images("train", 3, 0)
    store = extract_in_memory(make_backbone(), data)
    with pytest.raises(IceprobeError, match="hold out"):
        iceprobe.fit(store, ["linear"], output=tmp_path / "r", **QUICK)


def test_a_limit_that_loses_a_class_is_named(tmp_path):
    store = extract_in_memory(make_backbone(), planted_dataset(), limit=2)
    with pytest.raises(IceprobeError, match="limit took 2 of 240"):
        iceprobe.fit(store, ["linear"], output=tmp_path / "r", **QUICK)


def test_pooled_vectors_do_not_serve_a_probe_of_patches(tmp_path):
    store = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path / "f", patches=False)
    with pytest.raises(IceprobeError, match="extract it with patches"):
        iceprobe.fit(store, ["linear", "ep4"], output=tmp_path / "r", **QUICK)
    assert not (tmp_path / "r").exists()


def test_other_images_are_not_compared_in_pairs(store, tmp_path):
    data = planted_dataset()
    data.splits["test"] = planted_images("test", 90, 5)
    other = extract_in_memory(make_backbone(), data)
    data.splits["test"].names[0] += "x"
    (a,) = iceprobe.fit(store, ["linear"], output=tmp_path / "a", **QUICK)
    (b,) = iceprobe.fit(other, ["linear"], output=tmp_path / "b", **QUICK)
    with pytest.raises(IceprobeError, match="different images"):
        compare_pair(a, b)
