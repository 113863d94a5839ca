"""The fields of a sample in a tar that are its target, group, fold and slices.

A field is a member of text (``cls``, ``txt``), or one of a member of JSON (``json.species``; ``json`` is
``json.label``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.columns import Asked, several
from iceprobe.datasets.decoding import one_line


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        key: as the option spells it.
        option: of the spec.
        one_class: whether only text and whole numbers are read.
    """

    key: str
    option: str
    one_class: bool = False

    @property
    def member(self) -> str:
        return self.key.partition(".")[0] if self._of_json else self.key

    @property
    def _of_json(self) -> bool:
        return self.key.partition(".")[0] == "json"

    @property
    def name(self) -> str:
        """Of its column: of ``json.species`` ``species``."""
        return (self.key.partition(".")[2] or "label") if self._of_json else self.key

    def read(self, content: bytes, where: str) -> Any:
        """Its value in the content of its member.

        Raises:
            IceprobeError: if it can't be read; starts with ``where``, the member and its tar.
        """
        try:
            if not self._of_json:
                return content.decode().strip()
            document = parse_json(content, ours=False)
            if self.one_class:
                return _one_class(document[self.name], self.name)
            if not isinstance(document, dict):
                raise TypeError("it is no object")
            return document.get(self.name)
        except (ValueError, LookupError, TypeError) as error:
            raise IceprobeError(
                f"{'label' if self.option == 'label' else self.option} {where} can't be read "
                f"({type(error).__name__}: {one_line(error)}): pass {self.option}=KEY, or "
                f"{self.option}=json.FIELD for a field of a JSON object"
            ) from error


def _one_class(value: Any, name: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name!r} is {value!r}, no text and no whole number")
    return value


class Fields:
    """All fields that a spec asks for.

    Attributes:
        all: each once.
        plain: whether there is just a label: one class, text or a whole number.
        targets, slices: names of columns.
        asked: the options, with names of columns in place of keys.
    """

    def __init__(self, label: str, asked: Asked, spec: str):
        self.plain = not (asked.target or asked.separator is not None or asked.task or asked.unit)
        targets = several(asked.target, "target", None, spec) if asked.target else [label]
        slices = several(asked.slice, "slice", None, spec) if asked.slice else []
        option = "target" if asked.target else "label"
        fields = [Field(key, option, self.plain) for key in targets]
        fields += [Field(key, "slice") for key in slices]
        for option in ("group", "fold"):
            if key := getattr(asked, option):
                fields.append(Field(key, option))
        self.all = list({field.key: field for field in reversed(fields)}.values())[::-1]
        by_key = {field.key: field.name for field in self.all}
        if len(set(by_key.values())) < len(by_key):
            raise IceprobeError(
                f"two keys of {spec!r} have the same name ({', '.join(by_key)}): name one of them"
            )
        self.targets: Sequence[str] = [by_key[key] for key in targets]
        self.slices: list[str] = [by_key[key] for key in slices]
        self.asked = replace(
            asked,
            group=by_key[asked.group] if asked.group else None,
            fold=by_key[asked.fold] if asked.fold else None,
        )
