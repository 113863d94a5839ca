"""What files from other people may do.

Exported folders, stores and results are shared. What they name is opened as data, on this machine
and inside their own folder. To run code or contact another host needs the caller's consent:
``trust=True`` in Python, ``--trust`` on the command line; ``trust=true`` in such a file has no
effect. What the caller names in this process needs no further consent.
"""

import os
import re
from pathlib import Path, PurePosixPath

from iceprobe.core.errors import IceprobeError

REMEDY = "pass --trust (trust=True in Python) if you trust it"

# Scheme and host, or bucket; pathlib turns two slashes into one. Inside a path it is no scheme.
_HOST = re.compile(r"(?<![\w./+-])([A-Za-z][A-Za-z0-9+.-]*):/+((?:(?!::)[^/?&;])*)")
_HERE = ("file", "local", "memory")  # schemes of fsspec that contact no other host
# A pattern with braces whose host can be read without expanding it.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^/:{}]+(:\d+)?/[^:]*")
_named: set[tuple[str, str]] = set()  # hosts that the caller named in this process


def hosts(text: str) -> set[tuple[str, str]]:
    """Scheme and host of every URL in a place, chained ones included.

    Examples:
        ``zip://a.tar::http://host/b.zip`` → ``("zip", "a.tar")``, ``("http", "host")``;
        ``/data/birds`` and ``file:///data/birds`` name none.
    """
    found = {(scheme.lower(), host) for scheme, host in _HOST.findall(text)}
    if "{" in text and ":" in text and not _PLAIN.fullmatch(text):
        found.add(("braces", text))  # `http{:,:}//host`
    return {(scheme, host) for scheme, host in found if scheme not in _HERE}


def name_hosts(text: str) -> None:
    """Allow the hosts of the place ``text``, which the caller named himself."""
    _named.update(hosts(text))


def elsewhere(text: str) -> bool:
    """Whether a place is on another host that the caller hasn't named."""
    return not hosts(text) <= _named


def refuse_elsewhere(what: str, place: str, trust: bool) -> None:
    """Raise an `IceprobeError` if ``place`` is on another host that the caller doesn't ``trust``.

    The message starts with ``what``, the file that names the place.
    """
    if not trust and elsewhere(place):
        raise IceprobeError(f"{what} names {place!r} on another host, which isn't asked: {REMEDY}")


def plain_name(name: str) -> str:
    """Validator: a file name without folders, or empty; otherwise a ``ValueError``."""
    if name in (".", "..") or "/" in name or "\0" in name or os.sep in name:
        raise ValueError(f"{name!r} is no plain file name")
    return name


def inner_path(name: str) -> str:
    """Validator: a relative path that stays in its folder; otherwise a ``ValueError``."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} doesn't stay inside its folder")
    return name


def refuse_leading_out(folder: Path, file: Path) -> None:
    """Raise an `IceprobeError` if links lead from a file of a folder to a place outside of it."""
    if not file.resolve().is_relative_to(folder.resolve()):
        raise IceprobeError(
            f"{file} is a link that leads out of its folder: put a copy of what you trust in its place"
        )
