"""One shard: a safetensors file that is written batch by batch and read row by row.

Patch tokens, nearly all of the bytes, come first and go to disk as they are made, so the memory
that writing takes is one batch, whatever the size of a shard; the header, of a fixed length
(safetensors allows it to be padded), follows when the number of images is known. Rows in the page
cache are copied from a memory map, where the kernel's own copy takes 1.4 times as long (rows of 301
KB); others are read by position, each announced before the first is waited for: from a cold disk
that reached 0.46 GB/s with rows of 75 KB in random order, and the map (a fault and a read-around of
128 KB at a time) 0.05. A file that was cut short is an error with a name, not a SIGBUS: beyond its
end nothing is cached.
"""

import hashlib
import json
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iceprobe.errors import IceprobeError
from iceprobe.store.format import FileRecord, publish

HEADER_BYTES = 4096  # length word included; the data starts on a page
STEP = 2**19  # bytes between pages that are asked for
_UNUSED = memoryview(bytearray(1))  # what they are read into
_CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


class ShardWriter:
    """Writes ``NAME.tmp`` batch by batch; ``finish`` puts it under its name, whole.

    Every batch has the same keys. ``patches``, where present, is streamed to the file; the other
    tensors are small and are kept until the end.
    """

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        self._file = self.temporary.open("wb", buffering=0)
        self._small: dict[str, list[Tensor]] = {}
        self._streamed: tuple[torch.dtype, tuple[int, ...]] | None = None
        self._streamed_rows = 0
        self._file.seek(HEADER_BYTES)

    def write(self, batch: Mapping[str, Tensor]) -> None:
        for name, tensor in batch.items():
            if name == "patches":
                self._streamed = (tensor.dtype, tuple(tensor.shape[1:]))
                self._streamed_rows += len(tensor)
                _write_all(self._file, tensor)
            else:
                self._small.setdefault(name, []).append(tensor)

    def __len__(self) -> int:
        """Images written so far."""
        return sum(map(len, self._small["label"]))

    def finish(self) -> FileRecord:
        """Write what is left, flush to the disk, rename."""
        small = {name: torch.cat(parts) for name, parts in self._small.items()}
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        if self._streamed is not None:
            layout["patches"] = (self._streamed[0], (self._streamed_rows, *self._streamed[1]))
        layout |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in small.items()}
        for tensor in small.values():
            _write_all(self._file, tensor)
        size = self._file.tell()
        self._file.seek(0)
        self._file.write(_header(layout))
        os.fsync(self._file.fileno())
        self._file.close()
        checksum = sha256(self.temporary)
        publish(self.temporary, self.path)
        return FileRecord(file=self.path.name, bytes=size, sha256=checksum)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self.temporary.unlink(missing_ok=True)


class Shard:
    """A shard opened for reading.

    Raises:
        IceprobeError: if it can't be read or its header is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
            mapped = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
            self._map = np.frombuffer(mapped, np.uint8)
        except OSError as error:
            raise corrupt(path, error.strerror or "it can't be opened") from error
        try:
            length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
            header = json.loads(os.pread(self._descriptor, length, 8))
            header.pop("__metadata__", None)
            self._start = 8 + length
            self._layout = {
                name: (_DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"][0])
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise corrupt(path, "its header is damaged") from error

    def __contains__(self, name: str) -> bool:
        return name in self._layout

    def read(self, name: str) -> Tensor:
        """The whole tensor, copied into memory."""
        dtype, shape, offset = self._layout[name]
        tensor = torch.empty(shape, dtype=dtype)
        self._read_into(flat_bytes(tensor), self._start + offset)
        return tensor

    def read_rows(self, name: str, rows: np.ndarray, out: memoryview, places: np.ndarray) -> None:
        """Copy ``rows[i]`` of a tensor to row ``places[i]`` of ``out``, a flat view of bytes.

        ``rows`` ascend. Where rows and places both run on without a gap they are one read.
        """
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
        if self._are_cached(runs):
            flat = np.frombuffer(out, np.uint8)
            for position, place, length in runs:
                flat[place : place + length] = self._map[position : position + length]
            return
        slow = [
            (out[place : place + length], position)
            for position, place, length in runs
            if not self._read_cached(out[place : place + length], position)
        ]
        if len(slow) > 1 and hasattr(os, "posix_fadvise"):
            for view, position in slow:  # tell the disk of all of them before waiting for the first
                os.posix_fadvise(self._descriptor, position, len(view), os.POSIX_FADV_WILLNEED)
        for view, position in slow:
            self._read_into(view, position)

    def _are_cached(self, runs: Sequence[tuple[int, int, int]]) -> bool:
        """Whether a page in every fourth half MiB of the runs is in the page cache.

        The system reads and drops pages by long stretches. Where one is missing all the same, the
        map waits for it, and nothing else happens.
        """
        places = [
            p for position, _, length in runs for p in range(position, position + length, STEP)
        ]
        return all(self._read_cached(_UNUSED, place) for place in places[::4])

    def _read_cached(self, view: memoryview, position: int) -> bool:
        """Fill ``view`` from the page cache, unless some of it would have to be waited for."""
        try:
            return os.preadv(self._descriptor, [view], position, os.RWF_NOWAIT) == len(view)
        except (OSError, AttributeError):  # not there; or a system or disk that can't say so
            return False

    def _read_into(self, view: memoryview, position: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], position + done)
            if count == 0:
                raise corrupt(self.path, "it ends too early")
            done += count


def shard_bytes(
    images: int, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], shards: int = 1
) -> int:
    """Bytes of shards that hold ``images`` images together.

    Args:
        layout: dtype and shape of one image, by name.
    """
    each = sum(
        dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in layout.values()
    )
    return shards * HEADER_BYTES + images * each


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def corrupt(path: Path, reason: str) -> IceprobeError:
    return IceprobeError(
        f"corrupt shard {path}: {reason}; mend it with: iceprobe extract --repair {path.parent}"
    )


def _header(layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    entries, offset = {}, 0
    for name, (dtype, shape) in layout.items():
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        entries[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode().ljust(HEADER_BYTES - 8)
    return len(text).to_bytes(8, "little") + text


def fresh(rows: int, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool = False) -> Tensor:
    """An empty ``(rows, *shape)`` tensor whose memory is numpy's, or pinned for a GPU to copy from.

    numpy asks the system for huge pages, torch doesn't: for a batch of 77 MB that is 38 faults in
    place of 19,000, which took three quarters of the time of a gather from the page cache.
    """
    if pinned:
        return torch.empty(rows, *shape, dtype=dtype, pin_memory=True)
    return torch.from_numpy(np.empty((rows, *shape), f"i{dtype.itemsize}")).view(dtype)


def flat_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous host tensor, flat."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _write_all(file: FileIO, tensor: Tensor) -> None:
    view = flat_bytes(tensor.contiguous())
    while view:
        view = view[file.write(view) :]
