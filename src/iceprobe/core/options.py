"""Options, and functions that take a whole model of them as keyword arguments.

The models are in `settings.py`. A function that takes one has a parameter ``call``::

    @takes(FitCall)
    def fit(store, probes, *, call: FitCall): …

It is called with a settings object, with keywords, or with both; keywords win::

    fit(store, probes, Fitting(seeds=5), output="runs/five")
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from iceprobe.core.arguments import bare, plain
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import shown


@dataclass(frozen=True)
class Option:
    """An option, apart from its type and default.

    Attributes:
        help: its line of ``--help``, with unit and default.
        panel: the panel of the help that lists it; ``None`` for Python only.
        changes_numbers: whether it can change a result. Others may differ when a run is resumed.
        flag: its flag, if that isn't ``--name``.
        implicit: whether ``config.yaml`` and the names of runs leave it out at its default.
    """

    help: str
    panel: str | None = "How"
    changes_numbers: bool = True
    flag: str | None = None
    implicit: bool = False


class Settings(BaseModel):
    """A set of options; frozen.

    Attributes:
        EARLIER: names in earlier versions, which are still accepted → current names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    EARLIER: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """List the options in the docstring, for ``help()`` and editors."""
        lines = [f"        {name}: {option.help}" for name, option in options_of(cls).items()]
        head = (cls.__doc__ or "").partition("\n\n    Attributes:")[0].rstrip()
        cls.__doc__ = "\n".join([head, "", "    Attributes:", *lines, ""])


S = TypeVar("S", bound=Settings)


def options_of(model: type[Settings]) -> dict[str, Option]:
    """The options of a model by name, in its order."""
    fields = model.model_fields.items()
    return {k: o for k, field in fields for o in field.metadata if isinstance(o, Option)}


def renamed(model: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` in current spelling: names of earlier versions are replaced, and a ``torch.device``, which is a text here."""
    found = {model.EARLIER.get(key, key): value for key, value in values.items()}
    if type(found.get("device")).__module__ == "torch":
        found["device"] = str(found["device"])
    return found


def part_of(settings: Settings, model: type[S]) -> S:
    """A ``model`` of those of its options that ``settings`` sets."""
    return model(
        **{k: getattr(settings, k) for k in settings.model_fields_set if k in model.model_fields}
    )


def takes(model: type[S], **earlier: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: the parameter ``call`` becomes ``settings=None`` and keyword arguments.

    Editors and ``help()`` show all of them.

    Args:
        model: of the options. A function with ``**others`` also gets the keywords that it lacks.
        earlier: earlier names of the function's own parameters → current names.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function)
        parameters = [p for p in own.parameters.values() if p.name != "call"]
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        others_too = parameters[len(named) :]  # ``**others``, if there is one
        settings = inspect.Parameter(
            "settings", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None
        )
        shape = inspect.Signature([*named, settings])

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs = {earlier.get(key, key): value for key, value in kwargs.items()}
            mine = {key: kwargs.pop(key) for key in shape.parameters.keys() & kwargs}
            try:
                bound = shape.bind(*args, **mine)
            except TypeError as error:
                raise TypeError(f"{function.__name__}: {error}") from None
            bound.apply_defaults()
            *first, given = bound.args
            first = [
                plain(function.__name__, one.name, value, one.annotation)
                for one, value in zip(named, first, strict=True)
            ]
            known = {*model.model_fields, *model.EARLIER}
            others = {
                key: kwargs.pop(key) for key in list(kwargs) if others_too and key not in known
            }
            return function(*first, call=settle(model, given, kwargs, function.__name__), **others)

        keywords = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.get_default(call_default_factory=True),
                annotation=bare(field.annotation),
            )
            for name, field in model.model_fields.items()
        ]
        call.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*named, settings, *keywords, *others_too]
        )
        return call

    return decorate


def settle(
    model: type[S], settings: Settings | None, overrides: Mapping[str, Any], function: str
) -> S:
    """A ``model`` of a settings object's values and of ``overrides``, which win.

    An unknown option or a value that doesn't fit is an `IceprobeError`.
    """
    if settings is not None and not _serves(settings, model):
        kind = model.__mro__[1]
        named = model if kind is Settings else kind
        raise IceprobeError(
            f"{function}(settings={shown(settings)}): give iceprobe.settings.{named.__name__}(…), "
            "or its options as keywords"
        )
    shared = [] if settings is None else settings.model_fields_set & set(model.model_fields)
    values = {name: getattr(settings, name) for name in shared}
    values |= renamed(model, overrides)
    for name, value in values.items():
        if name not in model.model_fields:
            raise IceprobeError(unknown(f"option of {function}", str(name), model.model_fields))
        values[name] = plain(function, name, value, model.model_fields[name].annotation)
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][:1]))
        if first["type"] == "literal_error":
            choices = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            raise IceprobeError(
                f"{function}: {unknown(name, str(first['input']), choices)}"
            ) from error
        what = f"{function}({name}={shown(values.get(name))})" if name else function
        raise IceprobeError(f"{what}: {wants(first)}") from error


def _serves(settings: Any, model: type[Settings]) -> bool:
    """Whether ``settings`` is of the class that ``model`` extends, or has no other options."""
    if not isinstance(settings, Settings):
        return False
    kind = model.__mro__[1]
    of_kind = kind is not Settings and isinstance(settings, kind)
    return of_kind or set(type(settings).model_fields) <= set(model.model_fields)


def wants(error: Mapping[str, Any]) -> str:
    """What pydantic wants in place of a value that it refused."""
    bounds = error.get("ctx", {})
    if error["type"] == "greater_than_equal":
        least = bounds["ge"]
        return f"give at least {least}" if least else "give a number from 0 up"
    if error["type"] == "greater_than":
        return f"give a number above {bounds['gt']:g}"
    reason: str = error["msg"]
    return reason.removeprefix("Value error, ").removeprefix("Input ")
