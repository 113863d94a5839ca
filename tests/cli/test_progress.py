"""What is seen of long stages: lines where nothing can move, bars in a terminal, and none on request."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

import iceprobe as library
from iceprobe.cli import console as terminal
from iceprobe.cli.console import Bars
from iceprobe.cli.console import console as outlet
from iceprobe.machine import progress
from tests.fitting.test_api import planted_dataset
from tests.store.conftest import make_backbone

QUICK = dict(seeds=1, epochs=2, batch_size=16, learning_rates=[1e-2])


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = {"at": 100.0}
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now["at"]))
    return now


def test_a_stage_has_an_estimate_a_line_every_30_seconds_and_its_time(clock):
    said: list[str] = []
    lines = progress.Lines(said.append)
    for step in range(1, 101):  # 100 steps of a second
        clock["at"] += 1
        lines("extract train", 10 * step, 1000)
        lines.tick()
    assert said == [
        "extract train: 20/1,000, about 1 min 38 s left",
        "extract train: 320/1,000, about 1 min 08 s left",
        "extract train: 620/1,000, about 38.0 s left",
        "extract train: 920/1,000, about 8.0 s left",
        "extract train: 1,000/1,000 in 1 min 40 s",
    ]
    said.clear()
    lines("knn", 5, 5)
    lines("knn", 5, 5)
    assert said == ["knn: 5/5 in 0.0 s"]


def test_work_that_counts_nothing_is_reported_as_well(clock):
    said: list[str] = []
    lines = progress.Lines(said.append)
    for _ in range(70):  # weights are hashed, images listed
        clock["at"] += 1
        lines.tick()
    lines("select", 1, 4)  # a single step, and then none for a minute
    for _ in range(60):
        clock["at"] += 1
        lines.tick()
    lines("select", 4, 4)
    clock["at"] += 31
    lines.tick()
    assert said == [
        "preparing: at work for 2.0 s",
        "preparing: at work for 32.0 s",
        "preparing: at work for 1 min 02 s",
        "select: 1/4",
        "select: 1/4",
        "select: 4/4 in 1 min 00 s",
        "after select: at work for 31.0 s",
    ]


def test_a_stage_that_has_only_begun_is_named_after_two_seconds(clock):
    said: list[str] = []
    lines = progress.Lines(said.append)
    lines("report", 0, 1)
    for _ in range(4):
        clock["at"] += 1
        lines.tick()
    lines("report", 1, 1)
    assert said == ["report: 0/1", "report: 1/1 in 4.0 s"]


def test_a_command_gives_a_sign_of_life_after_two_seconds_where_no_stage_does(monkeypatch):
    monkeypatch.setattr(outlet, "said", 0.0)
    monkeypatch.setattr(terminal, "SECONDS_TO_FIRST_SIGN", 2.0)
    assert terminal.sign(100.0, 101.9) is None
    assert terminal.sign(100.0, 102.0) == "preparing: at work for 2.0 s"
    loading = SimpleNamespace(__spec__=SimpleNamespace(_initializing=True))
    monkeypatch.setitem(sys.modules, "torch", loading)
    assert terminal.sign(100.0, 102.0) == "loading torch: at work for 2.0 s"
    outlet.said = 102.0
    assert terminal.sign(100.0, 131.9) is None
    assert terminal.sign(100.0, 132.0) is not None
    with Bars():
        assert terminal.sign(100.0, 200.0) is None
    assert not outlet.watched


@pytest.mark.usefixtures("clock")  # stands still
def test_a_piped_run_says_each_stage_and_so_does_its_log(iceprobe, quick, tmp_path):
    ended = iceprobe("run", *quick, "--probe", "knn", "--probe", "ep2", "--output", "r")
    assert ended.code == 0
    logged = (tmp_path / "r/log.txt").read_text()
    for stage in ("extract train: 36/36", "extract test: 12/12", "refit: 2/2", "report: 1/1"):
        (line,) = re.findall(rf"^{stage} in 0\.0 s$", ended.out, re.MULTILINE)
        assert f"INFO {line}\n" in logged
    assert "━" not in ended.out


@pytest.mark.parametrize("terminal", [True, False])
def test_python_shows_a_bar_in_a_terminal_unless_asked_not_to(tmp_path, monkeypatch, terminal):
    seen: list[io.StringIO] = []

    def console(**options):
        assert options == {"stderr": True}
        seen.append(io.StringIO())
        return Console(
            file=seen[-1], force_terminal=terminal, width=100, _environ={"TERM": "xterm"}
        )

    monkeypatch.setattr(progress, "Console", console)

    def shown() -> str:
        text = "".join(file.getvalue() for file in seen)
        seen.clear()
        return text

    store = library.extract(make_backbone(), planted_dataset(), tmp_path / "f", batch_size=16)
    assert len(seen) == 1  # what extract calls itself shows none of its own
    assert ("extract train" in shown()) == terminal
    library.fit(store, ["knn", "linear"], output=tmp_path / "a", **QUICK)
    text = shown()
    assert all((stage in text) == terminal for stage in ("knn", "select", "refit"))
    library.fit(store, ["linear"], output=tmp_path / "b", progress=False, **QUICK)
    assert shown() == ""
    noted: list[tuple[str, int, int]] = []
    library.fit(
        store, ["linear"], output=tmp_path / "c", progress=lambda *at: noted.append(at), **QUICK
    )
    assert shown() == ""
    assert noted[-1][0].startswith("refit")  # a linear one comes last
    assert noted[-1][1] == noted[-1][2]
    library.fit(store, ["linear"], output=tmp_path / "d", progress=True, **QUICK)
    assert "refit" in shown()
