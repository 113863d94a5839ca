"""Spec strings: the one grammar by which backbones, data sets and probes are named.

``kind:name?key=value&key=value``, where kind and options may be absent: ``bundled:fashion``,
``timm:vit_base_patch16_224.mae?layer=-2``, ``ep48?out_dim=96``.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iceprobe.errors import IceprobeError


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


def parse_spec(text: str) -> Spec:
    """Parse ``kind:name?key=value&key=value``.

    Raises:
        IceprobeError: if the name is empty, an option has no ``=``, or a key stands twice.
    """
    head, _, tail = text.partition("?")
    kind, colon, name = head.partition(":")
    if not colon:
        kind, name = "", head
    if not name or (colon and not kind):
        raise IceprobeError(f"spec {text!r} has no name: write kind:name?key=value&key=value")
    options: dict[str, str] = {}
    for part in filter(None, tail.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise IceprobeError(f"option {part!r} in {text!r} is not of the form key=value")
        if key in options:
            raise IceprobeError(f"option {key!r} stands twice in {text!r}: keep one")
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
            values[key] = types[key](text)
        except ValueError as error:
            raise IceprobeError(f"option {key}={text!r} of {str(spec)!r}: {error}") from error
    return values


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
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {noun} {word!r}.{hint} There are: {', '.join(choices) or 'none'}."
