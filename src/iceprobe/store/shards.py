"""One shard, a safetensors file, read row by row.

Rows in the page cache are copied from a memory map; ``pread`` takes 1.4 times as long (rows of 301
KB). Other rows are read by position, and all of them are announced to the disk before the first is
waited for: from a cold disk that reached 0.46 GB/s with rows of 75 KB in random order, and the map (a
fault and a read-around of 128 KB at a time) 0.05. A file that was cut short is an error with a name,
not a SIGBUS: beyond its end nothing is cached.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
OF_EVERY_IMAGE = ("label", "index", "box")  # read when a store is opened, whatever comes then
WHOLE = " "  # of `Shard._parts`: all of it was compared
HEADER_PART = ""  # of `FileRecord.parts`: no tensor is called so
HEADER_BYTES = 4096  # length word included; the data starts on a page
LARGEST_HEADER = 2**20
STEP = 2**19  # bytes between pages that are asked for
_UNUSED = memoryview(bytearray(1))  # what they are read into
CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_DTYPES = {code: dtype for dtype, code in CODES.items()}


class Shard:
    """A shard to read from.

    Args:
        path: of the file.
        record: what was written.
        damaged: the error for a file and what is wrong with it.

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
        self._parts: dict[str, bool] = {}  # tensors that were compared
        self._checks = b""
        self._rows = np.zeros(0, bool)  # images whose patches were compared
        try:
            with opened(path) as descriptor:
                header = self._read_header(descriptor)
            self._map = _mapped(path)
        except PermissionError:
            raise  # nothing is wrong with the shard
        except OSError as error:
            raise self._damaged(path, error.strerror or "it can't be opened") from error
        try:
            header.pop("__metadata__", None)
            self._layout = {
                name: (_DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"][0])
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(path, "its header is damaged") from error

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def read(self, name: str) -> Tensor:
        """The whole tensor, copied into memory."""
        tensor = self._read(name)
        if name == "patches":
            self._check_rows(np.arange(len(tensor)), np.arange(len(tensor)), flat_bytes(tensor))
        return tensor

    def read_rows(self, name: str, rows: np.ndarray, out: memoryview, places: np.ndarray) -> None:
        """Copy ``rows[i]`` of a tensor to row ``places[i]`` of ``out``, a flat view of bytes.

        ``rows`` ascend. Where rows and places both run on without a gap they are one read.
        """
        if name != "patches" and not self._parts.get(name):
            self._read(name)
        dtype, shape, offset = self._layout[name]
        size = int(np.prod(shape[1:])) * dtype.itemsize
        base = self._start + offset
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
        firsts = np.concatenate([[0], breaks])
        lengths = np.diff(np.concatenate([firsts, [len(rows)]])) * size
        runs = list(
            zip(
                (base + rows[firsts] * size).tolist(),
                (places[firsts] * size).tolist(),
                lengths.tolist(),
                strict=True,
            )
        )
        try:
            with opened(self.path) as descriptor:
                self._read_runs(descriptor, runs, out)
        except FileNotFoundError as error:
            if self._map is None:
                raise self._damaged(self.path, "it is missing") from error
            self._copy(runs, out)  # removed since, as from a full cache: the map still has it all
        if name == "patches":
            self._check_rows(rows, places, out)

    def _read_runs(
        self, descriptor: int, runs: Sequence[tuple[int, int, int]], out: memoryview
    ) -> None:
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

    def _copy(self, runs: Sequence[tuple[int, int, int]], out: memoryview) -> None:
        assert self._map is not None
        flat = np.frombuffer(out, np.uint8)
        for position, place, length in runs:
            flat[place : place + length] = self._map[position : position + length]

    def _read_header(self, descriptor: int) -> dict[str, Any]:
        length = os.pread(descriptor, 8, 0)
        text = os.pread(descriptor, min(int.from_bytes(length, "little"), LARGEST_HEADER), 8)
        expected = self._record.parts.get(HEADER_PART)
        if expected is not None and hashlib.sha256(length + text).hexdigest() != expected:
            if len(length + text) < HEADER_BYTES:
                raise self._damaged(self.path, "it ends too early")
            raise self._damaged(self.path, "its header is damaged")
        self._start = 8 + len(text)
        try:
            header = parse_json(text)
            return dict(header)
        except (ValueError, TypeError) as error:
            raise self._damaged(self.path, "its header is damaged") from error

    def _read(self, name: str) -> Tensor:
        """A whole tensor; compared, unless it is the patches, whose images are one by one."""
        self._check_whole(name)
        dtype, shape, offset = self._layout[name]
        tensor = torch.empty(shape, dtype=dtype)
        view = flat_bytes(tensor)
        try:
            with opened(self.path) as descriptor:
                self._read_into(descriptor, view, self._start + offset)
        except FileNotFoundError as error:
            if self._map is None:
                raise self._damaged(self.path, "it is missing") from error
            self._copy([(self._start + offset, 0, len(view))], view)
        if name != "patches" and not self._parts.get(name):
            expected = self._record.parts.get(name)
            if expected is not None and hashlib.sha256(view).hexdigest() != expected:
                raise self._damaged(self.path, f"{name} isn't what was written")
            self._parts[name] = True
        return tensor

    def _check_rows(self, rows: np.ndarray, places: np.ndarray, out: memoryview) -> None:
        """Compare the patches of those of ``rows`` that weren't compared yet."""
        if not self._record.parts:
            return
        if not self._checks:
            checks = self._read(CHECKS)
            self._rows, self._checks = np.zeros(len(checks), bool), bytes(flat_bytes(checks))
        new = np.flatnonzero(~self._rows[rows])
        dtype, shape, _ = self._layout["patches"]
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for row, place in zip(rows[new].tolist(), places[new].tolist(), strict=True):
            found = row_check(out[place * size : (place + 1) * size])
            if found != self._checks[row * CHECK_BYTES : (row + 1) * CHECK_BYTES]:
                raise self._damaged(
                    self.path, f"the patches of image {row} aren't what was written"
                )
        self._rows[rows] = True

    def _check_whole(self, name: str) -> None:
        """Of a file without digests of its parts: compare all of it, before its patches are read.

        Where patches are stored and aren't asked for, they aren't read for this.
        """
        if self._record.parts or self._parts.get(WHOLE):
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
        self._parts[WHOLE] = True

    def _read_into(self, descriptor: int, view: memoryview, position: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], position + done)
            if count == 0:
                raise self._damaged(self.path, "it ends too early")
            done += count


def _are_cached(descriptor: int, runs: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a page in every fourth half MiB of the runs is in the page cache.

    The system reads and drops pages by long stretches. Where one is missing all the same, the
    map waits for it, and nothing else happens.
    """
    places = [p for position, _, length in runs for p in range(position, position + length, STEP)]
    return all(_read_cached(descriptor, _UNUSED, place) for place in places[::4])


def _read_cached(descriptor: int, view: memoryview, position: int) -> bool:
    """Fill ``view`` from the page cache, unless some of it would have to be waited for."""
    try:
        return os.preadv(descriptor, [view], position, os.RWF_NOWAIT) == len(view)
    except (OSError, AttributeError):  # not there; or a system or disk that can't say so
        return False


def _mapped(path: Path) -> np.ndarray | None:
    """The file as an array of bytes, which keeps no descriptor (Python's own ``mmap`` keeps one).

    ``None`` where the system has no map left for it: then everything is read by position.
    """
    try:
        return torch.from_file(
            str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8
        ).numpy()
    except RuntimeError:
        return None


def shard_bytes(
    images: int,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    shards: int = 1,
    *,
    checked: bool = True,
) -> int:
    """Bytes of shards that hold ``images`` images together.

    Args:
        layout: dtype and shape of one image, by name.
        checked: whether each image's patches have a check, as in all that are written now.
    """
    each = CHECK_BYTES if checked and "patches" in layout else 0
    each += sum(
        dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in layout.values()
    )
    return shards * HEADER_BYTES + images * each


def corrupt(path: Path, reason: str) -> IceprobeError:
    """The error for a damaged shard of a local store."""
    return IceprobeError(
        f"corrupt shard {path}: {reason}; mend it with: iceprobe extract --repair {path.parent}"
    )


def row_check(view: memoryview) -> bytes:
    """The check of one image's patch tokens."""
    return hashlib.sha256(view).digest()[:CHECK_BYTES]
