"""One shard, a safetensors file, read row by row.

Rows in the page cache are copied from a memory map; ``pread`` takes 1.4 times as long (rows of 301
KB). Other rows are read by position, after all of them were announced to the disk: from a cold disk
that reached 0.46 GB/s with rows of 75 KB in random order, and the map (a fault and a read-ahead of 128
KB at a time) 0.05. A file that was cut short gives an error with its name, not a SIGBUS: beyond its end
nothing is cached.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.checksums import log_once, sha256
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.open_files import opened
from iceprobe.store.buffers import flat_bytes
from iceprobe.store.format import FileRecord

CHECKS = "checks"  # tensor (n, CHECK_BYTES) uint8: the start of each image's sha256 of its patches
CHECK_BYTES = 8
LENGTH = "length"  # tensor (n,) of how many tokens an example has, where examples differ
OF_TOKENS = (
    "patches",
    "scales",
    "coords",
    "cover",
)  # a row a token; those of all examples lie end to end then
OF_EVERY_IMAGE = ("label", "index", "box")  # always read when a store is opened
HEADER_PART = ""  # key of `FileRecord.parts`; no tensor has this name
HEADER_BYTES = 4096  # with the length word; the data starts on a page
LARGEST_HEADER = 2**20
STEP = 2**19  # bytes between the pages whose caching is checked
_UNUSED = memoryview(bytearray(1))  # the buffer for them
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_DTYPES = {code: dtype for dtype, code in CODES.items()}
Runs = Sequence[tuple[int, int, int]]  # of bytes: position in the file, place in memory, length


class Shard:
    """A shard to read from.

    Args:
        path: of the file.
        record: what was written.
        damaged: makes the error from a file and the reason.

    Raises:
        IceprobeError: if it can't be read or its header isn't what was written.
    """

    def __init__(
        self,
        path: Path,
        record: FileRecord,
        damaged: Callable[[Path, str], IceprobeError] | None = None,
    ):
        self.path, self._record, self._damaged = path, record, damaged or corrupt
        self._compared: set[str] = set()  # tensors
        self._whole = False  # whether the whole file was compared
        self._checks = b""
        self._rows = np.zeros(0, bool)  # images whose patches were compared
        self._ends: np.ndarray | None = None  # (1 + n,) tokens before and behind each example
        try:
            with opened(path) as descriptor:
                text = self._read_header(descriptor)
            self._map = _mapped(path)
        except PermissionError:
            raise  # nothing is wrong with the shard
        except OSError as error:
            raise self._damaged(path, error.strerror or "it can't be opened") from error
        try:
            header = dict(parse_json(text))
            header.pop("__metadata__", None)
            self._layout = {
                name: (_DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"][0])
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(path, "its header is damaged") from error

    def read(self, name: str) -> Tensor:
        """The whole tensor, copied into memory; where examples differ in length, end to end."""
        tensor = self._read(name)
        if name == "patches":
            starts, sizes = self._spans(name, np.arange(self._examples(name)))
            self._check_rows(np.arange(len(starts)), starts, sizes, flat_bytes(tensor))
        return tensor

    def read_rows(
        self, name: str, rows: np.ndarray, out: memoryview, targets: np.ndarray, room: int
    ) -> None:
        """Copy ``rows[i]`` of a tensor into ``out``, a flat view of bytes, from ``targets[i] * room`` on.

        ``rows`` ascend; ``room`` is in bytes. A run of rows and targets without gaps is one read.
        """
        if name != "patches" and name not in self._compared:
            self._read(name)
        starts, sizes = self._spans(name, rows)
        places = targets * room
        apart = (np.diff(starts) != sizes[:-1]) | (np.diff(places) != sizes[:-1])
        firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
        lengths = np.add.reduceat(sizes, firsts)
        positions = self._start + self._layout[name][2] + starts[firsts]
        runs = np.stack([positions, places[firsts], lengths], 1).tolist()
        self._fetch(lambda descriptor: self._read_runs(descriptor, runs, out), runs, out)
        if name == "patches":
            self._check_rows(rows, places, sizes, out)

    def _spans(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each of ``rows`` begins in a tensor and how long it is, in bytes."""
        dtype, shape, _ = self._layout[name]
        size = int(np.prod(shape[1:])) * dtype.itemsize
        if name not in OF_TOKENS or LENGTH not in self._layout:
            return rows * size, np.full(len(rows), size)
        if self._ends is None:
            ends = np.cumsum([0, *self._read(LENGTH).tolist()])
            if ends[-1] != shape[0]:
                reason = f"it has {shape[0]} rows of {name} for {ends[-1]} tokens"
                raise self._damaged(self.path, reason)
            self._ends = ends
        return self._ends[rows] * size, (self._ends[rows + 1] - self._ends[rows]) * size

    def _examples(self, name: str) -> int:
        """Examples that the rows of a tensor are of."""
        ragged = name in OF_TOKENS and LENGTH in self._layout
        return self._layout[LENGTH if ragged else name][1][0]

    def _fetch(self, read: Callable[[int], None], runs: Runs, out: memoryview) -> None:
        """``read`` the file, or copy from its map if it was removed, as from a full cache."""
        try:
            with opened(self.path) as descriptor:
                read(descriptor)
        except FileNotFoundError as error:
            if self._map is None:
                raise self._damaged(self.path, "it is missing") from error
            self._copy(runs, out)

    def _read_runs(self, descriptor: int, runs: Runs, out: memoryview) -> None:
        if self._map is not None and _are_cached(descriptor, runs):
            return self._copy(runs, out)
        slow = [
            (out[place : place + length], position)
            for position, place, length in runs
            if not _read_cached(descriptor, out[place : place + length], position)
        ]
        if len(slow) > 1 and hasattr(os, "posix_fadvise"):
            # Announce all of them to the disk before waiting for the first.
            for view, position in slow:
                os.posix_fadvise(descriptor, position, len(view), os.POSIX_FADV_WILLNEED)
        for view, position in slow:
            self._read_into(descriptor, view, position)

    def _copy(self, runs: Runs, out: memoryview) -> None:
        assert self._map is not None
        flat = np.frombuffer(out, np.uint8)
        for position, place, length in runs:
            flat[place : place + length] = self._map[position : position + length]

    def _read_header(self, descriptor: int) -> bytes:
        length = os.pread(descriptor, 8, 0)
        text = os.pread(descriptor, min(int.from_bytes(length, "little"), LARGEST_HEADER), 8)
        expected = self._record.parts.get(HEADER_PART)
        if expected is not None and hashlib.sha256(length + text).hexdigest() != expected:
            if len(length + text) < HEADER_BYTES:
                raise self._damaged(self.path, "it ends too early")
            raise self._damaged(self.path, "its header is damaged")
        self._start = 8 + len(text)
        return text

    def _read(self, name: str) -> Tensor:
        """A whole tensor, compared with its digest; patches are compared image by image later."""
        self._check_whole(name)
        dtype, shape, offset = self._layout[name]
        tensor = torch.empty(shape, dtype=dtype)
        view = flat_bytes(tensor)
        start = self._start + offset
        whole = [(start, 0, len(view))]
        self._fetch(lambda descriptor: self._read_into(descriptor, view, start), whole, view)
        if name != "patches" and name not in self._compared:
            expected = self._record.parts.get(name)
            if expected is not None and hashlib.sha256(view).hexdigest() != expected:
                raise self._damaged(self.path, f"{name} isn't what was written")
            self._compared.add(name)
        return tensor

    def _check_rows(
        self, rows: np.ndarray, places: np.ndarray, sizes: np.ndarray, out: memoryview
    ) -> None:
        """Compare the patches of those of ``rows`` that weren't compared yet."""
        if not self._record.parts:
            return
        if not self._checks:
            checks = self._read(CHECKS)
            self._rows, self._checks = np.zeros(len(checks), bool), bytes(flat_bytes(checks))
        new = np.flatnonzero(~self._rows[rows])
        spans = np.stack([rows[new], places[new], sizes[new]], 1).tolist()
        for row, place, size in spans:
            found = row_check(out[place : place + size])
            if found != self._checks[row * CHECK_BYTES : (row + 1) * CHECK_BYTES]:
                raise self._damaged(
                    self.path, f"the patches of image {row} aren't what was written"
                )
        self._rows[rows] = True

    def _check_whole(self, name: str) -> None:
        """Compare all of a file without digests of its parts, unless its patches aren't needed."""
        if self._record.parts or self._whole:
            return
        if name != "patches" and "patches" in self._layout:
            if name not in OF_EVERY_IMAGE:
                store = self.path.parent
                log_once(
                    "store",
                    f"{store} is as it was written where no patch tokens are read (an earlier "
                    f"iceprobe kept no checksum of each tensor; iceprobe extract --verify {store} "
                    "compares all of it)",
                )
            return
        if (found := sha256(self.path)) != self._record.sha256:
            reason = f"its checksum is {found[:12]}, not {self._record.sha256[:12]}"
            raise self._damaged(self.path, reason)
        self._whole = True

    def _read_into(self, descriptor: int, view: memoryview, position: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], position + done)
            if count == 0:
                raise self._damaged(self.path, "it ends too early")
            done += count


def _are_cached(descriptor: int, runs: Runs) -> bool:
    """Whether a page in every fourth half MiB of the runs is in the page cache.

    The system caches long stretches. If another page is missing, the map only waits for it.
    """
    positions = [
        p for position, _, length in runs for p in range(position, position + length, STEP)
    ]
    return all(_read_cached(descriptor, _UNUSED, position) for position in positions[::4])


def _read_cached(descriptor: int, view: memoryview, position: int) -> bool:
    """Fill ``view`` from the page cache; false if some of it isn't cached."""
    try:
        return os.preadv(descriptor, [view], position, os.RWF_NOWAIT) == len(view)
    except (OSError, AttributeError):  # not cached, or the system or the disk can't tell
        return False


def _mapped(path: Path) -> np.ndarray | None:
    """The mapped file, without an open descriptor (Python's ``mmap`` keeps one); ``None`` if it fails."""
    size = path.stat().st_size
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError:  # the system has no map left: everything is read by position
        return None


def corrupt(path: Path, reason: str) -> IceprobeError:
    """The error for a damaged shard of a local store."""
    return IceprobeError(
        f"corrupt shard {path}: {reason}; mend it with: iceprobe extract --repair {path.parent}"
    )


def row_check(view: memoryview) -> bytes:
    """The check of one image's patch tokens."""
    return hashlib.sha256(view).digest()[:CHECK_BYTES]
