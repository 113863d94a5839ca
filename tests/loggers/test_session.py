"""The contract of a logger, by callables: what it is told, when, and what becomes of one that fails."""

import json
import logging

import pytest
from safetensors.numpy import load_file

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.loggers import LOGGERS, LoggerEntry
from iceprobe.results.curves import read_curves

from .conftest import PROBES


def told(events, kind):
    return [event for event in events if event.kind == kind]


def rows_of(events):
    """All rows, as curves.csv has them: eight figures."""
    return sorted(
        (row.probe, row.phase, row.learning_rate, row.epoch, f"{row.train_loss:.8g}", row.eval_accuracy)
        for event in told(events, "curves")
        for row in event.payload
    )  # fmt: skip


class Kept:
    """A tracker that keeps what it is told by identity, as a server would."""

    runs: dict[str, list] = {}  # noqa: RUF012
    fails_at: int | None = None

    def __init__(self, name, mark=""):
        self.identity, self.done, self.place = None, 0, "a dictionary"

    def __call__(self, event):
        if event.kind == "begin" and self.identity is None:
            self.identity = f"run-{len(self.runs)}"
        events = self.runs.setdefault(self.identity, [])
        if len(events) == self.fails_at:
            raise OSError(28, "No space left on https://user:secret@host")
        events.append(event)


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(Kept, "runs", {})
    monkeypatch.setattr(Kept, "fails_at", None)
    entry = LoggerEntry(Kept, "for tests", options={"mark": str})
    monkeypatch.setitem(LOGGERS._entries, "kept", entry)
    return Kept


def test_a_callable_is_told_the_whole_run_in_order(fit, tmp_path):
    events = []
    results = fit(tmp_path / "run", events.append)
    assert [event.kind for event in events[:1] + events[-2:]] == ["begin", "results", "end"]
    assert {event.run for event in events} == {tmp_path / "run"}
    settings = events[0].payload
    assert settings["probes"] == PROBES
    assert settings["protocol.epochs"] == 4
    assert settings["dataset"] == "tokens:given"
    written = sorted(
        (row.probe, row.phase, row.learning_rate, row.epoch, f"{row.train_loss:.8g}", row.eval_accuracy)
        for row in read_curves(tmp_path / "run")
    )  # fmt: skip
    assert [row[:5] for row in rows_of(events)] == [row[:5] for row in written]
    assert [row[5] for row in rows_of(events)] == pytest.approx([row[5] for row in written])
    for event in told(events, "curves"):
        assert {row.epoch for row in event.payload} == {event.step}
        assert event.metric == "top1"
    assert {event.of.split()[0] for event in told(events, "curves")} == {"select", "refit"}
    assert told(events, "results")[0].payload == list(results)
    assert events[-1].payload == "finished"


def test_results_are_the_same_bit_by_bit_with_and_without(fit, tmp_path):
    import torch

    def draws(event):
        torch.rand(3)  # a logger may draw as it likes

    plain, logged = fit(tmp_path / "plain"), fit(tmp_path / "logged", [draws, "tensorboard"])
    for one, other in zip(plain, logged, strict=True):
        assert one.metrics == other.metrics
        assert one.selected == other.selected
        for mine, its in zip(one.files.probes, other.files.probes, strict=True):
            a, b = load_file(tmp_path / "plain" / mine), load_file(tmp_path / "logged" / its)
            assert {name: value.tobytes() for name, value in a.items()} == {
                name: value.tobytes() for name, value in b.items()
            }
    for name in ("curves.csv", "request.json", "predictions.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "logged" / name).read_bytes()


@pytest.mark.parametrize("stop_after", [2, 3, 5, 6])
def test_a_killed_run_goes_on_in_the_same_run_and_logs_nothing_twice(
    kept, fit, tmp_path, stop_after
):
    whole = []
    fit(tmp_path / "whole", whole.append)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", "kept:x", stop_after=stop_after)
    assert kept.runs["run-0"][-1].payload == "stopped"
    fit(tmp_path / "run", "kept:x")
    assert list(kept.runs) == ["run-0"]
    assert rows_of(kept.runs["run-0"]) == rows_of(whole)
    assert [event.kind for event in kept.runs["run-0"] if event.kind != "curves"] == [
        "begin", "end", "begin", "results", "end",
    ]  # fmt: skip


def test_a_logger_that_joins_later_is_told_what_was_before(kept, fit, tmp_path):
    whole = []
    fit(tmp_path / "whole", whole.append)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", "kept:x", stop_after=5)
    fit(tmp_path / "run", ["kept:x", "kept:y"])
    assert rows_of(kept.runs["run-1"]) == rows_of(whole)
    assert rows_of(kept.runs["run-0"]) == rows_of(whole)


def test_a_finished_run_logs_nothing_new(kept, fit, tmp_path):
    fit(tmp_path / "run", "kept:x")
    before = list(kept.runs["run-0"])
    again = []
    fit(tmp_path / "run", ["kept:x", "kept:y", again.append])
    assert kept.runs == {"run-0": before}
    assert again == []


def test_a_run_killed_after_its_results_logs_what_is_missing(kept, fit, tmp_path):
    fit(tmp_path / "run", "kept:x")
    file = tmp_path / "run" / "loggers.json"
    state = json.loads(file.read_text())
    state["kept:x"]["ended"] = False
    file.write_text(json.dumps(state))
    del kept.runs["run-0"][-2:]
    fit(tmp_path / "run", "kept:x")
    assert [event.kind for event in kept.runs["run-0"][-3:]] == ["begin", "results", "end"]
    assert json.loads(file.read_text())["kept:x"]["ended"] is True


def test_a_logger_that_fails_costs_one_line_and_not_the_fit(kept, fit, tmp_path, caplog):
    plain = fit(tmp_path / "plain")
    kept.fails_at = 3
    with caplog.at_level(logging.WARNING, "iceprobe"):
        logged = fit(tmp_path / "run", ["kept:x", lambda event: 1 / 0 if event.step else None])
    assert [one.metrics for one in logged] == [one.metrics for one in plain]
    lines = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert len(lines) == 2
    assert any("kept:x" in line and "No space left" in line for line in lines)
    assert any("division by zero" in line for line in lines)
    assert "secret" not in caplog.text
    assert len(kept.runs["run-0"]) == 3
    # What it lacks is logged when the state says so: here the run is finished.
    assert json.loads((tmp_path / "run/loggers.json").read_text())["kept:x"]["ended"] is False


def test_a_logger_that_cannot_start_refuses_before_anything_is_written(kept, fit, tmp_path):
    kept.fails_at = 0
    with pytest.raises(IceprobeError, match=r"kept:x.*can't start.*No space left") as caught:
        fit(tmp_path / "run", "kept:x")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("tensorbord", "unknown logger 'tensorbord'. Did you mean tensorboard"),
        ("wandb:p?nme=x", "unknown option of 'p' 'nme'. Did you mean name"),
        ("wandb?mode=maybe", "write online or offline"),
        ("mlflow?uri=http://me:secret@host", "MLFLOW_TRACKING_USERNAME"),
        (["tensorboard", "tensorboard"], "'tensorboard' is given twice"),
        ([3], "give a spec string, mlflow, tensorboard, trackio, wandb, or a callable"),
        ("", "has no name"),
    ],
)
def test_wrong_loggers_are_refused_in_one_line(fit, tmp_path, log, line):
    with pytest.raises(IceprobeError) as caught:
        fit(tmp_path / "run", log)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_missing_library_is_named_with_its_extra(fit, tmp_path, monkeypatch, name):
    import importlib

    real = importlib.import_module

    def missing(module, *rest):
        if module.split(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(module, *rest)

    monkeypatch.setattr("iceprobe.core.extras.importlib.import_module", missing)
    with pytest.raises(IceprobeError, match=rf"pip install 'iceprobe\[{name}\]'"):
        fit(tmp_path / "run", name)
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_refused_with_a_remedy(kept, fit, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", "kept:x", stop_after=3)
    (tmp_path / "run/loggers.json").write_text('{"kept:x": 3}')
    with pytest.raises(IceprobeError, match=r"loggers\.json can't be read .*: remove it"):
        fit(tmp_path / "run", "kept:x")


def test_only_process_0_logs(fit, tmp_path, monkeypatch):
    from iceprobe.loggers import session
    from iceprobe.machine.processes import World

    events = []
    with session.Session(events.append) as one:
        one.begin(tmp_path, {})
        monkeypatch.setattr(session, "world", lambda: World(rank=1, size=2))
        one.curves("refit", read_curves_of(fit, tmp_path), "top1")
        one.results([])
    assert [event.kind for event in events] == ["begin"]


def read_curves_of(fit, tmp_path):
    fit(tmp_path / "other")
    return [row for row in read_curves(tmp_path / "other") if row.epoch == 1]


@pytest.mark.parametrize("probe", ["linear", "ep2"])
def test_folds_and_replicates_give_every_series_its_own_name(store, tmp_path, probe):
    from iceprobe.loggers.names import curve_values

    events = []
    iceprobe.fit(
        store, [probe], output=tmp_path / "run", epochs=2, learning_rates=[0.1] * (probe != "linear") or None,
        protocol="folds", folds=2, replicates=2, log=events.append, progress=False,
    )  # fmt: skip
    points = [
        (name, event.step) for event in told(events, "curves") for name in curve_values(event)
    ]
    assert len(points) == len(set(points))
    count = sum(
        1 + (row.eval_accuracy is not None)
        for event in told(events, "curves")
        for row in event.payload
    )
    assert len(points) == count
    assert len(read_curves(tmp_path / "run")) == sum(
        len(event.payload) for event in told(events, "curves")
    )
