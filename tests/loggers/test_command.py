"""``--log`` on the command line: the report as well, what config.yaml keeps, a second start, ``adapt``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import iceprobe as library
from iceprobe.results import read_curves
from tests.adaptation.models import backbone
from tests.fitting.test_api import planted_dataset

from .conftest import tokens_of

FAST = ("--epochs", "2", "--seeds", "1", "--learning-rates", "0.1")


@pytest.fixture
def iceprobe(monkeypatch, tmp_path, capsys, one_part):
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


FIT = ("fit", "features:train.npz?test=test.npz&target=y", "--probe", "ep2", *FAST)


def test_the_run_its_report_and_its_settings(iceprobe, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    asked = (*FIT, "--log", "mlflow:birds", "--log", "tensorboard", "--output", "run")
    code, out, err = iceprobe(*asked)
    assert (code, err) == (0, "")
    assert "logged to MLflow run" in out
    assert "logged to TensorBoard files in run/tensorboard" in out
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("birds").experiment_id])
    assert found.info.run_name == "run"
    assert found.data.params["store"] == "features:train.npz?test=test.npz&target=y"
    assert "report.html" in {one.path for one in client.list_artifacts(found.info.run_id)}
    held = client.download_artifacts(found.info.run_id, "report.html")
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
    (again,) = client.search_runs([client.get_experiment_by_name("birds").experiment_id])
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
