"""Spec strings: the one grammar by which backbones, data sets and probes are named.

``kind:name?key=value&key=value``, where kind and options may be absent: ``bundled:fashion``,
``timm:vit_base_patch16_224.mae?layer=-2``, ``ep48?out_dim=96``.
"""

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import clipped, shown

_LONGEST_WORD = 100  # that names are compared with
MOST = 10**9  # of anything that is counted


@dataclass(frozen=True)
class Spec:
    """A parsed spec string; ``str(spec)`` gives it back with its options sorted by key."""

    kind: str | None
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.kind}:{self.name}" if self.kind else self.name
        tail = "&".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{head}?{tail}" if tail else head


def check_text(text: str, what: str) -> None:
    """See that a text from outside can be the name of a file or lead to one.

    Raises:
        IceprobeError: if it has a NUL character, or half a character, in it.
    """
    try:
        clean = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        clean = False
    if not clean:
        raise IceprobeError(
            f"{what}{shown(text)} has a character in it that no file name has: take it out"
        )


def parse_spec(text: str) -> Spec:
    """Parse ``kind:name?key=value&key=value``.

    Raises:
        IceprobeError: if it is no text, the name is empty, an option has no ``=``, or a key stands
            twice.
    """
    if not isinstance(text, str):
        raise IceprobeError(
            f"{shown(text)} is no spec string: write one, 'kind:name?key=value&key=value'"
        )
    check_text(text, "spec ")
    head, _, tail = text.partition("?")
    kind, colon, name = head.partition(":")
    if not colon:
        kind, name = "", head
    if not name or (colon and not kind):
        raise IceprobeError(f"spec {shown(text)} has no name: write kind:name?key=value&key=value")
    options: dict[str, str] = {}
    for part in filter(None, tail.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise IceprobeError(
                f"option {shown(part)} in {shown(text)} is not of the form key=value"
            )
        if key in options:
            raise IceprobeError(f"option {shown(key)} stands twice in {shown(text)}: keep one")
        options[key] = value
    return Spec(kind or None, name, options)


def typed_options(spec: Spec, types: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Convert the options of ``spec`` by ``types``, which lists every key there is.

    Raises:
        IceprobeError: for an unknown key (with the nearest right ones and the whole list) or a
            value that doesn't convert.
    """
    values = {}
    for key, text in spec.options.items():
        if key not in types:
            raise IceprobeError(unknown(f"option of {spec.name!r}", key, types))
        try:
            values[key] = _bounded(types[key](text))
        except ValueError as error:
            raise IceprobeError(
                f"option {key}={shown(text)} of {shown(str(spec))}: {clipped(str(error), 300)}"
            ) from error
    return values


def _bounded(value: Any) -> Any:
    """A value, or values, that libraries can count with."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, int) and abs(one) > MOST:
            raise ValueError(f"write a whole number of at most {MOST:,}")
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError("write a finite number")
    return value


def with_options(spec: Spec, options: Mapping[str, Any]) -> Spec:
    """``spec`` with keyword options taken in, spelled as in a spec string; ``None`` is left out.

    Raises:
        IceprobeError: for an option that the spec string gives already.
    """
    given = {key: _spelled(value) for key, value in options.items() if value is not None}
    if twice := spec.options.keys() & given:
        raise IceprobeError(f"option {min(twice)!r} of {str(spec)!r} is given twice: keep one")
    return replace(spec, options={**spec.options, **given})


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def boolean(text: str) -> bool:
    """``true`` or ``false``, as YAML and spec strings spell it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise ValueError("write true or false")


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("write a number above 0")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    """A function that takes one of these words alone."""

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"write {' or '.join(choices)}")
        return text

    return check


def unknown(noun: str, word: str, choices: Iterable[str]) -> str:
    """One line saying that ``word`` is no ``noun``, with the nearest right ones first."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word[:_LONGEST_WORD], choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {noun} {shown(word)}.{hint} There are: {', '.join(choices) or 'none'}."
