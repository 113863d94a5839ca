"""What a command answers to a program: with ``--json`` one document on stdout.

``{"command": "run", "results": […], "notes": […], "paths": […]}``: a list for each table, whose entries are
what its rows were made of, as they are in the files of a run; then what qualifies them, and what was written.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel


class Answer:
    """The document of one command, as it grows."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._found: dict[str, list[Any]] = {}
        self._notes: list[str] = []
        self._paths: list[str] = []

    def add(self, name: str, entries: Iterable[object]) -> None:
        """Entries of a list; an empty one is in the document too."""
        self._found.setdefault(name, []).extend(map(plain, entries))

    def note(self, text: str) -> None:
        if text and text not in self._notes:
            self._notes.append(text)

    def wrote(self, path: object) -> None:
        if str(path) not in self._paths:
            self._paths.append(str(path))

    @property
    def empty(self) -> bool:
        """Whether there is no list in it yet."""
        return not self._found

    def __str__(self) -> str:
        document = {
            "command": self._command,
            **self._found,
            "notes": self._notes,
            "paths": self._paths,
        }
        return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """A record as JSON has it: numbers as they are, ``null`` for one that isn't finite, else text."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):  # of numpy
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
