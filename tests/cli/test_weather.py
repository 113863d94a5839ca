"""Signals, full disks, second owners: one line, an exit code that says what, and nothing lost."""

import errno
import os
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest

from iceprobe.cli import main
from iceprobe.cli.console import Bars
from iceprobe.fitting import api
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.machine.folder_lock import exclusive
from iceprobe.protocols.protocol import PROTOCOLS
from tests.cli.conftest import options
from tests.cli.test_run import contents, numbers, the_run

pytestmark = pytest.mark.usefixtures("one_part")
PROBES = ["--probe", "linear", "--probe", "ep4", "--batch-size", "8"]


@pytest.fixture
def when(monkeypatch):
    """Do something the first time that a stage has come to ``done``; gives all that is printed."""

    def arrange(stage: str, done: int, what) -> list[tuple[str, int]]:
        call, fired, seen = Bars.__call__, [], []

        def watched(self, name: str, count: int, total: int) -> None:
            call(self, name, count, total)
            seen.append((name, count))
            if name == stage and count >= done and not fired:
                fired.append(True)
                what()

        monkeypatch.setattr(Bars, "__call__", watched)
        return seen

    return arrange


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    """What the run leaves when nothing happens, made once."""
    folder = tmp_path_factory.mktemp("whole")
    command = ["iceprobe", "run", *options(images), *PROBES]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", command)
        patch.setitem(PROTOCOLS, "heldout", replace(PROTOCOLS["heldout"], folds_below=0))
        with pytest.raises(SystemExit) as stop:
            main(command[1:])
    assert not stop.value.code
    return folder


@pytest.fixture
def whole(undisturbed, iceprobe, tmp_path, monkeypatch):
    """`undisturbed`, and an empty working folder beside it."""
    (tmp_path / "stormy").mkdir()
    monkeypatch.chdir(tmp_path / "stormy")
    return undisturbed


def check_same(whole, stormy) -> None:
    assert contents(whole / "features") == contents(stormy / "features")
    assert numbers(the_run(whole)) == numbers(the_run(stormy))
    assert contents(the_run(whole) / "probes") == contents(the_run(stormy) / "probes")
    curves = [(the_run(folder) / "curves.csv").read_text() for folder in (whole, stormy)]
    assert curves[0] == curves[1]
    assert {p.name for p in the_run(whole).iterdir()} == {p.name for p in the_run(stormy).iterdir()}


@pytest.mark.parametrize(
    ("number", "stage", "done", "code"),
    [
        (signal.SIGTERM, "extract train", 1, 143),
        (signal.SIGTERM, "select", 3, 143),  # in the middle of an epoch of 4 steps
        (signal.SIGINT, "refit", 1, 130),
        (signal.SIGUSR1, "select", 8, 138),
        (signal.SIGTERM, "report", 0, 143),
    ],
)
def test_a_signal_saves_and_the_same_command_ends_the_same(
    iceprobe, quick, whole, when, tmp_path, number, stage, done, code
):
    seen = when(stage, done, lambda: os.kill(os.getpid(), number))
    ended = iceprobe("run", *quick, *PROBES)
    says = f"iceprobe: stopped by {number.name}; the same command goes on from here\n"
    assert (ended.code, ended.err) == (code, says)
    seen.clear()
    again = iceprobe("run", *quick, *PROBES)
    assert (again.code, again.err) == (0, "")
    check_same(whole, tmp_path / "stormy")
    if done == 3:  # no step is taken twice: the state is of the moment, not of an epoch
        assert [count for name, count in seen if name == "select"] == [4, 5, 6, 7, 8]


def test_a_second_signal_does_not_wait(iceprobe, quick, when):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    when("select", 1, twice)
    assert iceprobe("run", *quick, *PROBES).code == 130


@contextmanager
def files_at_most(size: int):
    """Writes beyond ``size`` bytes fail in the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("writer", ["write_atomically", "write_predictions", "write_results"])
def test_no_room_for_what_a_fit_writes(iceprobe, quick, whole, tmp_path, monkeypatch, writer):
    write = getattr(api, writer)

    def starved(*arguments):
        with files_at_most(100):
            return write(*arguments)

    monkeypatch.setattr(api, writer, starved)
    ended = iceprobe("run", *quick, *PROBES)
    assert ended.code == 2
    assert ended.err.startswith("iceprobe: error: File too large: runs/")
    assert ended.err.count("\n") == 1
    run = the_run(tmp_path / "stormy")
    assert not (run / "results.json").exists()
    assert not list(run.rglob(".*"))
    monkeypatch.setattr(api, writer, write)
    assert iceprobe("run", *quick, *PROBES).code == 0
    check_same(whole, tmp_path / "stormy")


def test_no_room_for_the_state_of_a_fit(iceprobe, quick, whole, tmp_path, monkeypatch):
    save = Checkpoint.save

    def starved(*arguments):
        with files_at_most(100):
            save(*arguments)

    monkeypatch.setattr(Checkpoint, "save", starved)
    ended = iceprobe("run", *quick, *PROBES)
    assert ended.code == 2
    assert "state-0.safetensors can't be written (" in ended.err
    assert "File too large" in ended.err
    assert "make room and run the same again" in ended.err
    assert ended.err.count("\n") == 1
    assert not list((tmp_path / "stormy").rglob("*.tmp"))
    monkeypatch.setattr(Checkpoint, "save", save)
    assert iceprobe("run", *quick, *PROBES).code == 0
    check_same(whole, tmp_path / "stormy")


def test_a_full_disk_under_a_shard(iceprobe, quick, whole, monkeypatch, tmp_path):
    with files_at_most(6000):  # config and manifest find room, the shard of 36 images doesn't
        ended = iceprobe("run", *quick, *PROBES)
    assert ended.code == 2
    assert "a file grew too large for features/" in ended.err
    assert ended.err.count("\n") == 1
    assert not list((tmp_path / "stormy").rglob("*.tmp"))
    assert iceprobe("run", *quick, *PROBES).code == 0
    check_same(whole, tmp_path / "stormy")


@pytest.mark.parametrize(("place", "stage", "done"), [("runs", "select", 3), ("runs", "knn", 1),
                                                      ("features", "extract train", 1)])  # fmt: skip
def test_a_folder_that_is_removed_in_mid_run(
    iceprobe, quick, whole, when, tmp_path, place, stage, done
):
    def remove() -> None:  # at once: taken file by file, a shard may be renamed in between
        (tmp_path / "stormy" / place).rename(tmp_path / "gone")

    when(stage, done, remove)
    probes = ["--probe", "knn"] if stage == "knn" else PROBES
    ended = iceprobe("run", *quick, *probes)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert f"{place}/" in ended.err
    assert "removed while" in ended.err
    assert not list((tmp_path / "stormy" / place).glob("*/*"))  # nothing half of a run is made anew
    assert iceprobe("run", *quick, *probes).code == 0
    if stage != "knn":
        check_same(whole, tmp_path / "stormy")


@pytest.mark.parametrize(("number", "call"), [(errno.EIO, "fsync"), (errno.ESTALE, "replace")])
def test_a_disk_that_does_not_answer_is_one_line(
    iceprobe, quick, whole, tmp_path, monkeypatch, number, call
):
    def fail(*arguments):
        raise OSError(number, os.strerror(number), *map(str, arguments[:1]))

    with monkeypatch.context() as weather:
        weather.setattr(os, call, fail)
        ended = iceprobe("run", *quick, *PROBES)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert os.strerror(number) in ended.err
    assert "answers and run the same again" in ended.err
    assert iceprobe("run", *quick, *PROBES).code == 0
    check_same(whole, tmp_path / "stormy")


@contextmanager
def owner(folder):
    """Another process that holds the lock of ``folder``; its number."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with exclusive(folder):
            os.write(write, b"!")
            signal.pause()
    os.read(read, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("place", "stage"), [("runs/*", "select"), ("features/*", "select"), ("both", "select")]
)
def test_a_second_owner_is_refused_and_a_dead_one_holds_nothing(
    iceprobe, quick, when, tmp_path, place, stage
):
    asked = ["run", *quick, *PROBES]
    if place == "both":
        asked += ["--shots", "4,6", "--replicates", "1", "--output", "both"]
    when(stage, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert iceprobe(*asked).code == 143
    (folder,) = tmp_path.glob(place)
    if place == "features/*":  # as an extraction that isn't finished
        for file in folder.iterdir():
            file.unlink()
    with owner(folder) as number:
        ended = iceprobe(*asked)
        seen = (
            f"writing to {folder.relative_to(tmp_path)} (process {number} on {os.uname().nodename})"
        )
        assert ended.code == 2
        assert seen in ended.err
        assert ended.err.count("\n") == 1
    assert (folder / ".lock").exists()  # of the process that was killed
    ended = iceprobe(*asked)
    assert (ended.code, ended.err) == (0, "")
    assert not (folder / ".lock").exists()
