"""One shard, a safetensors file, written batch by batch.

Patch tokens, nearly all of the bytes, come first and are written as they are made, so that writing
takes the memory of one batch. The header has a fixed length (safetensors allows padding) and is written
last, when the number of images is known.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iceprobe.core.checksums import sha256
from iceprobe.store.buffers import flat_bytes
from iceprobe.store.format import FileRecord, publish
from iceprobe.store.shards import (
    CHECK_BYTES,
    CHECKS,
    CODES,
    HEADER_BYTES,
    HEADER_PART,
    LENGTH,
    OF_TOKENS,
    row_check,
)


class ShardWriter:
    """Writes ``NAME.tmp`` batch by batch; ``finish`` renames it.

    Every batch has the same keys. ``patches`` is streamed to the file; the other tensors are small
    and are kept until the end. Where a batch says each example's ``length``, its tensors of tokens are
    padded: rows beyond the length are left out, and tokens lie end to end.
    """

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        self._file = self.temporary.open("wb", buffering=0)
        self._small: dict[str, list[Tensor]] = {}
        self._streamed: tuple[torch.dtype, tuple[int, ...]] | None = None
        self._checks: list[bytes] = []  # one per example's patches
        self._rows = 0  # of patches in the file, where they lie end to end
        self._file.seek(HEADER_BYTES)

    def write(self, batch: Mapping[str, Tensor]) -> None:
        lengths = batch[LENGTH].tolist() if LENGTH in batch else None
        for name, tensor in batch.items():
            ragged = lengths is not None and name in OF_TOKENS
            if name == "patches":
                rows = tensor.contiguous()
                whole = (
                    [row[:n] for row, n in zip(rows, lengths or (), strict=True)]
                    if ragged
                    else rows
                )
                self._streamed = (tensor.dtype, tuple(tensor.shape[1 + ragged :]))
                for part in whole if ragged else [rows]:
                    _write_all(self._file, part)
                self._checks += [row_check(flat_bytes(row)) for row in whole]
                self._rows += sum(map(len, whole)) if ragged else len(rows)
            elif ragged:
                parts = [row[:n] for row, n in zip(tensor, lengths or (), strict=True)]
                self._small.setdefault(name, []).append(torch.cat([tensor[0, :0], *parts]))
            else:
                self._small.setdefault(name, []).append(tensor)

    def __len__(self) -> int:
        """Images written so far."""
        return sum(map(len, self._small["label"]))

    def finish(self) -> FileRecord:
        """Write the other tensors and the header, flush to the disk, rename."""
        small = {name: torch.cat(parts) for name, parts in self._small.items()}
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        if self._streamed is not None:
            layout["patches"] = (self._streamed[0], (self._rows, *self._streamed[1]))
            checks = np.frombuffer(b"".join(self._checks), np.uint8).copy()
            small[CHECKS] = torch.from_numpy(checks).view(-1, CHECK_BYTES)
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
        tokens = counted(small[LENGTH]) if LENGTH in small else None
        return FileRecord(
            file=self.path.name, bytes=size, sha256=checksum, parts=parts, tokens=tokens
        )

    def abandon(self) -> None:
        """Remove the file."""
        self._file.close()
        self.temporary.unlink(missing_ok=True)


def counted(lengths: Tensor) -> tuple[int, int, int]:
    """`FileRecord.tokens` of examples of these ``lengths (n,)``."""
    if not len(lengths):
        return 0, 0, 0
    return int(lengths.sum()), int(lengths.min()), int(lengths.max())


def _header(layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    entries, offset = {}, 0
    for name, (dtype, shape) in layout.items():
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode().ljust(HEADER_BYTES - 8)
    return len(text).to_bytes(8, "little") + text


def _write_all(file: FileIO, tensor: Tensor) -> None:
    view = flat_bytes(tensor.contiguous())
    while view:
        view = view[file.write(view) :]
