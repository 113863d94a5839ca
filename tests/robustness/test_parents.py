"""A parent that is killed takes its workers along, and no child keeps the lock of a dead owner."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iceprobe.machine import parentage
from iceprobe.machine.folder_lock import exclusive
from iceprobe.store import decoding
from iceprobe.store.decoding import decoded_in_order
from iceprobe.store.work import Work


class Hanging:
    """A decoder that tells its process and never comes back."""

    def __init__(self, pipe: int):
        self.pipe = pipe

    def __getitem__(self, work: Work):
        os.write(self.pipe, f"{os.getpid()} ".encode())
        threading.Event().wait()


def forked(call: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(1)
    return child


def killed(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def lives(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie has let go of everything


def ended(handles: list[int]) -> bool:
    """Whether all end within a minute; ``handles`` are of `os.pidfd_open`, readable at the end."""
    return all(select.select([handle], [], [], 60)[0] for handle in handles)


@pytest.mark.parametrize("by_kernel", [True, False])
def test_workers_that_hang_end_with_their_parent(tmp_path, monkeypatch, by_kernel):
    if not by_kernel:  # as where there is no prctl
        monkeypatch.setattr(parentage, "_asked_the_kernel", lambda: False)
        monkeypatch.setattr(parentage, "SECONDS_BETWEEN_LOOKS", 0.05)
    read, write = os.pipe()
    work = [Work("train", 0, np.arange(1), last=False) for _ in range(2)]

    def parent() -> None:
        with exclusive(tmp_path / "store"):
            list(
                decoded_in_order(
                    Hanging(write), work, lambda *_: "", readers=2, ahead=2, processes=True
                )
            )

    child = forked(parent)
    seen = b""
    while len(seen.split()) < 2 or not seen.endswith(b" "):
        seen += os.read(read, 100)
    workers = [int(text) for text in seen.split()]
    assert len(set(workers)) == 2
    assert all(map(lives, workers))
    handles = [os.pidfd_open(worker) for worker in workers]
    killed(child)
    try:
        assert ended(handles)
    finally:
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    with exclusive(tmp_path / "store"):  # nobody holds it
        pass
    for handle in (read, write, *handles):
        os.close(handle)


def test_a_child_that_outlives_the_owner_of_a_lock_does_not_hold_it(tmp_path):
    read, write = os.pipe()

    def owner() -> None:
        with exclusive(tmp_path / "run"):
            child = forked(threading.Event().wait)
            os.write(write, f"{child} ".encode())
            threading.Event().wait()

    child = forked(owner)
    orphan = int(os.read(read, 100))
    killed(child)
    assert lives(orphan)
    try:
        with exclusive(tmp_path / "run"):
            assert (tmp_path / "run" / ".lock").exists()
    finally:
        os.kill(orphan, signal.SIGKILL)
    assert not (tmp_path / "run" / ".lock").exists()
    os.close(read)
    os.close(write)


def test_a_child_does_not_release_the_lock_of_its_parent(tmp_path):
    from iceprobe.core.errors import IceprobeError

    with exclusive(tmp_path):
        os.waitpid(forked(lambda: None), 0)

        def intruder() -> None:
            try:
                with exclusive(tmp_path):
                    os._exit(3)
            except IceprobeError as error:
                os._exit(4 if f"process {os.getppid()} on " in str(error) else 5)

        _, status = os.waitpid(forked(intruder), 0)
        assert os.waitstatus_to_exitcode(status) == 4
        assert (tmp_path / ".lock").exists()


def test_no_more_workers_than_batches(monkeypatch):
    started = []

    class Counted(decoding._Reader):
        def __init__(self, *arguments):
            started.append(1)
            super().__init__(*arguments)

    class Echo:
        def __getitem__(self, work):
            return work.number

    monkeypatch.setattr(decoding, "_Reader", Counted)
    work = [Work("train", number, np.arange(1), last=False) for number in range(2)]
    assert list(decoded_in_order(Echo(), work, lambda *_: "", readers=150, ahead=300)) == [0, 1]
    assert len(started) == 2
