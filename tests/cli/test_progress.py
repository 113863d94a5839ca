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


@pytest.fixture
def signs(monkeypatch):
    """Of a command that began at 100: its sign at a time, if there is one, as its thread gives it."""
    now = {"at": 100.0}
    for one in (progress, terminal):
        monkeypatch.setattr(one, "time", SimpleNamespace(monotonic=lambda: now["at"]))
    monkeypatch.setattr(terminal, "SECONDS_TO_FIRST_SIGN", 2.0)
    monkeypatch.setattr(progress, "SECONDS_TO_SIGN", 2.0)
    for name, value in {"began": 100.0, "said": 0.0, "signed": ("", 0.0)}.items():
        monkeypatch.setattr(outlet, name, value)

    def at(moment):
        now["at"] = moment
        return terminal.sign(moment)

    return at


def test_a_command_gives_a_sign_of_life_where_no_stage_does(signs, monkeypatch):
    assert signs(101.9) is None
    assert signs(102.0) == "preparing: at work for 2.0 s"
    assert signs(131.9) is None
    assert signs(132.0) == "preparing: at work for 32.0 s"
    with monkeypatch.context() as patch:
        loading = SimpleNamespace(__spec__=SimpleNamespace(_initializing=True))
        patch.setitem(sys.modules, "torch", loading)
        assert signs(134.0) == "loading torch: at work for 34.0 s"
        assert signs(140.0) is None
    assert signs(140.0) == "preparing: at work for 40.0 s"
    with Bars():
        assert signs(200.0) is None
    assert not outlet.watched


def test_what_goes_on_after_a_table_or_a_stage_has_its_own_sign(signs, capsys):
    assert signs(102.0) is not None
    outlet.print("a table")  # at 102
    assert signs(103.9) is None
    assert signs(104.0) == "going on: at work for 4.0 s"
    assert signs(110.0) is None
    with terminal.at_work("report"):  # from 110
        assert signs(111.9) is None
        assert signs(112.0) == "report: at work for 2.0 s"
        assert signs(120.0) is None
    with Bars():  # a stage that said nothing
        assert signs(130.0) is None
    assert signs(131.9) is None
    assert signs(132.0) == "going on: at work for 32.0 s"
    assert capsys.readouterr().out == "a table\n"


@pytest.mark.parametrize("given", [True, False])
def test_silence_before_the_first_stage_counts_unless_there_was_a_sign(
    signs, monkeypatch, capsys, given
):
    """The command has been at work for two seconds, half a second of it in stages."""
    if given:
        monkeypatch.setattr(outlet, "signed", ("preparing", 101.0))
    signs(101.5)
    bars = Bars()
    signs(101.9)
    bars._lines.tick()
    assert capsys.readouterr().out == ""
    signs(102.0)
    bars._lines.tick()
    assert capsys.readouterr().out == ("" if given else "preparing: at work for 0.5 s\n")


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
