"""The members of a tar from its first byte to its last: none is dropped silently.

``tarfile`` stops at the first empty block, at the first header that it can't read, and at the end of
the file. So the end is checked here: an archive ends with two empty blocks, otherwise it was cut, and
another archive may follow (``cat a.tar b.tar``).
"""

import tarfile
from collections.abc import Iterator
from typing import IO

from iceprobe.core.errors import IceprobeError

BLOCK = tarfile.BLOCKSIZE
_CHUNK = 64 * BLOCK


def regular_members(file: IO[bytes], shown: str, assumed: list[str]) -> Iterator[tarfile.TarInfo]:
    """Every file in a tar, in its order, without folders.

    Args:
        file: the open tar; the caller may seek between two members.
        shown: its name in messages.
        assumed: gets a line if several archives follow each other.

    Raises:
        IceprobeError: if it was cut, is damaged, or has a member that isn't a file.
        tarfile.TarError: if it is no plain tar.
    """
    start, archives, last = 0, 0, None
    while True:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as opened:
            archives += 1
            for member in opened:
                last = member.name
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise IceprobeError(
                        f"member {member.name!r} of {shown!r} is a link or no plain file: pack the "
                        "tar with --dereference --hard-dereference"
                    )
                yield member
            start = _next_archive(file, opened.offset, shown, last)
        if start < 0:
            break
    if archives > 1:
        assumed.append(f"{shown!r} is {archives} archives one after another: all of them are read")


def _next_archive(file: IO[bytes], end: int, shown: str, last: str | None) -> int:
    """Where the next archive begins behind the end of one; −1 if only empty blocks follow."""
    file.seek(end)
    first = file.read(BLOCK)
    after = f"after {last!r}" if last else "at its beginning"
    if len(first) < BLOCK:
        raise IceprobeError(
            f"{shown!r} was cut {after}: the empty blocks that end a tar are missing; get it again "
            f"(if it is whole, end it: truncate -s +{2 * BLOCK} FILE)"
        )
    if any(first):
        raise IceprobeError(
            f"{shown!r} is damaged {after}: byte {end} begins no member; get it again"
        )
    place = end + BLOCK
    while chunk := file.read(_CHUNK):
        if filled := chunk.lstrip(b"\0"):
            found = place + len(chunk) - len(filled)
            return found - found % BLOCK
        place += len(chunk)
    return -1
