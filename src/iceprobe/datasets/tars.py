"""The members of a tar from its first byte to its last: none is dropped silently.

``tarfile`` stops at the first empty block and at the first header that it can't read, and takes the
end of the file for the end of the archive. So what follows is checked: an archive ends with two
empty blocks, one that doesn't was cut, and another may lie behind it (``cat a.tar b.tar``).
"""

import tarfile
from collections.abc import Iterator
from typing import IO

from iceprobe.core.errors import IceprobeError

BLOCK = tarfile.BLOCKSIZE
_CHUNK = 64 * BLOCK


def regular_members(file: IO[bytes], shown: str, assumed: list[str]) -> Iterator[tarfile.TarInfo]:
    """Every file in a tar, in its order; folders are passed over.

    Args:
        file: the tar, open for reading; may be read elsewhere between two members.
        shown: its name, for what is said.
        assumed: takes in a line where several archives lie one after another.

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
    """Where the archive behind the end of another begins; −1 if only empty blocks follow.

    Raises:
        IceprobeError: if at the end of the archive there is no empty block.
    """
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
