"""Paths of this machine in what is published: found, and replaced by their last name.

A result names its store, its data and its command by where they lie. ``/home/ann/birds`` tells others who made it and
where; ``birds`` is what they can use.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from iceprobe.core.checksums import SEAL, seal
from iceprobe.core.documents import parse_json
from iceprobe.core.text import json_bytes

# An absolute path of two parts or more, or one in a home, where it begins a word or follows a spec's `:` or `=`.
_PATH = re.compile(r"(?:(?<=^)|(?<=[\s:=,;\"'(\[]))(~?/(?!/)[^\s,;\"'&?()\[\]<>:]+/?)")

_NAMES = ("class_names", "classes")  # of data: Open Images calls a class /m/01g317


def paths_in(documents: Iterable[Any]) -> list[str]:
    """The absolute paths in the texts of JSON documents, longest first."""
    found: set[str] = {str(Path.home()), str(Path.cwd())}
    for text in _texts(list(documents)):
        if "/" not in text:
            continue
        if _begins(text) and "\n" not in text:
            found.add(text.rstrip("/"))  # a whole path, spaces included
        head = text.partition("?")[0].partition(":")[2]
        if _begins(head) and " " not in text.partition(":")[0]:
            found.add(head.rstrip("/"))  # of a spec, folder:/data/my birds
        found |= {path.rstrip("/") for path in _PATH.findall(text)}
    # The folders above them as well: an unquoted space ends a path too early.
    found |= {str(above) for path in found for above in PurePosixPath(path).parents}
    known = (path for path in found if path.count("/") > 1 or path.startswith("~/"))
    return sorted(known, key=len, reverse=True)


def without(content: bytes, paths: Iterable[str]) -> bytes:
    """A text, or a sealed JSON document, with each path's last name in its place."""
    text = content.decode()
    for path in paths:
        text = text.replace(path, _said(path))
    if text.lstrip().startswith("{"):
        document = parse_json(text.encode())
        if isinstance(document, dict) and SEAL in document:
            document.pop(SEAL)
            sealed = json.dumps(seal(document), indent=2, ensure_ascii=False, allow_nan=False)
            return json_bytes(sealed)
    return text.encode()


def still_in(files: Mapping[str, bytes], paths: Iterable[str]) -> list[str]:
    """Names of the files in which a path can still be read."""
    known = [path.encode() for path in paths]
    return [name for name, content in files.items() if any(path in content for path in known)]


def _said(path: str) -> str:
    """What stands in a path's place: its last name, ``~`` for the home of who publishes."""
    return "~" if path == str(Path.home()) else PurePosixPath(path).name


def _begins(text: str) -> bool:
    """Whether a text begins with an absolute path; ``//host`` of a URL is none."""
    return text.startswith(("/", "~/")) and not text.startswith("//")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key not in _NAMES:
                yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
