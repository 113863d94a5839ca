"""Batches decoded ahead of use and given in order, by threads or by processes with a thread each.

A decoder may hang, or crash its process. So each reader notes which image it decodes, and the waiting
caller counts the seconds. If a reader hangs or dies at an image, a new reader tries it once more, since
the image may not be the cause; the second time it is reported as a bad image.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawValue
from typing import Any, Protocol

import numpy as np
import torch
from torch import multiprocessing

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.parentage import end_with
from iceprobe.store.work import Decoded, Work

SECONDS_AN_IMAGE = 120.0  # Pillow's largest image takes a few, and more from a slow disk
TICK = 0.5  # seconds; counted, not read from a clock: the machine may sleep
NOWHERE = -1
_HINTS = {
    signal.SIGKILL: ", if memory ran short take fewer workers",
    signal.SIGBUS: ", if shared memory (/dev/shm) is full give it more or take workers=0",
}
_reader = threading.local()
log = logging.getLogger("iceprobe")


class Decode(Protocol):
    """Rows of a split → images; calls :func:`note_row` before each."""

    def __getitem__(self, work: Work, /) -> Decoded: ...


def note_row(row: int) -> None:
    """Note that this reader decodes image ``row`` now."""
    if (note := getattr(_reader, "note", None)) is not None:
        note(row)


def decoded_in_order(
    decode: Decode,
    work: Sequence[Work],
    names: Callable[[Work, int], str],
    *,
    readers: int,
    ahead: int,
    processes: bool = False,
    pin: bool = False,
) -> Generator[Decoded, None, None]:
    """Decode every item of ``work``.

    Args:
        decode: the decoder; each process gets a copy.
        work: in the order of the result.
        names: what an item's row is called in a message.
        readers: how many decode at a time.
        ahead: items under way, or decoded and not yet taken, at most.
        processes: decode in processes, so that a crash doesn't end this one.
        pin: pin the images that processes return.

    Raises:
        IceprobeError: if readers die twice before their first image.
    """
    crew = _Crew(decode, names, min(readers, max(1, len(work))), processes, pin)
    try:
        numbered = iter(enumerate(work))
        waiting = deque(crew.submit(*item) for _, item in zip(range(ahead), numbered, strict=False))
        while waiting:
            batch = crew.finish(waiting.popleft())
            waiting.extend(crew.submit(*item) for _, item in zip(range(1), numbered, strict=False))
            yield batch
    finally:
        crew.dismiss()


class _Lost(Exception):
    """A reader that hung or died at ``row``."""

    def __init__(self, row: int, why: str):
        super().__init__(row, why)
        self.row, self.why = row, why


class _Dismissed(Exception):
    """Ends the batch of a dismissed thread."""


@dataclass(order=True)
class _Job:
    number: int  # the oldest is taken first
    work: Work | None = field(compare=False)
    future: "Future[Decoded]" = field(default_factory=Future, compare=False)
    reader: "_Reader | None" = field(default=None, compare=False)


class _Crew:
    """The readers; if one is lost, its batch is decoded again."""

    def __init__(
        self,
        decode: Decode,
        names: Callable[[Work, int], str],
        readers: int,
        processes: bool,
        pin: bool,
    ):
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._start = partial(_Reader, decode, self._jobs, processes, pin)
        self._names = names
        self._readers = [self._start() for _ in range(readers)]

    def submit(self, number: int, work: Work) -> _Job:
        job = _Job(number, work)
        self._jobs.put(job)
        return job

    def finish(self, job: _Job) -> Decoded:
        """The images of ``job``; those at which two readers were lost are bad."""
        work, once, lost = job.work, set(), dict[int, str]()
        assert work is not None
        while True:
            try:
                batch = _awaited(job)
            except _Lost as loss:
                lost_reader = job.reader
                name = self._names(work, loss.row) if loss.row != NOWHERE else ""
                if loss.row not in once:
                    log.warning("a reader %s at %s: once more", loss.why, name or "none yet")
                elif not name:
                    raise IceprobeError(
                        f"reading fails: a reader {loss.why} before it came to an example, "
                        "twice; complete shards are kept, run the same again when the machine is well"
                    ) from loss
                else:
                    lost[loss.row] = (
                        f"{name} can't be read, its reader {loss.why}, twice: mend or remove it"
                    )
                once.add(loss.row)
                left = work.rows[~np.isin(work.rows, list(lost))]
                job = self.submit(job.number, replace(work, rows=left))
                self._replace(lost_reader)  # the new one takes this job first
            else:
                return replace(batch, bad=sorted([*batch.bad, *lost.items()])) if lost else batch

    def _replace(self, reader: "_Reader | None") -> None:
        assert reader is not None  # only a reader that has a job can be lost
        reader.dismiss()
        self._readers.remove(reader)
        self._readers.append(self._start())

    def dismiss(self) -> None:
        for reader in self._readers:
            reader.dismiss()
            self._jobs.put(_Job(-1, None))
        for reader in self._readers:
            reader.thread.join(timeout=5)  # a reader that hangs is abandoned


def _awaited(job: _Job) -> Decoded:
    """Wait for ``job``; `_Lost` if its reader died or stays at one image for too long."""
    before, still = None, 0.0
    while not wait([job.future], TICK).done:
        now = job.reader.at.value if job.reader is not None else None
        still = still + TICK if now is not None and now == before else 0.0
        before = now
        if now is not None and still >= SECONDS_AN_IMAGE:
            raise _Lost(now, f"stood still for {SECONDS_AN_IMAGE:g} seconds")
    return job.future.result()


class _Reader:
    """A thread that decodes batches, itself or in its process."""

    def __init__(self, decode: Decode, jobs: "queue.PriorityQueue[_Job]", process: bool, pin: bool):
        self._decode, self._jobs, self._pin = decode, jobs, pin
        self._dismissed = False
        self.at: Any = RawValue("q", NOWHERE)  # the row it decodes, in memory shared with processes
        self._process = None
        if process:  # started before the thread: a fork inherits locks that are held
            self._pipe, there = multiprocessing.Pipe()
            arguments = (decode, self._pipe, there, self.at, os.getpid())
            self._process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
            self._process.start()
            there.close()
        self.thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self.thread.start()

    def dismiss(self) -> None:
        self._dismissed = True
        if self._process is not None:
            self._process.kill()

    def _run(self) -> None:
        _reader.note = self._note
        while not self._dismissed and (job := self._jobs.get()).work is not None:
            self.at.value, job.reader = NOWHERE, self
            try:
                batch = self._decode[job.work] if self._process is None else self._asked(job.work)
            except _Lost as error:
                job.future.set_exception(error)
                break
            except BaseException as error:  # noqa: BLE001 (raised to the caller)
                job.future.set_exception(error)
            else:
                job.future.set_result(batch)
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()

    def _note(self, row: int) -> None:
        if self._dismissed:
            raise _Dismissed
        self.at.value = row

    def _asked(self, work: Work) -> Decoded:
        """``work`` decoded by the process."""
        try:
            self._pipe.send(work)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            assert self._process is not None
            self._process.join()
            raise _Lost(self.at.value, _how_it_ended(self._process.exitcode or 0)) from error
        if isinstance(answer, Exception):
            raise answer
        return answer.pin_memory() if self._pin else answer


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    number = signal.Signals(-code)
    return f"was killed by {number.name}{_HINTS.get(number, '')}"


def _serve(decode: Decode, caller: Connection, pipe: Connection, at: Any, parent: int) -> None:
    """Decode in a process until the caller closes its end or dies."""
    end_with(parent)
    caller.close()  # this process's copy
    for number in (signal.SIGINT, signal.SIGUSR1):  # sent to all processes: the caller reacts
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    _reader.note = partial(setattr, at, "value")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            work = pipe.recv()
            answer: Any
            try:
                answer = decode[work]
            except (IceprobeError, OSError) as error:
                answer = error
            except Exception:  # noqa: BLE001 (it may not be picklable)
                answer = RuntimeError(f"decoding failed in a process:\n{traceback.format_exc()}")
            pipe.send(answer)
