"""Spec strings, which name backbones, data sets and probes: ``kind:name?key=value&key=value``.

Kind and options are optional: ``bundled:fashion``, ``timm:vit_base_patch16_224.mae?layer=-2``,
``ep48?out_dim=96``.
"""

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import clipped, shown

_LONGEST_WORD = 100  # characters of a word that are compared with names
MOST = 10**9  # the largest count of anything


@dataclass(frozen=True)
class Spec:
    """A parsed spec string; ``str(spec)`` is the string with its options sorted by key."""

    kind: str | None
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.kind}:{self.name}" if self.kind else self.name
        tail = "&".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{head}?{tail}" if tail else head


def check_text(text: str, what: str) -> None:
    """Raise an `IceprobeError` if a text can't be in a path: it has NUL or a lone surrogate."""
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
        IceprobeError: if it is no string, the name is empty, an option has no ``=``, or a key
            is given twice.
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
            raise IceprobeError(f"option {shown(key)} is given twice in {shown(text)}: keep one")
        options[key] = value
    return Spec(kind or None, name, options)


def names_features(place: Any) -> bool:
    """Whether it is the spec of tokens in files, ``features:FILE``."""
    return isinstance(place, str | os.PathLike) and str(place).startswith("features:")


def typed_options(spec: Spec, types: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The options of ``spec``, converted by ``types``, which has every valid key.

    Raises:
        IceprobeError: for an unknown key or a value that doesn't convert.
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
    """``value``, if its numbers are finite and no integer is too large."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, int) and abs(one) > MOST:
            raise ValueError(f"write a whole number of at most {MOST:,}")
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError("write a finite number")
    return value


def with_options(spec: Spec, options: Mapping[str, Any]) -> Spec:
    """``spec`` with the given ``options``; an `IceprobeError` if it has one already."""
    given = {key: as_text(value) for key, value in options.items() if value is not None}
    if twice := spec.options.keys() & given:
        raise IceprobeError(f"option {min(twice)!r} of {str(spec)!r} is given twice: keep one")
    return replace(spec, options={**spec.options, **given})


def as_text(value: Any) -> str:
    """A value as it is written in a spec string."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def boolean(text: str) -> bool:
    """``true`` or ``false``, as in YAML and spec strings."""
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
    """A converter that accepts only these words."""

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"write {' or '.join(choices)}")
        return text

    return check


def unknown(noun: str, word: str, choices: Iterable[str]) -> str:
    """One line: ``word`` is no ``noun``, the nearest choices, all choices."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word[:_LONGEST_WORD], choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {noun} {shown(word)}.{hint} There are: {', '.join(choices) or 'none'}."
