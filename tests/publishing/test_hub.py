"""A run on a Hub: what is sent, what others find there, and what never leaves this machine."""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.results import read_results
from tests.publishing.fake_hub import FakeHub

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose store lies in somebody's home."""
    home = tmp_path_factory.mktemp("home") / "ann" / "secret project"
    dataset = iceprobe.load_dataset("bundled:fashion-clutter")
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    store = iceprobe.extract(backbone, dataset, home / "features", limit=60)
    iceprobe.fit(
        store, ["knn", "linear?input=mean", "ep2"], output=home / "run", epochs=2, seeds=2, learning_rates=[1e-2],
        command=f"iceprobe run --features {home}/features",
    )  # fmt: skip
    return home / "run"


@pytest.fixture
def server():
    made = FakeHub()
    yield made
    made.close()


@pytest.fixture
def environment(server, tmp_path, monkeypatch):
    """Of a process that asks this Hub, with a cache and a home of its own."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "COLUMNS": "200",
    }  # fmt: skip


def iceprobe_as(environment, *arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "iceprobe", *map(str, arguments)], env=environment | more, text=True,
        capture_output=True, timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_without_a_token_every_file_is_shown_and_nothing_is_sent(run, server, environment):
    done = iceprobe_as(environment, "publish", run, "--to", "hub:me/clutter")
    assert done.returncode == 0, done.stderr
    for name in ("README.md", "model.json", "probe.safetensors", "results.json", "report.html"):
        assert re.search(rf"B  {re.escape(name)}$", done.stdout, re.MULTILINE)
    assert "model-index:" in done.stdout
    assert "Not sent: no token of the Hub: run `hf auth login`, or set HF_TOKEN" in done.stdout
    assert f"it would go to {server.url}/me/clutter." in done.stdout
    assert not server.requests


@pytest.mark.slow
def test_what_is_sent_is_found_there_and_predicts_as_the_run_does(
    run, server, environment, tmp_path
):
    token = {"HF_TOKEN": "hf_good"}
    done = iceprobe_as(
        environment,
        "publish",
        run,
        "--to",
        "hub:me/clutter",
        "--probe",
        "ep2",
        "--license",
        "mit",
        **token,
    )
    assert done.returncode == 0, done.stderr
    assert f"{server.url}/me/clutter/commit/" in done.stdout.splitlines()[-1]
    files = server.repos["me/clutter"]
    assert server.private["me/clutter"]
    assert {
        "README.md",
        "model.json",
        "probe.safetensors",
        "backbone.safetensors",
        "report.html",
    } <= set(files)

    # Nothing tells where the run lay.
    for name, content in files.items():
        assert b"secret project" not in content, name
        assert str(run).encode() not in content, name

    # The card says what results.json says, read by the Hub's own library.
    (tmp_path / "README.md").write_bytes(files["README.md"])
    card = hub.ModelCard.load(tmp_path / "README.md").data
    (result,) = [one for one in read_results(run) if one.label == "ep2"]
    told = {one.metric_name: one for one in card.eval_results}
    assert card.license == "mit"
    assert told["top-1"].metric_type == "accuracy"
    assert told["top-1"].metric_value == result.top1.mean
    assert told["top-1"].metric_args["interval_95"] == list(result.top1.interval)
    assert len(told) == len(result.metrics)
    assert told["macro-F1"].metric_type == "f1"
    assert told["macro-F1"].metric_args["average"] == "macro"
    assert told["macro-F1"].metric_args["iceprobe_metric"] == "f1_macro"
    assert told["macro-F1"].metric_value == result.metrics["f1_macro"].mean

    # Results are read as they are anywhere, the seal included.
    (tmp_path / "results.json").write_bytes(files["results.json"])
    assert [one.metrics for one in read_results(tmp_path)] == [
        one.metrics for one in read_results(run)
    ]

    # A second time it is refused, unless it is meant.
    again = iceprobe_as(
        environment, "publish", run, "--to", "hub:me/clutter", "--probe", "ep2", **token
    )
    assert again.returncode == 2
    assert (
        "exists on the Hub: choose another name, or replace its files with --update" in again.stderr
    )
    meant = iceprobe_as(
        environment,
        "publish",
        run,
        "--to",
        "hub:me/clutter",
        "--probe",
        "ep2",
        "--update",
        "--no-report",
        **token,
    )
    assert meant.returncode == 0, meant.stderr
    assert "report.html" not in server.repos["me/clutter"]  # what isn't published any more goes

    # Others load it by its name, and find what the run's own export finds.
    (tmp_path / "images").mkdir()
    image = iceprobe.load_dataset("bundled:fashion-clutter").splits["test"].image(0)
    image.save(tmp_path / "images" / "a.png")
    table = tmp_path / "hub.csv"
    found = iceprobe_as(
        environment,
        "predict",
        "hub:me/clutter",
        "--examples",
        tmp_path / "images",
        "--output",
        table,
    )
    assert found.returncode == 0, found.stderr
    iceprobe.export(result, tmp_path / "export")
    own = iceprobe_as(
        environment,
        "predict",
        tmp_path / "export",
        "--examples",
        tmp_path / "images",
        "--output",
        tmp_path / "own.csv",
    )
    assert own.returncode == 0, own.stderr
    assert table.read_text() == (tmp_path / "own.csv").read_text()
    commit = server.revision("me/clutter")
    assert f"read hub:me/clutter@{commit}" in found.stdout.splitlines()
    offline = iceprobe_as(
        environment,
        "predict",
        "hub:me/clutter",
        "--examples",
        tmp_path / "images",
        "--output",
        table,
        HF_HUB_OFFLINE="1",
    )
    assert offline.returncode == 0, offline.stderr


@pytest.mark.slow
def test_a_loaded_probe_says_which_commit_it_is_of(run, server, environment, tmp_path):
    """Of a branch its commit; the commit that was read before loads the same, also without a network."""
    (result,) = [one for one in read_results(run) if one.label == "ep2"]
    folder = iceprobe.export(result, tmp_path / "export")
    assert iceprobe.load_probe(folder).source == str((tmp_path / "export").resolve())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.repos["me/clutter"], server.private["me/clutter"] = files, False
    before = server.revision("me/clutter")
    script = (
        "import iceprobe, sys\n"
        "model = iceprobe.load_probe(sys.argv[1])\n"
        "print(model.source, len(model.classes))\n"
    )

    def loaded(spec, **more):
        done = subprocess.run(
            [sys.executable, "-c", script, spec], env=environment | more, text=True,
            capture_output=True, timeout=240, check=True,
        )  # fmt: skip
        return done.stdout.split()

    source, classes = loaded("hub:me/clutter")
    assert source == f"hub:me/clutter@{before}"
    server.repos["me/clutter"] = {**files, "README.md": b"of another commit"}
    after = server.revision("me/clutter")
    assert after != before
    assert loaded("hub:me/clutter@main") == [f"hub:me/clutter@{after}", classes]
    assert loaded(source, HF_HUB_OFFLINE="1") == [source, classes]


@pytest.mark.slow
def test_what_the_hub_refuses_ends_in_one_line(run, server, environment, tmp_path):
    done = iceprobe_as(environment, "publish", run, "--to", "hub:me/clutter", HF_TOKEN="hf_bad")
    assert done.returncode == 2
    assert done.stderr.count("\n") - done.stderr.count(": at work for ") == 1
    assert "me/clutter: the Hub refused or didn't answer" in done.stderr
    assert not server.repos
    done = iceprobe_as(environment, "predict", "hub:me/nothing", "--examples", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") - done.stderr.count(": at work for ") == 1
    assert "the Hub has no such repository" in done.stderr


@pytest.mark.parametrize(
    "to", ["hub:clutter", "hub:a/b/c", "hub:me/a b", "hub:me/clutter?private=true"]
)
def test_a_name_that_the_hub_does_not_take_is_refused(run, to):
    with pytest.raises(IceprobeError, match="write hub:OWNER/NAME"):
        iceprobe.publish(run, to, dry_run=True)


def test_a_run_without_a_trained_probe_and_an_unknown_probe_are_refused(run):
    results = read_results(run)
    with pytest.raises(IceprobeError, match="k-NN has no weights to publish"):
        iceprobe.publish([one for one in results if one.method == "knn"], "hub:me/x", dry_run=True)
    with pytest.raises(IceprobeError, match="--probe one of knn, linear"):
        iceprobe.publish(results, "hub:me/x", dry_run=True, probe="ep32")
    with pytest.raises(IceprobeError, match="Did you mean hub"):
        iceprobe.publish(results, "hubs:me/x", dry_run=True)


def test_paths_are_kept_where_it_is_asked_for(run, monkeypatch):
    made = iceprobe.publish(run, "hub:me/x", dry_run=True, probe="ep2", keep_paths=True)
    assert b"secret project" in made.files["results.json"]
    assert any(note.startswith("paths of this machine are published: ") for note in made.notes)


def test_a_hub_data_set_has_evaluation_results_for_its_leaderboard(run):
    from iceprobe.publishing.model_card import eval_results_file

    (result,) = [one for one in read_results(run) if one.label == "ep2"]
    assert eval_results_file(result) is None
    on_hub = result.replaced(dataset="huggingface:owner/birds?config=small")
    (entry,) = yaml.safe_load(eval_results_file(on_hub))
    assert entry["notes"].startswith("accuracy (top1 of iceprobe) of a frozen backbone, probe ep2")
    led = on_hub.replaced(primary="f1_macro")
    (by_f1,) = yaml.safe_load(eval_results_file(led))
    assert by_f1["value"] == result.metrics["f1_macro"].mean
    assert by_f1["notes"].startswith("f1, average=macro (f1_macro of iceprobe) of a frozen")
    assert entry["dataset"] == {"id": "owner/birds", "task_id": "small"}
    assert entry["value"] == result.top1.mean
    (read,) = hub.parse_eval_result_entries([entry])
    assert read.dataset_id == "owner/birds"


def test_weights_stay_on_the_disk_until_they_are_sent(run, monkeypatch, tmp_path):
    """What huggingface_hub is given of them is a path, there as long as somebody has the files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = iceprobe.publish(run, "hub:me/x", dry_run=True, probe="ep2")
    given = {}

    class Api:
        def repo_exists(self, repo):
            return False

        def create_repo(self, repo, private):
            pass

        def create_commit(self, repo, operations, commit_message):
            given.update({one.path_in_repo: one.path_or_fileobj for one in operations})
            return type("Done", (), {"commit_url": "there"})

    from iceprobe.publishing.hub import _send
    from iceprobe.settings import Publishing

    assert _send(hub, Api(), "me/x", made.files, Publishing()) == "there"
    weights = {"probe.safetensors", "backbone.safetensors"}
    assert {name for name, one in given.items() if isinstance(one, str)} == weights
    for name in weights:
        assert Path(given[name]).read_bytes() == made.files[name]
        assert made.files.size(name) == len(made.files[name]) > 1000
    assert dict(made.files)["README.md"] == given["README.md"]
    (folder,) = tmp_path.iterdir()
    files = made.files
    del made
    assert folder.is_dir()
    del files
    gc.collect()
    assert not folder.exists()


def test_a_path_is_found_in_weights_on_the_disk(tmp_path):
    from iceprobe.publishing.private import still_in

    for name, content in (("a", b"\0" * 9000 + b"/home/ann/w\0"), ("b", b"\0ann"), ("c", b"")):
        (tmp_path / name).write_bytes(content)
    files = {name: tmp_path / name for name in "abc"} | {"d": b"in /home/ann/w", "e": b""}
    assert still_in(files, ["/home/ann/w"]) == ["a", "d"]


def test_a_publication_that_fails_leaves_no_folder(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(IceprobeError, match="--probe one of"):
        iceprobe.publish(run, "hub:me/x", dry_run=True, probe="ep32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "classes", "name", "told"),
    [
        ("classification", 3, "top1", ("accuracy", None, {})),
        ("classification", 3, "f1_macro", ("f1", None, {"average": "macro"})),
        ("classification", 3, "auroc", ("roc_auc", "multiclass", {"average": "macro", "multi_class": "ovr"})),
        ("classification", 2, "auroc", ("roc_auc", None, {"average": "macro"})),
        ("multilabel", 3, "f1_micro", ("f1", "multilabel", {"average": "micro"})),
        ("multilabel", 3, "auroc_micro", ("roc_auc", "multilabel", {"average": "micro"})),
        ("multilabel", 3, "f1_macro_best", ("f1_macro_best", None, {})),
        ("regression", 1, "rmse", ("rmse", None, {})),
        ("regression", 1, "spearman", ("spearmanr", None, {})),
    ],
)  # fmt: skip
def test_metrics_have_the_hubs_names(task, classes, name, told):
    from iceprobe.publishing.model_card import hub_metric

    assert hub_metric(SimpleNamespace(task=task, classes=classes), name) == told


def test_weights_that_a_spec_loads_stay_where_they_are():
    from iceprobe.publishing.hub import _loads
    from iceprobe.publishing.model_card import base_model_of

    assert _loads("timm:vit_base_patch16_224.mae")
    assert not _loads("timm:vit_base_patch16_224.mae?checkpoint=/home/ann/x.pth")
    assert not _loads("timm:vit_base_patch16_224?pretrained=false")
    assert not _loads("transformers:/home/ann/model")
    assert not _loads("bundled:mae-tiny")
    assert base_model_of("transformers:facebook/dinov2-base") == "facebook/dinov2-base"
    assert base_model_of("transformers:/home/ann") is None


def test_documents_keep_names_of_data_that_look_like_paths():
    from iceprobe.publishing.private import paths_in, without

    document = {
        "class_names": ["/m/01g317", "/m/0abc"],
        "dataset": "folder:/home/ann/my birds?target=x",
        "command": "iceprobe run --data 'table:/data/labels.csv?images=/data/img' --features ~/features",
        "url": "https://host/path/file",
        "backbone": "timm:vit?checkpoint=/home/ann/w/x.pth&strip=module.",
    }
    found = paths_in([document])
    assert {
        "/home/ann/my birds",
        "/data/labels.csv",
        "/data/img",
        "/home/ann/w/x.pth",
        "~/features",
    } <= set(found)
    assert not any(one.startswith(("/m/", "//")) for one in found)
    left = json.loads(without(json.dumps(document).encode(), found))
    assert left["dataset"] == "folder:my birds?target=x"
    assert left["backbone"] == "timm:vit?checkpoint=x.pth&strip=module."
    assert left["class_names"] == document["class_names"]
    assert left["url"] == document["url"]
