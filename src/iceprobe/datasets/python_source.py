"""``python:package.module:function?trust=true&key=value``: what a function of yours returns.

``function(key=value)`` returns a `Dataset`, or ``{"train": data, "test": data}`` with map-style data sets.
Its code runs only with ``trust=true``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import explained, imported, where
from iceprobe.core.specs import boolean, unknown
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.wrapping import from_splits

_OF_LABELS = (
    "task",
    "unit",
)  # of two map-style data sets, if the function doesn't take them itself
_CONVERTERS: Mapping[Any, Callable[[str], Any]] = {int: int, float: float, bool: boolean}


def load_python(
    name: str, *, spec: str, trust: bool = False, arguments: Mapping[str, str] | None = None
) -> Dataset:
    """Load ``python:package.module:function``.

    Args:
        name: of the function, or ``./file.py:function``.
        spec: the spec string given.
        trust: whether its code may run.
        arguments: of the function, as text: it gets what their annotations or defaults are (int, float,
            bool), or the text.

    Raises:
        IceprobeError: without ``trust``, if the function isn't found, fails, or returns something else,
            and for arguments that it doesn't take.
    """
    if not trust:
        raise IceprobeError(
            f"{spec!r} runs code of its own on this machine: read that code, then add trust=true"
        )
    function = imported(name, spec, "function")
    parameters = _parameters(function, spec)
    options = dict(arguments or {})
    of_labels = {
        key: options.pop(key) for key in _OF_LABELS if key in options and key not in parameters
    }
    given = _arguments(parameters, options, spec)
    with explained(lambda error: f"{spec!r} failed: {where(error)}"):
        made = function(**given)
    if isinstance(made, Dataset) and not of_labels:
        return replace(made, spec=spec)
    if isinstance(made, Mapping):
        return replace(from_splits(made, **of_labels), spec=spec)
    wanted = 'a Dataset, or {"train": data, "test": data} with map-style data sets'
    if of_labels:
        wanted = f'{{"train": data, "test": data}}, as {min(of_labels)}= is for'
    raise IceprobeError(f"{spec!r} returned a {type(made).__name__}: return {wanted}")


def _parameters(function: Callable[..., Any], spec: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function, eval_str=True).parameters
    except (TypeError, ValueError, NameError) as error:
        raise IceprobeError(
            f"{spec!r}: its parameters can't be read ({where(error)}): name a function of Python"
        ) from error


def _arguments(
    parameters: Mapping[str, inspect.Parameter], options: Mapping[str, str], spec: str
) -> dict[str, Any]:
    by_name = {
        key: one
        for key, one in parameters.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    needed = [
        key for key, one in by_name.items() if one.default is one.empty and key not in options
    ]
    if needed or any(
        one.kind is one.POSITIONAL_ONLY and one.default is one.empty for one in parameters.values()
    ):
        raise IceprobeError(
            f"{spec!r}: its function needs {', '.join(needed) or 'arguments without names'}: add "
            f"{needed[0] if needed else 'key'}=VALUE, or give it a default"
        )
    found: dict[str, Any] = {}
    for key, text in options.items():
        if key not in by_name and not takes_all:
            raise IceprobeError(unknown(f"argument of {spec!r}", key, by_name))
        try:
            found[key] = _converter(by_name.get(key))(text)
        except ValueError as error:
            raise IceprobeError(f"option {key}={text!r} of {spec!r}: {error}") from error
    return found


def _converter(parameter: inspect.Parameter | None) -> Callable[[str], Any]:
    """By the annotation, else by the default's type; text otherwise."""
    if parameter is None:
        return str
    kind = parameter.annotation
    if kind is parameter.empty:
        kind = type(parameter.default)
    return _CONVERTERS.get(kind, str)
