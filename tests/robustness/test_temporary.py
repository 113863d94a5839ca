"""What a killed writer left is swept by the next one, and what another writes now is left alone."""

import os
import signal
import threading
from pathlib import Path

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.files import write_atomically
from iceprobe.machine.temporary import new_folder, temporary_file, temporary_folder


def writer(path: Path, *, folder: bool = False) -> int:
    """A process that is in the middle of writing ``path``."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with (temporary_folder if folder else temporary_file)(path) as made:
            if folder:
                (made / "half").write_bytes(b"half")
            else:
                made.write(b"half")
                made.flush()
            os.write(write, b"!")
            threading.Event().wait()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return child


def killed(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    path = tmp_path / "report.html"
    (tmp_path / ".report.html.backup").write_text("mine")
    dead, alive = writer(path), writer(path)
    killed(dead)
    before = names(tmp_path)
    assert len(before) == 3
    write_atomically(path, b"whole")
    (left,) = set(names(tmp_path)) - {"report.html", ".report.html.backup"}
    assert left in before
    assert (tmp_path / left).read_bytes() == b"half"
    killed(alive)
    write_atomically(path, b"whole again")
    assert names(tmp_path) == [".report.html.backup", "report.html"]
    assert path.read_bytes() == b"whole again"


def test_folders_as_well(tmp_path):
    dead, alive = (writer(tmp_path / "model", folder=True) for _ in range(2))
    killed(dead)
    assert len(names(tmp_path)) == 2
    with new_folder(tmp_path / "model", "--output") as folder:
        (folder / "weights").write_bytes(b"whole")
    assert len(names(tmp_path)) == 2  # the model, and what is being written
    killed(alive)
    with (
        pytest.raises(IceprobeError, match="not empty"),
        new_folder(tmp_path / "model", "--output"),
    ):
        pass
    with new_folder(tmp_path / "model", "--maps", ["weights"]) as folder:
        (folder / "weights").write_bytes(b"other")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_bytes() == b"other"


def test_a_folder_with_anything_of_somebody_else_is_never_replaced(tmp_path):
    maps = tmp_path / "maps"
    (maps / "deep").mkdir(parents=True)
    (maps / "deep" / "a.png").write_bytes(b"ours")
    (maps / "empty").mkdir()
    with (
        pytest.raises(IceprobeError, match="maps' is not empty: name a new folder"),
        new_folder(maps, "--maps", ["deep/a.png"]),
    ):
        pass
    assert (maps / "deep" / "a.png").read_bytes() == b"ours"


def test_an_error_leaves_nothing_and_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")

    def fails() -> None:
        with temporary_file(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert names(tmp_path) == ["table.csv"]
    assert path.read_bytes() == b"old"
