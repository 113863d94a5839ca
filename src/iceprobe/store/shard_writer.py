"""One shard, a safetensors file, written batch by batch.

Patch tokens, nearly all of the bytes, come first and go to disk as they are made, so that writing
takes the memory of one batch, whatever the size of a shard. The header has a fixed length (safetensors
allows padding) and is written last, when the number of images is known.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.checksums import sha256
from iceprobe.store.buffers import flat_bytes
from iceprobe.store.format import FileRecord, publish
from iceprobe.store.shards import CHECK_BYTES, CHECKS, CODES, HEADER_BYTES, HEADER_PART, row_check


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
        self._checks: list[bytes] = []
        self._file.seek(HEADER_BYTES)

    def write(self, batch: Mapping[str, Tensor]) -> None:
        for name, tensor in batch.items():
            if name == "patches":
                self._streamed = (tensor.dtype, tuple(tensor.shape[1:]))
                self._streamed_rows += len(tensor)
                _write_all(self._file, tensor)
                self._checks += row_checks(flat_bytes(tensor.contiguous()), len(tensor))
            else:
                self._small.setdefault(name, []).append(tensor)

    def __len__(self) -> int:
        """Images written so far."""
        return sum(map(len, self._small["label"]))

    def finish(self) -> FileRecord:
        """Write what is left, flush to the disk, rename."""
        small = {name: torch.cat(parts) for name, parts in self._small.items()}
        if self._streamed is not None:
            small[CHECKS] = _as_tensor(self._checks)
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        if self._streamed is not None:
            layout["patches"] = (self._streamed[0], (self._streamed_rows, *self._streamed[1]))
        layout |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in small.items()}
        header = _header(layout)
        parts = {HEADER_PART: hashlib.sha256(header).hexdigest()}
        for name, tensor in small.items():
            _write_all(self._file, tensor)
            parts[name] = hashlib.sha256(flat_bytes(tensor.contiguous())).hexdigest()
        size = self._file.tell()
        self._file.seek(0)
        self._file.write(header)
        os.fsync(self._file.fileno())
        self._file.close()
        checksum = sha256(self.temporary)
        publish(self.temporary, self.path)
        return FileRecord(file=self.path.name, bytes=size, sha256=checksum, parts=parts)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self.temporary.unlink(missing_ok=True)


def _header(layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    entries, offset = {}, 0
    for name, (dtype, shape) in layout.items():
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode().ljust(HEADER_BYTES - 8)
    return len(text).to_bytes(8, "little") + text


def row_checks(view: memoryview, rows: int) -> list[bytes]:
    """The check of each of ``rows`` rows of equal size."""
    size = len(view) // max(1, rows)
    return [row_check(view[row * size : (row + 1) * size]) for row in range(rows)]


def _as_tensor(checks: Sequence[bytes]) -> Tensor:
    flat = np.frombuffer(b"".join(checks), np.uint8).copy()
    return torch.from_numpy(flat).view(-1, CHECK_BYTES)


def _write_all(file: FileIO, tensor: Tensor) -> None:
    view = flat_bytes(tensor.contiguous())
    while view:
        view = view[file.write(view) :]
