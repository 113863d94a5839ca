"""What each tool has in the end, read back by its own library: curves, scores, table, report, one run."""

import json
import math
import sys

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.loggers import Session
from iceprobe.loggers.mlflow_runs import plain
from iceprobe.loggers.names import run_name
from iceprobe.results.curves import read_curves

from .wandb_files import records


def curves(run):
    """``(probe, learning rate, phase, epoch) → loss`` of the rows in curves.csv that are finite."""
    return {
        (row.probe, row.learning_rate, row.weight_decay, row.phase, row.epoch): row
        for row in read_curves(run)
        if math.isfinite(row.train_loss)
    }


def series(row):
    """The name of a row's loss, spelled out."""
    rate = f"lr {row.learning_rate:g} " if row.learning_rate else ""
    decay = f"wd {row.weight_decay:g} " if row.weight_decay or not rate else ""
    return f"{row.probe}/{rate}{decay}seed {row.seed}/{row.phase}"


@pytest.fixture
def killed(fit, tmp_path):
    """A run that was killed in its middle, resumed, and shown again, with the same logger."""

    def run(log):
        folder = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            fit(folder, log, stop_after=5)
        results = fit(folder, log)
        fit(folder, log)
        return folder, results

    return run


def check_scores(values, results, spelled=lambda name: name):
    for result in results:
        for name, score in result.metrics.items():
            head = f"results/{result.label}/{name}"
            assert values[spelled(head)] == pytest.approx(score.mean, rel=1e-6)
            assert values[spelled(f"{head} low")] == pytest.approx(score.interval[0], rel=1e-6)
            assert values[spelled(f"{head} high")] == pytest.approx(score.interval[1], rel=1e-6)


def check_curves(points, run, spelled=lambda name: name):
    """``points``: name → [(epoch, value)]; nothing is there twice and nothing is missing."""
    expected = {}
    for row in curves(run).values():
        expected.setdefault(spelled(f"{series(row)} loss"), []).append((row.epoch, row.train_loss))
        if row.eval_accuracy is not None:
            name = spelled(f"{series(row)} top1")
            expected.setdefault(name, []).append((row.epoch, row.eval_accuracy))
    assert set(points) == set(expected)
    for name, values in expected.items():
        assert [epoch for epoch, _ in points[name]] == [epoch for epoch, _ in sorted(values)]
        found = [value for _, value in points[name]]
        assert found == pytest.approx([value for _, value in sorted(values)], rel=1e-6)


def test_tensorboard(killed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, results = killed(f"tensorboard:{tmp_path / 'logs'}?name=mine")
    read = EventAccumulator(str(tmp_path / "logs" / "mine")).Reload()
    scalars = {
        tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]
    }
    check_curves({k: v for k, v in scalars.items() if not k.startswith("results/")}, run)
    check_scores({name: values[0][1] for name, values in scalars.items()}, results)
    texts = {tag: read.Tensors(tag) for tag in read.Tags()["tensors"]}
    assert {tag.partition("/")[0] for tag in texts} == {"settings", "results"}
    assert all(len(found) == 1 for found in texts.values())
    (settings,) = texts["settings/text_summary"]
    said = settings.tensor_proto.string_val[0].decode()
    assert json.loads(said)["protocol.epochs"] == 4


def test_tensorboard_lies_in_the_run_folder_where_no_other_is_named(fit, tmp_path):
    fit(tmp_path / "run", "tensorboard")
    (file,) = (tmp_path / "run/tensorboard").iterdir()
    assert "tfevents" in file.name


def test_a_full_disk_ends_the_event_file_and_not_the_fit(fit, tmp_path, monkeypatch, caplog):
    from tensorboard.summary.writer import record_writer

    count, write = 0, record_writer.RecordWriter.write

    def full(self, data):
        nonlocal count
        count += 1
        if count > 8:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    assert len(fit(tmp_path / "run", "tensorboard")) == 2
    assert sum("tensorboard failed" in one.getMessage() for one in caplog.records) == 1


@pytest.fixture
def folder_of_wandb(tmp_path, monkeypatch):
    """All that wandb writes; it reads these once, when it is first used."""
    import wandb

    for kind in ("", "CACHE_", "CONFIG_", "DATA_", "ARTIFACT_"):
        monkeypatch.setenv(f"WANDB_{kind}DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()
    yield
    wandb.teardown()


def test_wandb(killed, tmp_path, folder_of_wandb):
    from wandb.proto import wandb_internal_pb2

    run, results = killed("wandb:birds?name=mine")
    points, summary, identities, settings, artifacts = {}, {}, set(), {}, []
    tables, steps = [], []
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # one a start: `wandb sync` joins those of one identity
    for file in files:
        for content in records(file):
            record = wandb_internal_pb2.Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                identities.add((record.run.project, record.run.display_name, record.run.run_id))
                settings |= {
                    one.key: json.loads(one.value_json) for one in record.run.config.update
                }
            elif kind == "history":
                values = {
                    (one.key or "/".join(one.nested_key)): json.loads(one.value_json)
                    for one in record.history.item
                }
                steps.append(values["_step"])
                if "leaderboard/nrows" in values:
                    tables.append(values["leaderboard/nrows"])
                    continue
                for name, value in values.items():
                    if not name.startswith("_") and name != "epoch":
                        points.setdefault(name, []).append((values["epoch"], value))
            elif kind == "summary":
                for one in record.summary.update:
                    summary[one.key or "/".join(one.nested_key)] = json.loads(one.value_json)
            elif kind == "artifact":
                artifacts.append(record.artifact.type)
    assert len(identities) == 1
    assert next(iter(identities))[:2] == ("birds", "mine")
    assert settings["protocol.epochs"] == 4
    check_curves(points, run)
    check_scores(summary, results)
    assert tables == [sum(len(one.metrics) for one in results)]
    assert steps == sorted(set(steps))
    assert artifacts == ["run_table"]


def test_wandb_leaves_a_run_of_the_caller_open(fit, tmp_path, folder_of_wandb):
    import wandb

    mine = wandb.init(project="training", settings=wandb.Settings(silent=True, console="off"))
    try:
        fit(tmp_path / "run", "wandb")
        assert wandb.run is mine
        mine.log({"still": 1})
    finally:
        mine.finish()


def test_wandb_online_without_a_key_is_refused(fit, tmp_path, folder_of_wandb):
    with pytest.raises(IceprobeError, match="no API key here: `wandb login`"):
        fit(tmp_path / "run", "wandb?mode=online")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def store_of_mlflow(tmp_path, monkeypatch):
    """A store of files: mlflow-skinny has no database, and mlflow asks for this word to use files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def test_mlflow(killed, store_of_mlflow):
    from mlflow import MlflowClient

    run, results = killed(f"mlflow:birds?uri={store_of_mlflow}&name=mine")
    client = MlflowClient(store_of_mlflow)
    experiment = client.get_experiment_by_name("birds")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert found.data.params["protocol.epochs"] == "4"
    check_scores(found.data.metrics, results, plain)
    points = {
        name: [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
        if not name.startswith("results/")
    }
    check_curves(points, run, plain)
    held = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert held == {"leaderboard.csv", "leaderboard.md"}


def test_mlflow_says_how_a_run_ended(fit, tmp_path, store_of_mlflow):
    from mlflow import MlflowClient

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", f"mlflow?uri={store_of_mlflow}", stop_after=3)
    client = MlflowClient(store_of_mlflow)
    (found,) = client.search_runs([client.get_experiment_by_name("iceprobe").experiment_id])
    assert found.info.status == "KILLED"


@pytest.mark.parametrize("uri", ["nosuch://host", "http://127.0.0.1:9"])
def test_a_tracking_uri_that_is_none_is_refused(fit, tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(IceprobeError, match=f"log mlflow: {uri} can't be used"):
        fit(tmp_path / "run", f"mlflow?uri={uri}")
    assert not (tmp_path / "run").exists()


def test_names_that_mlflow_takes_stay_different():
    names = ["linear?input=mean/a", "ep12?a=1&b=2", "lora?rank=8 + ep12", "a*b", "a_b", "a#b", "ü"]
    spelled = [plain(name) for name in names]
    assert len(set(spelled)) == len(names)
    assert spelled[:3] == ["linear:input mean/a", "ep12:a 1 b 2", "lora:rank 8 and ep12"]


@pytest.fixture
def folder_of_trackio(tmp_path, monkeypatch):
    """Trackio reads TRACKIO_DIR once, when it is imported, and its modules keep copies."""
    import trackio

    place = tmp_path / "trackio"
    of_name = {
        "TRACKIO_DIR": place, "MEDIA_DIR": place / "media", "ARTIFACTS_DIR": place / "artifacts",
    }  # fmt: skip
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == trackio.__name__:
            for key in of_name.keys() & vars(module).keys():
                monkeypatch.setattr(module, key, of_name[key])
    monkeypatch.setenv("TRACKIO_DIR", str(place))


def test_trackio(killed, folder_of_trackio, capsys):
    from trackio.sqlite_storage import SQLiteStorage

    run, results = killed("trackio:birds?name=mine")
    (name,) = SQLiteStorage.get_runs("birds")
    assert name.startswith("mine-")
    assert SQLiteStorage.get_run_config("birds", name)["protocol.epochs"] == 4
    points, scores = {}, {}
    for entry in SQLiteStorage.get_logs("birds", name):
        if "leaderboard" in entry:
            scores, table = entry, entry["leaderboard"]["_value"]
            continue
        for key, value in entry.items():
            if key not in ("timestamp", "step"):
                points.setdefault(key, []).append((entry["step"], value))
    check_curves(points, run)
    check_scores(scores, results)
    assert len(table) == sum(len(one.metrics) for one in results)
    assert table[0]["probe"] in {one.label for one in results}
    assert capsys.readouterr().out == ""


def test_the_report_is_an_artefact(tmp_path, folder_of_wandb, folder_of_trackio):
    from trackio.sqlite_storage import SQLiteStorage
    from wandb.proto import wandb_internal_pb2

    page = tmp_path / "run" / "report.html"
    page.parent.mkdir()
    page.write_text("<p>a report</p>")
    with Session(["wandb?mode=offline", "trackio:birds"]) as session:
        session.begin(page.parent, {"epochs": 4})
        session.report(page)
    (artefact,) = SQLiteStorage.list_artifacts("birds")
    assert artefact["type"] == "report"
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    found = map(wandb_internal_pb2.Record.FromString, records(file))
    request = [one.request.log_artifact.artifact for one in found if one.HasField("request")]
    sent = [
        one.artifact
        for one in map(wandb_internal_pb2.Record.FromString, records(file))
        if one.HasField("artifact")
    ]
    (entry,) = [item for one in [*request, *sent] for item in one.manifest.contents]
    assert entry.path == "report.html"
    assert entry.size == page.stat().st_size


def test_trackio_with_an_open_run_is_refused(fit, tmp_path, folder_of_trackio):
    import trackio

    mine = trackio.init(project="training", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    try:
        with pytest.raises(IceprobeError, match=r"has its run .* open"):
            fit(tmp_path / "run", "trackio")
    finally:
        mine.finish()
        trackio.context_vars.current_run.set(None)


def test_cells_of_a_campaign_have_names_of_their_own(tmp_path):
    cells = [tmp_path / "sizes" / "cells" / name for name in ("5-shots", "10-shots")]
    assert [run_name(cell, None) for cell in cells] == ["sizes--5-shots", "sizes--10-shots"]
    assert [run_name(cell, "mine") for cell in cells] == ["mine--5-shots", "mine--10-shots"]
    assert run_name(tmp_path / "sizes", None) == "sizes"
