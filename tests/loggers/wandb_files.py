"""Records of a ``.wandb`` file: a LevelDB log of protobufs, read by its published format alone."""

import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEADER = 32768, 7  # bytes of a block; of a record's CRC, length and kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[bytes]:
    """Each record; the file's own first seven bytes are a header that counts in its first block."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, parts = 7, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        part = content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, FIRST):
            parts = b""
        parts += part
        if kind in (FULL, LAST):
            yield parts
