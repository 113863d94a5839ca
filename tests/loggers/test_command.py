"""``--log`` on the command line: the report as well, what config.yaml keeps, a second start, ``adapt``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import iceprobe as library
from iceprobe.core.errors import IceprobeError
from iceprobe.results import read_curves
from iceprobe.store import extract_in_memory
from tests.adaptation.models import backbone
from tests.dense.depths import deep
from tests.dense.masks import planted
from tests.fitting.test_api import planted_dataset
from tests.store.conftest import make_backbone

from .conftest import tokens_of

FAST = ("--epochs", "2", "--seeds", "1", "--learning-rates", "0.1")


@pytest.fixture
def iceprobe(monkeypatch, tmp_path, capsys, one_part, no_signs):
    """Run a command in ``tmp_path``, which holds tokens; returns exit code, stdout and stderr."""
    from iceprobe.cli import main

    for name, seed in (("train", 0), ("test", 1)):
        tokens, labels = tokens_of(30, seed)
        np.savez(tmp_path / f"{name}.npz", tokens=tokens, y=labels)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["iceprobe", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def mlflow_client(monkeypatch, tmp_path):
    """MLflow with its files in ``tmp_path``."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return MlflowClient()


FIT = ("fit", "features:train.npz?test=test.npz&target=y", "--probe", "ep2", *FAST)


def test_the_run_its_report_and_its_settings(iceprobe, tmp_path, mlflow_client):
    asked = (*FIT, "--log", "mlflow:birds", "--log", "tensorboard", "--output", "run")
    code, out, err = iceprobe(*asked)
    assert (code, err) == (0, "")
    assert "logged to MLflow run" in out
    assert "logged to TensorBoard files in run/tensorboard" in out
    (found,) = mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name("birds").experiment_id]
    )
    assert found.info.run_name == "run"
    assert found.data.params["store"] == "features:train.npz?test=test.npz&target=y"
    assert "report.html" in {one.path for one in mlflow_client.list_artifacts(found.info.run_id)}
    held = mlflow_client.download_artifacts(found.info.run_id, "report.html")
    assert Path(held).read_bytes() == (tmp_path / "run/report.html").read_bytes()
    read = EventAccumulator("run/tensorboard").Reload()
    (report,) = read.Tensors("report/text_summary")
    assert b"run/report.html" in report.tensor_proto.string_val[0]
    config = (tmp_path / "run/config.yaml").read_text()
    assert "\nlog:\n- mlflow:birds\n- tensorboard\n" in config
    # Shown again, it logs nothing; without the option it is the same run.
    code, out, err = iceprobe(*asked)
    assert (code, err) == (0, "")
    assert "nothing new to log: run was finished before" in out
    (again,) = mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name("birds").experiment_id]
    )
    assert again.data.metrics == found.data.metrics
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1
    code, out, err = iceprobe(*FIT, "--output", "run")
    assert (code, err) == (0, "")
    assert "complete already" in out
    assert "nothing new to log" not in out


def test_without_the_option_there_is_no_trace_of_it(iceprobe, tmp_path):
    assert iceprobe(*FIT, "--output", "run")[0] == 0
    assert "log" not in (tmp_path / "run/config.yaml").read_text()
    assert not (tmp_path / "run/loggers.json").exists()


def test_the_name_of_a_run_does_not_depend_on_it(iceprobe, tmp_path):
    assert iceprobe(*FIT)[0] == 0
    assert iceprobe(*FIT, "--log", "tensorboard")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("wandbb", "unknown logger 'wandbb'. Did you mean wandb"),
        ("mlflow?uri=nosuch://x", "log mlflow: nosuch://x can't be used"),
    ],
)
def test_what_cannot_start_leaves_no_folder(iceprobe, tmp_path, log, line):
    code, _, err = iceprobe(*FIT, "--log", log, "--output", "run")
    assert code == 2
    assert line in err
    assert not (tmp_path / "run").exists()


def test_knn_is_logged(iceprobe, tmp_path):
    assert iceprobe("knn", FIT[1], "--log", "tensorboard", "--output", "run")[0] == 0
    read = EventAccumulator("run/tensorboard").Reload()
    (score,) = read.Scalars("results/knn/top1")
    assert score.value == pytest.approx(library.read_results("run")[0].score.mean)


def test_ls_names_them(iceprobe):
    _, out, _ = iceprobe("ls", "loggers")
    assert [name in out for name in ("tensorboard", "wandb", "mlflow", "trackio")] == [True] * 4


def test_an_adaptation_that_is_killed_is_logged_once(tmp_path, monkeypatch):
    """Rows of a training that was finished before, or begun again, come once."""
    from iceprobe.adaptation import training

    events, steps, backward = [], 0, training.backward
    asked = dict(
        adaptations=["lora?rank=2", "none"], probes=["linear?input=mean"], seeds=1, epochs=2,
        batch_size=48, learning_rates=[1e-3, 3e-3], output=tmp_path / "run",
        log=[f"tensorboard:{tmp_path / 'logs'}", events.append],
    )  # fmt: skip
    dataset = planted_dataset()

    def killed(*args):
        nonlocal steps
        steps += 1
        if steps == 12:
            raise KeyboardInterrupt
        return backward(*args)

    monkeypatch.setattr(training, "backward", killed)
    with pytest.raises(KeyboardInterrupt):
        library.adapt(backbone(), dataset, **asked)
    monkeypatch.setattr(training, "backward", backward)
    assert 0 < sum(event.kind == "curves" for event in events) < 6
    results = library.adapt(backbone(), dataset, **asked)
    read = EventAccumulator(str(tmp_path / "logs/run")).Reload()
    label = "lora?rank=2 + linear?input=mean"
    for row in read_curves(tmp_path / "run"):
        points = read.Scalars(f"{label}/lr {row.learning_rate:g} seed 0/{row.phase} loss")
        assert [one.step for one in points] == [1, 2]
        assert points[row.epoch - 1].value == pytest.approx(row.train_loss, rel=1e-6)
    assert len(read_curves(tmp_path / "run")) == 6
    for one in results:
        assert read.Scalars(f"results/{one.label}/top1")[0].value == pytest.approx(one.score.mean)
    state = json.loads((tmp_path / "run/loggers.json").read_text())
    assert [one["ended"] for one in state.values()] == [True]


SEGMENT = (
    "segment", "--backbone", "bundled:mae-tiny", "--data", "bundled:fashion-clutter",
    "--limit", "60", "--probe", "linear", *FAST,
)  # fmt: skip


def test_segment_is_logged(iceprobe, tmp_path, mlflow_client):
    asked = (*SEGMENT, "--log", "mlflow:birds", "--log", "tensorboard", "--output", "run")
    code, out, err = iceprobe(*asked)
    assert code == 0, err
    assert "logged to TensorBoard files in run/tensorboard" in out
    (linear,) = json.loads(Path("run/dense.json").read_text())["segmentations"]
    read = EventAccumulator("run/tensorboard").Reload()
    head = "linear/lr 0.1 seed 0/select"
    for name in ("select loss", "refit loss", "select miou"):
        points = read.Scalars(f"linear/lr 0.1 seed 0/{name}")
        assert [one.step for one in points] == [1, 2]
    assert 0 < read.Scalars(f"{head} miou")[-1].value < 1
    scores = {name: linear[name] for name in ("miou", "object_iou", "pixel_accuracy")}
    for name, score in scores.items():
        found = read.Scalars(f"results/linear/{name}")[0].value
        assert found == pytest.approx(score["mean"], rel=1e-6)
    low, high = linear["miou"]["interval"]
    assert read.Scalars("results/linear/miou low")[0].value == pytest.approx(low, rel=1e-6)
    assert read.Scalars("results/linear/miou high")[0].value == pytest.approx(high, rel=1e-6)
    texts = {
        tag: read.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()
        for tag in ("settings", "results", "report")
    }
    assert json.loads(texts["settings"])["protocol.epochs"] == 2
    assert f"| linear | miou | {linear['miou']['mean']:.6g} |" in texts["results"]
    assert texts["report"].strip() == "run/report.html"
    (run,) = mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name("birds").experiment_id]
    )
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    held = mlflow_client.download_artifacts(run.info.run_id, "report.html")
    assert Path(held).read_bytes() == Path("run/report.html").read_bytes()
    table = Path(mlflow_client.download_artifacts(run.info.run_id, "leaderboard.csv")).read_text()
    assert table.splitlines()[0] == "probe,metric,mean,sd,low,high,parameters,flops,seconds"
    assert f"linear,miou,{linear['miou']['mean']:.6g}," in table
    # Shown again, it logs nothing; without the option it is the same run, to the digit.
    code, out, err = iceprobe(*asked)
    assert code == 0, err
    assert "nothing new to log: run was finished before" in out
    assert len(list(Path("run/tensorboard").iterdir())) == 1
    assert iceprobe(*SEGMENT, "--output", "silent")[0] == 0
    (silent,) = json.loads(Path("silent/dense.json").read_text())["segmentations"]
    assert {name: silent[name] for name in scores} == scores
    assert "log" not in Path("silent/config.yaml").read_text()


def test_a_segment_that_is_killed_leaves_no_event_file_and_begins_again(
    iceprobe, tmp_path, monkeypatch
):
    from iceprobe.fitting import phases

    train_step, steps = phases.JointTrainer.train_step, 0

    def killed(self, batch):
        nonlocal steps
        steps += 1
        if steps == 2:
            raise KeyboardInterrupt
        return train_step(self, batch)

    asked = (*SEGMENT, "--log", "tensorboard", "--output", "run")
    monkeypatch.setattr(phases.JointTrainer, "train_step", killed)
    Path("run").mkdir()
    assert iceprobe(*asked)[0] == 130
    assert [path.name for path in tmp_path.glob("*run*")] == ["run"]
    assert not list(Path("run").iterdir())
    monkeypatch.setattr(phases.JointTrainer, "train_step", train_step)
    assert iceprobe(*asked)[0] == 0
    read = EventAccumulator("run/tensorboard").Reload()
    assert [one.step for one in read.Scalars("linear/lr 0.1 seed 0/refit loss")] == [1, 2]


@pytest.mark.parametrize("data", [planted, deep], ids=["masks", "depths"])
def test_segment_from_python_tells_a_callable(tmp_path, data):
    """The rows that are selected from, the results with their scores, where the files are meanwhile."""
    store = extract_in_memory(make_backbone(), data(), batch_size=16)
    events, there = [], []

    def told(event):
        events.append(event)
        there.append(((event.folder or event.run) / "request.json").exists())

    asked = dict(seeds=2, epochs=3, batch_size=8, learning_rates=[0.01, 0.1])
    with pytest.raises(IceprobeError, match=r"log= tells of a run folder: give output="):
        library.segment(store, ["linear"], log=told, **asked)
    assert events == []
    run = tmp_path / "run"
    (linear,) = library.segment(store, ["linear"], log=told, output=run, **asked)
    kinds = [event.kind for event in events]
    assert kinds == ["begin", *["curves"] * 6, "results", "end"]
    assert {event.run for event in events} == {run}
    assert all(there[:-2])
    assert events[-1].payload == "finished"
    curves = [event for event in events if event.kind == "curves"]
    assert [(one.of, one.step) for one in curves] == [
        (of, epoch) for of in ("select", "refit") for epoch in (1, 2, 3)
    ]
    assert [len(one.payload) for one in curves] == [4, 4, 4, 2, 2, 2]
    assert {one.metric for one in curves} == {linear.metric.name}
    last, sign = curves[2].payload, linear.metric.sign
    means = {
        rate: sign * sum(row.eval_accuracy for row in last if row.learning_rate == rate)
        for rate in (0.01, 0.1)
    }
    assert max(means, key=means.get) == linear.selection.learning_rate
    (result,) = events[-2].payload
    assert result.metrics[linear.metric.name] == linear.score
    events.clear()
    library.segment(store, ["linear"], log=told, output=run, **asked)
    assert events == []


def test_the_demo_is_logged(iceprobe, monkeypatch):
    from iceprobe.cli import demo

    small = {"probe": ["knn", "ep2"], "limit": 60, "epochs": 1, "seeds": 1}
    monkeypatch.setattr(demo, "DEMO", demo.DEMO | small)
    code, out, err = iceprobe("demo", "--log", "tensorboard", "--output", "run")
    assert code == 0, err
    assert "logged to TensorBoard files in run/tensorboard" in out
    read = EventAccumulator("run/tensorboard").Reload()
    for one in library.read_results("run"):
        (score,) = read.Scalars(f"results/{one.label}/top1")
        assert score.value == pytest.approx(one.score.mean, rel=1e-6)
    losses = [tag for tag in read.Tags()["scalars"] if tag.endswith("refit loss")]
    assert [tag.partition("/")[0] for tag in losses] == ["ep2"]
    (report,) = read.Tensors("report/text_summary")
    assert b"run/report.html" in report.tensor_proto.string_val[0]
