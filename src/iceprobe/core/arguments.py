"""Type checks of the plain arguments of public functions.

A string in place of a number, a NaN or a number beyond 64 bits raises one line that names the
argument, its value and what it takes. The function itself checks what the value means.
"""

import functools
import inspect
import math
import numbers
import os
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import check_text
from iceprobe.core.text import shown

P = ParamSpec("P")
R = TypeVar("R")

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    types.NoneType: "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which first checks its arguments by :func:`plain`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            hint = signature.parameters[name].annotation
            given.arguments[name] = plain(function.__name__, name, value, hint)
        return function(*given.args, **given.kwargs)

    return call


def plain(function: str, name: str, value: Any, hint: Any) -> Any:
    """``value`` of an argument, checked by its hint; numbers of numpy become Python's.

    Only hints of the types in ``_WORDS``, literals and lists of them are checked.

    Raises:
        IceprobeError: if the value doesn't fit.
    """
    choices = _choices(hint)
    if choices is not None and not any(_fits(value, *one) for one in choices):
        takes = " or ".join(dict.fromkeys(_words(*one) for one in choices))
        raise IceprobeError(f"{function}({name}={shown(value)}): give {takes}")
    if isinstance(value, str | Path):
        check_text(str(value), f"{function}: {name}=")
    if choices is None:
        return value
    if (int, False) in choices and isinstance(value, float):
        return int(value)  # 1e6 is one
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, str | None) or not any(many for _, many in choices):
        return value
    return [one.tolist() if type(one).__module__ == "numpy" else one for one in value]


def _choices(hint: Any) -> list[tuple[type, bool]] | None:
    """Types that an argument may have, and whether in a list; ``None`` if one isn't plain."""
    hint = bare(hint)
    found = []
    for one in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else [hint]:
        many = get_origin(one) is Sequence
        of = get_args(one)[0] if many else one
        if get_origin(one) is Literal and all(isinstance(word, str) for word in get_args(one)):
            of = str  # the function itself checks which one
        if not isinstance(of, type) or of not in _WORDS or (many and of not in (int, float, str)):
            return None
        found.append((of, many))
    return found


def bare(hint: Any) -> Any:
    """A hint without the metadata of ``Annotated``; a list becomes any sequence."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        return Sequence[bare(get_args(hint)[0])]  # type: ignore[misc]
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(bare(one) for one in get_args(hint))]  # noqa: UP007
    return hint


def _fits(value: Any, kind: type, many: bool) -> bool:
    if many:
        try:
            return not isinstance(value, str | bytes) and all(_fits(v, kind, False) for v in value)
        except TypeError:  # not iterable
            return False
    if kind in (int, float):
        try:
            number = float(value) if isinstance(value, numbers.Real) else math.nan
        except OverflowError:
            return False
        whole = number.is_integer() and abs(number) < 2**63
        return math.isfinite(number) and (kind is float or whole)
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # of numpy
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, kind)


def _words(kind: type, many: bool) -> str:
    return f"a list of {'texts' if kind is str else 'numbers'}" if many else _WORDS[kind]
