"""The processes of one command, and how they exchange values.

    torchrun --nproc-per-node N -m iceprobe …      RANK, WORLD_SIZE, LOCAL_RANK ─▶ world()

`torchrun`, `accelerate launch` and similar schedulers set the same environment variables. The
command line joins the other processes by them. A library call does so only within :func:`join`, so
a script that pre-trains on many GPUs can measure the features in one of its processes, or, by
:func:`joined_already`, in all of them.

An error in one process ends all: the process stores its message for the others and closes its
connections, which wakes those that wait for it; process 0 prints the message. torch is imported
only if there are other processes.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import line_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

STEP = timedelta(minutes=10)  # timeout of a sum in a step: all processes take part, or one has died
WAIT = timedelta(hours=12)  # for work of process 0 alone, or the last shard of the slowest process
PARTING = timedelta(seconds=30)  # for the error to be printed, and for the others to end

MESSAGE = 2**28  # bytes

_FAILED, _REPORTED, _ENDED = "failed", "reported", "ended"  # keys of the shared store


@dataclass(eq=False)
class World:
    """One of ``size`` processes."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # the same among the processes on this machine
    local_size: int = 1
    _store: Any = None
    _steps: Any = None  # the group for sums within a step
    _waits: Any = None  # the group for long waits, by sockets; by default torch's default group

    @property
    def main(self) -> bool:
        """Whether this process prints, and writes shared files."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's share of ``count`` consecutive items."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def check(self) -> None:
        """Raise the `IceprobeError` of another process that has failed, if there is one."""
        if self._store is not None and self._store.check([_FAILED]):
            raise IceprobeError(self._store.get(_FAILED).decode())

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; each waits for all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._together() as dist:
            dist.all_gather_object(values, value, group=self._waits)
        return values

    def each(self, call: Callable[[], T]) -> T:
        """The result of ``call``, once all processes have theirs.

        Raises:
            Exception: its own; an `IceprobeError` if ``call`` failed in another process alone.
        """
        outcome, error = None, None
        try:
            outcome = call()
        except Exception as caught:  # noqa: BLE001 (raised below, when the others know)
            error = caught
        lines = self.gather(None if error is None else line_of(error))
        if error is not None:
            raise error
        if failed := [line for line in lines if line is not None]:
            raise IceprobeError(failed[0])
        return cast(T, outcome)

    def joined(self, rows: "Tensor") -> "Tensor | None":
        """In process 0 the rows of all processes' tensors on the host, by rank; elsewhere ``None``.

        Args:
            rows: ``(n, …)``, of the same dtype in all processes; n may differ.
        """
        if self.size == 1:
            return rows
        rows, counts = rows.contiguous(), self.gather(len(rows))
        whole = self.each(
            lambda: rows.new_empty(sum(counts), *rows.shape[1:]) if self.main else None
        )
        with self._together() as dist:
            if whole is None:
                for piece in _pieces(rows):
                    dist.send(piece, 0, group=self._waits)
                return None
            parts = whole.split(counts)
            parts[0].copy_(rows)
            for rank in range(1, self.size):
                for piece in _pieces(parts[rank]):
                    dist.recv(piece, rank, group=self._waits)
        return whole

    def agree(self, value: object, what: str) -> None:
        """Raise an `IceprobeError` if ``value``, called ``what``, differs between processes."""
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise IceprobeError(
                    f"process {rank} of {self.size} has other {what} than process 0: give all of "
                    "them the same files and, where weights are random, the same seed"
                )

    def sum_(self, tensor: "Tensor") -> "Tensor":
        """Replace a contiguous ``tensor`` by its sum over all processes."""
        if self.size > 1:
            with self._together() as dist:
                dist.all_reduce(tensor, group=self._steps)
        return tensor

    def assembled(self, mine: "Tensor", place: slice, count: int, dim: int = 0) -> "Tensor":
        """Concatenate all processes' parts: ``mine`` is at ``place`` of ``count`` along ``dim``."""
        if self.size == 1:
            return mine
        whole = mine.new_zeros(*mine.shape[:dim], count, *mine.shape[dim + 1 :])
        whole.narrow(dim, place.start, place.stop - place.start).copy_(mine)
        return self.sum_(whole)

    def align(self, tensors: "Sequence[Tensor]") -> None:
        """Copy process 0's values into ``tensors``, which are equal up to rounding."""
        if self.size == 1 or not tensors:
            return
        import torch

        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with self._together() as dist:
            dist.broadcast(flat, 0, group=self._steps)
        with torch.no_grad():
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def copy_first(self, tensors: "Sequence[Tensor]") -> None:
        """Copy process 0's values into ``tensors`` of any dtypes and devices, through the host, bit by bit."""
        if self.size == 1:
            return
        hosts = self.each(lambda: [tensor.detach().cpu().contiguous() for tensor in tensors])
        with self._together() as dist:
            for host in hosts:
                for piece in _pieces(host):
                    dist.broadcast(piece, 0, group=self._waits)

        def back() -> None:
            for tensor, host in zip(tensors, hosts, strict=True):
                if host.data_ptr() != tensor.data_ptr():
                    tensor.detach().copy_(host)

        self.each(back)

    def device(self, device: "torch.device") -> "torch.device":
        """``device``; of several GPUs that of this process, unless one is named."""
        import torch

        if self.size == 1 or device.type != "cuda" or device.index is not None:
            return device
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    @contextlib.contextmanager
    def parting(self, message: str) -> Iterator[bool]:
        """Yield whether this process should print ``message``, the error with which it ends.

        Process 0 prints the error of any process; the others wait until it has, and print theirs if
        it doesn't answer.
        """
        if self.size == 1:
            yield True
            return
        self._fail(message)
        if self.main:
            yield True
            self._store.set(_REPORTED, "")
        else:
            yield not self._reported()
        self._wait_for_the_others()

    def _fail(self, message: str) -> None:
        """Store ``message`` for the others, and wake those that wait for this process."""
        self._store.compare_set(_FAILED, "", message)
        self._close()

    def _close(self) -> None:
        import torch.distributed as dist

        self._steps = None  # the last reference, which closes its connections
        if dist.is_initialized():
            dist.destroy_process_group()

    def _reported(self) -> bool:
        import torch.distributed as dist

        try:
            self._store.wait([_REPORTED], PARTING)
        except dist.DistError:
            return False
        return True

    def _wait_for_the_others(self) -> None:
        """Wait, so that the launcher sees every process end by itself.

        torchrun sends SIGTERM to the others within a tenth of a second of the first end, and an
        interpreter takes longer to exit. So this process, which is about to end, ignores SIGTERM.
        """
        import torch.distributed as dist

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(dist.DistError):  # a process has died
            if self._store.add(_ENDED, 1) == self.size:
                self._store.set(_ENDED + " all", "")
            self._store.wait([_ENDED + " all"], PARTING)

    @contextlib.contextmanager
    def _together(self) -> Iterator[Any]:
        """``torch.distributed``, for a call in all processes; explains the error if one is lost."""
        import torch.distributed as dist

        try:
            yield dist
        except RuntimeError as error:  # gloo's, and NCCL's DistBackendError is one
            self.check()
            ours = self._store is not None
            then = "the same command goes on from here" if ours else "train on from a checkpoint"
            raise IceprobeError(
                f"process {self.rank} of {self.size} has lost the others, one of which was killed "
                f"or didn't answer: see what they said; {then}"
            ) from error


def _pieces(tensor: "Tensor") -> "Sequence[Tensor]":
    """The bytes of a contiguous tensor, in messages that any transport takes."""
    import torch

    return tensor.view(-1).view(torch.uint8).split(MESSAGE) if tensor.numel() else ()


_current = World()


def world() -> World:
    """The processes that this one works with; by default it alone."""
    return _current


def joined_already() -> World:
    """The processes of a trainer, which torch.distributed has joined; this one alone if there are none.

    All of them call it together. They wait for each other by sockets, in a group of their own: a trainer's
    ends after ten minutes, and a wait on a GPU would keep it from the work.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return World()
    waits = dist.new_group(backend="gloo", timeout=WAIT)
    size, local = dist.get_world_size(), _number("LOCAL_RANK", 0)
    return World(dist.get_rank(), size, local, _number("LOCAL_WORLD_SIZE", 1), _waits=waits)


def first(call: Callable[[], T], here: World | None = None) -> T:
    """The result, or the `IceprobeError`, of ``call`` in process 0, for which the others wait.

    Args:
        call: done in process 0 alone.
        here: the processes; by default :func:`world`.
    """
    here = here or world()
    if here.size == 1:
        return call()
    outcome: list[Any] = [None, None]
    failed: IceprobeError | None = None
    if here.main:
        # A world of one, on a machine that is still shared.
        with _as(World(local_rank=here.local_rank, local_size=here.local_size)):
            try:
                outcome[0] = call()
            except IceprobeError as error:
                outcome[1], failed = str(error), error
    with here._together() as dist:
        dist.broadcast_object_list(outcome, 0, group=here._waits)
    if outcome[1] is not None:
        raise failed or IceprobeError(outcome[1])
    return outcome[0]


@contextlib.contextmanager
def join() -> Iterator[World]:
    """Work together with the processes that were started with this one, if there are any."""
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        yield world()
        return
    with _as(_connect(size)) as joined:
        try:
            yield joined
        except Exception as error:
            reason = str(error) if isinstance(error, IceprobeError) else repr(error)
            joined._fail(f"process {joined.rank} of {size} ended: {reason}")
            raise
        finally:
            # After `sys.exit` too, with which a command ends: a thread of gloo that still holds a tensor when the
            # interpreter is gone ends the process by "terminate called without an active exception".
            joined._close()


def _connect(size: int) -> World:
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise IceprobeError(
            f"WORLD_SIZE={size} and no {missing[0]}: start the processes by torchrun, or unset "
            "WORLD_SIZE to work in one"
        )
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(iter(rendezvous("env://", timeout=STEP)))
    local_rank, local_size = _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1)
    # The default group, by sockets, is for long waits. GPU tensors are summed between GPUs, unless
    # processes share one, which NCCL doesn't support.
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("wait", store), rank=rank, world_size=size, timeout=WAIT
    )
    direct = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    steps = dist.new_group(backend="cpu:gloo,cuda:nccl" if direct else "gloo", timeout=STEP)
    shared = dist.PrefixStore(f"iceprobe {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return World(rank, size, local_rank, local_size, shared, steps)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdigit():
        raise IceprobeError(f"{name}={text!r} is no number: unset it, or start by torchrun")
    return int(text)


@contextlib.contextmanager
def _as(there: World) -> Iterator[World]:
    global _current
    before, _current = _current, there
    try:
        yield there
    finally:
        _current = before
