"""What files of others may ask for.

Exported folders, stores and results travel. What they name is opened as data, on this machine and
inside their own folder; what runs code or asks another host waits for the caller's word:
``trust=True`` in Python, ``--trust`` on the command line. A ``trust=true`` that stands in such a
file counts for nothing. What the caller has named or run himself, in this process, needs no other
word.
"""

import os
import re
from pathlib import Path, PurePosixPath

from iceprobe.core.errors import IceprobeError

REMEDY = "pass --trust (trust=True in Python) if you trust it"

# Scheme and host, or bucket; pathlib makes one slash of two. Behind a path's letters it is no scheme.
_HOST = re.compile(r"(?<![\w./+-])([A-Za-z][A-Za-z0-9+.-]*):/+((?:(?!::)[^/?&;])*)")
_HERE = ("file", "local", "memory")  # schemes of fsspec that ask no other host
# A pattern with braces whose host can be read without making every name of it.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^/:{}]+(:\d+)?/[^:]*")
_named: set[tuple[str, str]] = set()  # hosts, by the caller, in this process


def hosts(text: str) -> set[tuple[str, str]]:
    """Scheme and host of every URL in a place, of chained ones as well.

    Examples:
        ``zip://a.tar::http://host/b.zip`` → ``("zip", "a.tar")``, ``("http", "host")``;
        ``/data/birds`` and ``file:///data/birds`` name none.
    """
    found = {(scheme.lower(), host) for scheme, host in _HOST.findall(text)}
    if "{" in text and ":" in text and not _PLAIN.fullmatch(text):
        found.add(("braces", text))  # `http{:,:}//host`
    return {(scheme, host) for scheme, host in found if scheme not in _HERE}


def name_hosts(text: str) -> None:
    """Remember that the caller named the place ``text``, no file: its hosts may be asked."""
    _named.update(hosts(text))


def elsewhere(text: str) -> bool:
    """Whether a place is on another host that the caller hasn't named."""
    return not hosts(text) <= _named


def refuse_elsewhere(what: str, place: str, trust: bool) -> None:
    """Open no other host that a file names.

    Args:
        what: which file names ``place``, as the start of a sentence.
        place: path or URL.
        trust: the caller's word.

    Raises:
        IceprobeError: if ``place`` is on another host, and the caller didn't say that it may be
            asked.
    """
    if not trust and elsewhere(place):
        raise IceprobeError(f"{what} names {place!r} on another host, which isn't asked: {REMEDY}")


def plain_name(name: str) -> str:
    """A file's name without folders, as a validator; empty where there is no file.

    Raises:
        ValueError: if it leads anywhere else.
    """
    if name in (".", "..") or "/" in name or "\0" in name or os.sep in name:
        raise ValueError(f"{name!r} is no plain file name")
    return name


def inner_path(name: str) -> str:
    """A path that stays below the folder it is relative to, as a validator.

    Raises:
        ValueError: if it is absolute or climbs.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} doesn't stay inside its folder")
    return name


def refuse_leading_out(folder: Path, file: Path) -> None:
    """See that a file of a folder lies in it, wherever links lead.

    Raises:
        IceprobeError: if a link leads out of the folder.
    """
    if not file.resolve().is_relative_to(folder.resolve()):
        raise IceprobeError(
            f"{file} is a link that leads out of its folder: put a copy of what you trust in its place"
        )
