"""Paths of this machine in what is published: found, and replaced by their last name.

A result names its store, its data and its command by where they lie. ``/home/ann/birds`` tells others who made it and
where; ``birds`` is what they can use.
"""

import html
import json
import mmap
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from markupsafe import escape

from iceprobe.core.checksums import SEAL, seal
from iceprobe.core.documents import parse_json
from iceprobe.core.text import json_bytes, without_credentials
from iceprobe.reporting.template import inert_json, parted
from iceprobe.results.tables import markdown_text

# How a path begins: at the root, in a home, or above the current folder.
_START = r"(?:~[\w.-]*|\.\.(?:/\.\.)*)?/(?!/)"
_WHOLE = re.compile(_START)
# In a sentence: where it begins a word, or follows what ends a key (`:`, `=`, `file://`, `module@`).
_PATH = re.compile(rf"(?:^|(?<=[\s:=,;@\"'(\[])|(?<=file://))({_START}[^\s,;\"'&?()\[\]<>:]+)")
_NAMES = ("class_names", "classes")  # of data: Open Images calls a class /m/01g317

# How a file writes a text: as it is, in Markdown, on a page, in JSON, in a page's script.
_FORMS: tuple[Callable[[str], str], ...] = (
    str,
    markdown_text,
    html.escape,
    lambda text: str(escape(text)),
    lambda text: str(parted(text)),
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: inert_json(text)[1:-1],
)


def paths_in(documents: Iterable[Any]) -> list[str]:
    """The paths in the texts of JSON documents with the folders above them, longest first.

    Known are absolute paths of two parts or more, those in a home, and those above the current folder.
    """
    found = {str(Path.home()), str(Path.cwd())}
    for text in _texts(list(documents)):
        if "/" in text:
            found.update(path.rstrip("/") for path in _paths(text))
    found |= {str(above) for path in found for above in PurePosixPath(path).parents}
    return sorted(filter(_tells, found), key=lambda path: (-len(path), path))


def without(content: bytes, paths: Iterable[str]) -> bytes:
    """A text, or a sealed JSON document, with each path's last name in its place, and no password in an address."""
    text = without_credentials(content.decode())
    known = sorted(paths, key=len, reverse=True)
    # First what lies in a folder, by the folder's whole name; then what stands alone.
    for path in known:
        for form in _written(f"{path}/"):
            text = text.replace(form, "")
    for path in known:
        for form, name in zip(_written(path), _written(_said(path)), strict=True):
            text = text.replace(form, name)
    if text.lstrip().startswith("{"):
        document = parse_json(text.encode())
        if isinstance(document, dict) and SEAL in document:
            document.pop(SEAL)
            sealed = json.dumps(seal(document), indent=2, ensure_ascii=False, allow_nan=False)
            return json_bytes(sealed)
    return text.encode()


def still_in(files: Mapping[str, bytes | Path], paths: Iterable[str]) -> list[str]:
    """Names of the files in which a path can still be read, in any of its forms.

    Files are contents, or lie on the disk, where they are searched without being held in memory.
    """
    known = {form.encode() for path in paths for form in _written(path)}
    return [name for name, content in files.items() if _has(content, known)]


def _has(content: bytes | Path, texts: Iterable[bytes]) -> bool:
    if not isinstance(content, Path):
        return any(text in content for text in texts)
    if not content.stat().st_size:
        return False
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return any(mapped.find(text) >= 0 for text in texts)


def _paths(text: str) -> Iterator[str]:
    """The paths in a text that is one, a spec, a command or a sentence."""
    yield from _PATH.findall(text)
    if "\n" in text:
        return
    yield from _in_spec(text)
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe in a sentence
        return
    for word in words:
        yield from _in_spec(word)
        yield from _PATH.findall(word)


def _in_spec(text: str) -> Iterator[str]:
    """The whole text, its name and the values of its options, spaces included, where they are paths."""
    head, _, options = text.partition("?")
    kind, _, name = head.partition(":")
    values = [option.partition("=")[2] for option in options.split("&")]
    flag, _, value = text.partition("=")
    if re.fullmatch(r"-\w/.+", text):
        yield text[2:]  # -o/home/ann/out
    if " " not in flag and flag.startswith("-") and value:
        yield from _in_spec(value)
        return
    for one in [text, *([name] if " " not in kind else []), *values]:
        one = one.removeprefix("file://")
        if _WHOLE.match(one) and "?" not in one:
            yield one


def _tells(path: str) -> bool:
    """Whether a path says more than its last name."""
    return len([part for part in PurePosixPath(path).parts if part not in ("/", "..")]) > 1


def _said(path: str) -> str:
    """What stands in a path's place: its last name, ``~`` for the home of who publishes."""
    return "~" if path == str(Path.home()) else PurePosixPath(path).name


def _written(text: str) -> list[str]:
    """A text in all of its forms, in their order; each also as in a shell's quotes, where a command is shown."""
    quoted = text.replace("'", "'\"'\"'")
    return [form(one) for form in _FORMS for one in (text, quoted)]


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
