"""Registries: name → object, imported on first use."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown

E = TypeVar("E", bound="Entry")


@dataclass(frozen=True)
class Entry:
    """One line of a registry.

    Attributes:
        target: ``"package.module:attribute"``, or the object itself if it was registered from
            outside the package.
        summary: one line for ``iceprobe ls``.
    """

    target: Any
    summary: str

    def load(self) -> Any:
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry(Generic[E]):
    """Named entries of one kind, whose ``noun`` errors use ("probe", "data set").

    Listing a registry imports nothing; ``registry[name].load()`` does.
    """

    def __init__(self, noun: str, entries: Mapping[str, E]):
        self.noun = noun
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> E:
        if name not in self._entries:
            raise IceprobeError(unknown(self.noun, name, self._entries))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def register(self, name: str, entry: E) -> None:
        """Add an entry from outside the package.

        Raises:
            IceprobeError: if the name is taken.
        """
        if name in self._entries:
            raise IceprobeError(f"{self.noun} {name!r} is registered already: choose another name")
        self._entries[name] = entry
