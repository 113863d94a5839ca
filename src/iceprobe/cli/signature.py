"""Options of the command line, made from the models of `settings.py`.

A command is a function whose parameter ``given`` stands for all of them::

    @options(Run)
    def run(given: Given, arguments: Arguments = None, resume: Resume = True) -> None: ...

Typer sees one option per field in place of ``given``; the function gets those that the user gave. No
option has a default here, since the model has it and must know what was given.
"""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BeforeValidator

from iceprobe.cli.completion import completing
from iceprobe.core.arguments import bare
from iceprobe.core.options import Option, Settings, options_of
from iceprobe.settings import FIGURE, HOW, PAPER, WHAT, WHERE

Given = Mapping[str, Any]
Command = Callable[..., None]

PANELS = (WHAT, HOW, WHERE, PAPER, FIGURE)
FIRST = ("backbone", "layers", "data", "adapt", "probe")  # first in their panel

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="CONFIG.YAML KEY=VALUE...", help="A file, then keys that override it."),
]
StoreArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STORE|CONFIG.YAML KEY=VALUE...",
        help="A feature store that `iceprobe extract` made, tokens of your own (features:FILE), or a "
        "file that names either as its store; then keys that override.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(help="Continue a killed run, or begin it again.", rich_help_panel=WHERE),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run code and connect to hosts that the folder's files name, because you trust them.",
    ),
]


def options(
    *models: type[Settings], only: Iterable[str] | None = None
) -> Callable[[Command], Command]:
    """A decorator: the parameter ``given`` becomes the options of ``models``.

    Args:
        models: later ones add the options that earlier ones lack.
        only: names of the options that the command takes; all by default.
    """
    fields = {
        name: (model, option)
        for model in reversed(models)
        for name, option in options_of(model).items()
        if option.panel and (only is None or name in only)
    }
    chosen = sorted(fields, key=lambda name: _rank(name, fields[name][1]))
    earlier = {
        was: name
        for model in models
        for was, name in model.EARLIER.items()
        if name in fields and was not in fields
    }

    def decorate(function: Command) -> Command:
        def command(**values: Any) -> None:
            given = {name: values.pop(name) for name in chosen}
            for was, name in earlier.items():
                value = values.pop(was)
                given[name] = value if given[name] is None else given[name]
            function(given={k: v for k, v in given.items() if v not in (None, [])}, **values)

        made = [_parameter(*fields[name], name) for name in chosen]
        made += [_parameter(*fields[name], was, hidden=True) for was, name in earlier.items()]
        parameters: list[inspect.Parameter] = []
        for name, own in inspect.signature(function).parameters.items():
            parameters += made if name == "given" else [own.replace(kind=own.KEYWORD_ONLY)]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__ = function.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def _rank(name: str, option: Option) -> tuple[int, int]:
    assert option.panel is not None
    return PANELS.index(option.panel), FIRST.index(name) if name in FIRST else len(FIRST)


def _parameter(
    model: type[Settings], option: Option, name: str, *, hidden: bool = False
) -> inspect.Parameter:
    """An option as typer takes it."""
    today = name if name in model.model_fields else model.EARLIER[name]
    hint = _type(model.model_fields[today].annotation)
    words = name.replace("_", "-")
    flag = option.flag if option.flag and not hidden else f"--{words}"
    if hint is bool and option.flag is None:
        flag += f"/--no-{words}"
    said = typer.Option(
        flag,
        help=option.help,
        rich_help_panel=option.panel,
        hidden=hidden,
        autocompletion=completing(today, model.model_fields[today].annotation),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint | None, said]
    )


def _type(hint: Any) -> Any:
    """The type that the command line reads: numbers, paths, switches and lists; else text."""
    plain = bare(hint)
    kinds = get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)
    if Sequence[str] in kinds:
        return list[str]
    simple = [] if _is_parsed(hint) else [kind for kind in (bool, int, Path) if kind in kinds]
    return simple[0] if simple else str


def _is_parsed(hint: Any) -> bool:
    """Whether the model parses a text such as ``8GB`` or ``1,5,10``."""
    return any(isinstance(one, BeforeValidator) or _is_parsed(one) for one in get_args(hint))
