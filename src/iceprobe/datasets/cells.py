"""Values as a file holds them: text, numbers, lists or nothing; the columns of targets made of them.

A value is read by what it says, not by its type: the text ``"3"`` of a CSV file is the number 3 of a
Parquet file. What isn't known is NaN, ``None``, ``?`` or ``nan``; in a column of numbers also ``NA`` and
the like, and an empty cell.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown

UNKNOWN = ("?", "nan")
WORDS = (
    "na",
    "n/a",
    "null",
    "none",
)  # of tables for what isn't known; among text they may be names
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d[\d.]*(,\d+)+", re.ASCII)
_LIST = re.compile(r"[\[({].*[\])}]", re.DOTALL)
_MISSING = ("NAType", "NaTType")  # of pandas
_FLAGS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Rows:
    """Some columns of the rows of one split.

    Attributes:
        values: n values of each column, by its name: text, numbers, booleans, lists, ``None``.
        place: where a row is: ``"row 12 of 'labels.csv'"``.
    """

    values: Mapping[str, Sequence[Any]]
    place: Callable[[int], str]

    def take(self, rows: Sequence[int]) -> "Rows":
        """Some of the rows, in this order."""
        values = {name: [given[row] for row in rows] for name, given in self.values.items()}
        return Rows(values, partial(_place_of, self.place, rows))

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))


def _place_of(place: Callable[[int], str], rows: Sequence[int], row: int) -> str:
    return place(rows[row])


def plain(value: Any) -> Any:
    """A value as text without spaces around it, a number, a boolean, a list or ``None``."""
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "tolist"):  # of NumPy or torch: a scalar becomes a number, an array a list
        value = value.tolist()
    if isinstance(value, Decimal):
        value = float(value)
    if type(value).__name__ in _MISSING or (isinstance(value, float) and math.isnan(value)):
        return None
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def kind_of(value: Any) -> str:
    """What a plain value looks like.

    ``empty``, ``unknown``, ``word`` (for what isn't known, or a name), ``flag``, ``whole``, ``decimal``,
    ``comma`` (a number with a decimal comma, perhaps), ``list``, ``text``, or ``other``: none of these.
    """
    if isinstance(value, str):
        return _kind_of_text(value)
    if value is None:
        return "unknown"
    kinds = ((bool, "flag"), (int, "whole"), (float, "decimal"), (list, "list"))
    return next((kind for type_, kind in kinds if isinstance(value, type_)), "other")


@lru_cache(100_000)  # tables repeat themselves
def _kind_of_text(text: str) -> str:
    if not text:
        return "empty"
    if _NUMBER.fullmatch(text):
        return "whole" if _WHOLE.fullmatch(text) else "decimal"
    if text.casefold() in UNKNOWN:
        return "unknown"
    if text.casefold() in WORDS:
        return "word"
    return "comma" if _COMMA.fullmatch(text) else "text"


def number(value: Any) -> float | None:
    """The number that a plain value says, NaN where it isn't known; ``None`` if it says none."""
    kind = kind_of(value)
    if kind in ("empty", "unknown", "word"):
        return math.nan
    if kind in ("whole", "decimal", "flag"):
        try:
            found = float(value)
        except OverflowError:
            return None
        return found if math.isfinite(found) else None
    return _FLAGS.get(value.casefold()) if kind == "text" else None


def class_name(value: Any) -> str:
    """A plain value as the name of a class, a tag, a group: ``2.0`` is ``"2"``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def names_of(values: Mapping[str, Sequence[Any]]) -> dict[str, list[str | None]]:
    """Values of each split as names of groups, folds or sites; ``None`` where one isn't known.

    In a column of numbers ``2.0`` is ``"2"``, in every split, and ``NA`` isn't known.
    """
    found = {split: [plain(value) for value in given] for split, given in values.items()}
    kinds = {kind_of(value) for given in found.values() for value in given}
    numbers = not kinds & {"text", "comma", "list", "other"}

    def name(value: Any) -> str | None:
        kind = kind_of(value)
        if kind in ("empty", "unknown") or (kind == "word" and numbers):
            return None
        said = number(value) if kind == "decimal" and numbers else None
        return class_name(value if said is None else said)

    return {split: [name(value) for value in given] for split, given in found.items()}


def looks_like_a_list(text: str) -> bool:
    """Whether a cell's text is a list of Python or JSON, written out."""
    return _LIST.fullmatch(text) is not None


class Target:
    """The values of one column of targets, in all splits.

    Attributes:
        name: of the column.
        values: of each split, made :func:`plain`.
        kinds: how many look like what.
    """

    def __init__(self, name: str, rows: Mapping[str, Rows]):
        self.name, self._rows = name, rows
        self.values = {split: [plain(v) for v in one.values[name]] for split, one in rows.items()}
        self.kinds = Counter(kind_of(value) for value in self)

    def at(self, place: int) -> "Target":
        """The column of the items at one place of the lists; a null in place of a list stays one."""
        values = {
            split: [None if value is None else value[place] for value in given]
            for split, given in self.values.items()
        }
        name = f"{self.name}[{place}]"
        rows = {s: Rows({name: given}, self._rows[s].place) for s, given in values.items()}
        return Target(name, rows)

    def separated(self, separator: str) -> "Target":
        """The column with each text as the list of its parts, if any text has several."""
        if not any(isinstance(value, str) and separator in value for value in self):
            return self

        def parts(value: Any) -> Any:
            if kind_of(value) in ("empty", "unknown"):
                return None
            return value.split(separator) if isinstance(value, str) else value

        values = {split: list(map(parts, given)) for split, given in self.values.items()}
        return Target(
            self.name,
            {s: Rows({self.name: given}, self._rows[s].place) for s, given in values.items()},
        )

    def __iter__(self) -> Iterator[Any]:
        for values in self.values.values():
            yield from values

    def __len__(self) -> int:
        return sum(map(len, self.values.values()))

    def place(self, split: str, row: int) -> str:
        """Where a row is, in words."""
        return self._rows[split].place(row)

    @property
    def numbers(self) -> int:
        return self.kinds["whole"] + self.kinds["decimal"] + self.kinds["flag"]

    @property
    def texts(self) -> int:
        return self.kinds["text"] + self.kinds["comma"]

    def refuse(self, wrong: Callable[[Any], bool], why: str, cells: str = "rows") -> None:
        """Raise an `IceprobeError` at the first value that is ``wrong``: its row, the value, ``why``."""
        found = [
            (split, row, value)
            for split, values in self.values.items()
            for row, value in enumerate(values)
            if wrong(value)
        ]
        if found:
            split, row, value = found[0]
            raise IceprobeError(
                f"{self.place(split, row)}: {shown(value)} of target {self.name!r} {why}"
                + (f" ({len(found):,} such {cells})" if len(found) > 1 else "")
            )

    def refuse_kind(self, why: str, *kinds: str) -> None:
        """As :meth:`refuse`, for values that look like one of ``kinds``."""
        if any(self.kinds[kind] for kind in kinds):
            self.refuse(lambda value: kind_of(value) in kinds, why)
