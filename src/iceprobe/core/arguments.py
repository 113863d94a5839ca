"""Type checks of the plain arguments of public functions.

A string in place of a number, a NaN or a number beyond 64 bits raises one line that names the argument,
its value and what it takes. The function itself checks what the value means.
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
    """``value`` of an argument, checked by its hint; numpy's numbers and whole floats become Python's.

    Only hints of the types in ``_WORDS``, literals and lists of them are checked.

    Raises:
        IceprobeError: if the value doesn't fit.
    """
    choices = _choices(hint)
    if choices is not None and not any(_fits(value, one) for one in choices):
        takes = " or ".join(dict.fromkeys(map(_words, choices)))
        raise IceprobeError(f"{function}({name}={shown(value)}): give {takes}")
    if isinstance(value, str | Path):
        check_text(str(value), f"{function}: {name}=")
    if choices is None:
        return value
    if int in choices and isinstance(value, float):
        return int(value)  # 1e6 is one
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, str | None) or not any(get_origin(one) is Sequence for one in choices):
        return value
    return [one.tolist() if type(one).__module__ == "numpy" else one for one in value]


def _choices(hint: Any) -> list[Any] | None:
    """The types that an argument may have; ``None`` if one of them isn't plain."""
    hint = bare(hint)
    found = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    return found if all(_plain(one) for one in found) else None


def bare(hint: Any) -> Any:
    """A hint without the metadata of ``Annotated``; a list becomes any sequence."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        return Sequence[bare(get_args(hint)[0])]  # type: ignore[misc]
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(bare(one) for one in get_args(hint))]  # noqa: UP007
    return hint


def _plain(hint: Any) -> bool:
    if get_origin(hint) is Sequence:
        return all(one in (int, float, str) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return all(isinstance(one, str) for one in get_args(hint))
    return isinstance(hint, type) and hint in _WORDS


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Sequence:
        (of,) = get_args(hint)
        try:
            return not isinstance(value, str | bytes) and all(_fits(one, of) for one in value)
        except TypeError:  # not iterable
            return False
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # the function itself checks which one
    if hint in (int, float):
        try:
            number = float(value) if isinstance(value, numbers.Real) else math.nan
        except OverflowError:
            return False
        whole = number.is_integer() and abs(number) < 2**63
        return math.isfinite(number) and (hint is float or whole)
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # of numpy
    if hint is Path:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) is Sequence:
        (of,) = get_args(hint)
        return f"a list of {'texts' if of is str else 'numbers'}"
    return "a text" if get_origin(hint) is Literal else _WORDS[hint]
