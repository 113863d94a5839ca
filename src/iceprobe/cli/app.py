"""The commands in their groups, and what happens to errors."""

import errno
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from iceprobe import __version__
from iceprobe.cli import (
    adapt,
    analyze,
    compare,
    demo,
    export,
    extract,
    fit,
    knn,
    ls,
    plan,
    predict,
    report,
    run,
)
from iceprobe.errors import IceprobeError
from iceprobe.malloc import keep_freed_memory

# Typer carries its own copy of click in newer versions and imports click in older ones; either
# way the base of its public BadParameter is every error of usage.
UsageError: Any = typer.BadParameter.__mro__[1]

# Errors of the system that the user can put right, and how.
_ROOM = "choose a place with room that you may write to"
_PATH = "choose another path"
REMEDIES = {
    errno.EACCES: _ROOM,
    errno.EPERM: _ROOM,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: _ROOM,
    errno.EEXIST: _PATH,
    errno.EISDIR: _PATH,
    errno.ELOOP: _PATH,
    errno.ENAMETOOLONG: _PATH,
    errno.ENOTDIR: _PATH,
}


def debuggable(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option ``--debug``, which shows the traceback before the one line."""

    def wrapper(debug: bool = False, **options: Any) -> None:
        try:
            command(**options)
        except (IceprobeError, OSError):
            if debug:
                traceback.print_exc()
            raise

    flag = typer.Option("--debug", help="Show the traceback of an error.")
    parameter = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, flag]
    )
    signature = inspect.signature(command)
    wrapper.__doc__ = command.__doc__
    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), parameter]
    )
    wrapper.__annotations__ = {**command.__annotations__, "debug": parameter.annotation}
    return wrapper


app = typer.Typer(
    name="iceprobe",
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)

GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Start here": {"demo": demo.demo, "run": run.run, "plan": plan.plan},
    "One stage at a time": {"extract": extract.extract, "fit": fit.fit, "knn": knn.knn},
    "Change the backbone": {"adapt": adapt.adapt},
    "Results": {"report": report.report, "compare": compare.compare, "analyze": analyze.analyze},
    "Use a probe": {"export": export.export, "predict": predict.predict},
    "Look around": {"ls": ls.ls},
}
for group, commands in GROUPS.items():
    for name, function in commands.items():
        app.command(name, rich_help_panel=group)(debuggable(function))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Tells what a frozen vision backbone knows: k-NN, linear and attentive probes in one pass.

    Start with [bold]iceprobe demo[/bold], then [bold]iceprobe run --help[/bold].
    """
    if version:
        print(f"iceprobe {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, or with 2 and one line on stderr for a user's error."""
    keep_freed_memory()
    # Warnings of libraries go to the run's log, not between an error and the eye that seeks it.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())
    try:
        code = app(arguments, standalone_mode=False)
    except IceprobeError as error:
        _fail(str(error))
    except UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "iceprobe"
        _fail(f"{error.format_message().rstrip('.')}: {command} --help says what there is")
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; the same command goes on from here", 130)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        place = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror}{place}; {REMEDIES[error.errno]}")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"iceprobe: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
