"""The commands in their groups, and the handling of errors."""

import errno
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from iceprobe import __version__
from iceprobe.cli.adapt import adapt
from iceprobe.cli.advise import advise
from iceprobe.cli.analyze import analyze
from iceprobe.cli.compare import compare
from iceprobe.cli.completion import bash_words, completing
from iceprobe.cli.console import Said, answering, console
from iceprobe.cli.demo import demo
from iceprobe.cli.export import export
from iceprobe.cli.extract import extract
from iceprobe.cli.fit import fit
from iceprobe.cli.help import help
from iceprobe.cli.knn import knn
from iceprobe.cli.ls import ls
from iceprobe.cli.measure import measure
from iceprobe.cli.plan import plan
from iceprobe.cli.predict import predict
from iceprobe.cli.prune import prune
from iceprobe.cli.publish import publish
from iceprobe.cli.report import report
from iceprobe.cli.run import run
from iceprobe.cli.segment import segment
from iceprobe.cli.test import test
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import check_text
from iceprobe.core.text import clipped, visible
from iceprobe.machine.allocator import keep_freed_memory
from iceprobe.machine.open_files import raise_limit
from iceprobe.machine.processes import first, join, world
from iceprobe.machine.signals import Stopped, caught

# Typer carries its own copy of click in newer versions and imports click in older ones; either
# way the base of its public BadParameter is every error of usage.
UsageError: Any = typer.BadParameter.__mro__[1]

# Errors of the system that the user can put right, and how.
_OF_PATHS = (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
_REMEDIES = {
    "choose a place that you may write to": (errno.EACCES, errno.EPERM, errno.EROFS),
    "make room and run the same again, it goes on from here": (errno.ENOSPC, errno.EDQUOT),
    "lift the limit on the size of files (ulimit -f) and run the same again": (errno.EFBIG,),
    "raise the limit of open files (ulimit -n) and run the same again": (errno.EMFILE,),
    "choose another path": _OF_PATHS,
    "it was removed while it was in use: run the same again": (errno.ENOENT,),
    "free some memory, or ask for less of it, and run the same again": (errno.ENOMEM,),
    "this file system has no locks: choose a place on another": (errno.ENOLCK,),
    "this file system can't do that: choose a place on another": (errno.ENOTSUP,),
}
REMEDIES = {code: remedy for remedy, codes in _REMEDIES.items() for code in codes}
# For all others, such as EIO and ESTALE.
_ANSWER = "see that its disk or server answers and run the same again, it goes on from here"

app = typer.Typer(name="iceprobe", rich_markup_mode="rich", pretty_exceptions_enable=False)

GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Start here": {"demo": demo, "run": run, "plan": plan},
    "One stage at a time": {"extract": extract, "fit": fit, "knn": knn},
    "Change the backbone": {"adapt": adapt},
    "Dense tokens": {"segment": segment},
    "Without labels": {"measure": measure},
    "Results": {
        "advise": advise,
        "report": report,
        "compare": compare,
        "analyze": analyze,
        "test": test,
    },
    "Use a probe": {"export": export, "predict": predict, "publish": publish},
    "Look around": {"help": help, "ls": ls, "prune": prune},
}
TOGETHER = ("demo", "run", "extract", "fit", "knn")  # these share their work between processes


# What every command takes besides its own options: name, flags, help.
_OF_ALL = {
    "as_json": (("--json",), "Answer with one JSON document; all else goes to stderr."),
    "quiet": (("--quiet", "-q"), "Show the answer alone: tables, paths and warnings."),
    "debug": (("--debug",), "Show the traceback of an error."),
}


def _registered(name: str, command: Callable[..., None], together: bool) -> Callable[..., None]:
    """The command with the options of all commands.

    ``--debug`` shows the traceback before the one line of an error. Unless all processes work ``together``,
    it runs in process 0 and the others wait.
    """

    def wrapper(
        debug: bool = False, as_json: bool = False, quiet: bool = False, **options: Any
    ) -> None:
        try:
            with answering(name, as_json=as_json, quiet=quiet):
                if together:
                    command(**options)
                else:
                    first(lambda: command(**options))
        except (IceprobeError, OSError):
            if debug:
                print(visible(traceback.format_exc()), file=sys.stderr)
            raise

    added = [
        inspect.Parameter(
            option,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(*flags, help=text)],
        )
        for option, (flags, text) in _OF_ALL.items()
    ]
    signature = inspect.signature(command)
    for parameter in signature.parameters.values():
        for info in getattr(parameter.annotation, "__metadata__", ()):  # its own values come first
            info.autocompletion = info.autocompletion or completing(parameter.name, None)
    wrapper.__doc__ = command.__doc__
    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *added]
    )
    wrapper.__annotations__ = {
        **command.__annotations__,
        **{one.name: one.annotation for one in added},
    }
    return wrapper


for group, commands in GROUPS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=group)(_registered(name, command, name in TOGETHER))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Tells what a frozen vision backbone knows: k-NN, linear and attentive probes in one pass.

    Start with [bold]iceprobe demo[/bold], then [bold]iceprobe run --help[/bold];
    [bold]iceprobe help[/bold] lists pages of the guide.
    """
    if version:
        print(f"iceprobe {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exits with 0; with 2 and one line on stderr for a user's error; with 128 + its number and one
    line for a signal that asked it to stop. Of several processes all exit alike and process 0
    prints.
    """
    keep_freed_memory()
    raise_limit()
    # Warnings of libraries go to the run's log, not to the terminal, where they would hide an error.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())
    terminal = Said()
    logging.getLogger("iceprobe").addHandler(terminal)
    try:
        with join() as here:
            console.quiet = not here.main
            _run(arguments)
    except IceprobeError as error:  # from join()
        _fail(str(error))
    finally:
        logging.getLogger("iceprobe").removeHandler(terminal)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    try:
        for argument in sys.argv[1:] if arguments is None else arguments:
            check_text(argument, "argument ")
        with caught(), bash_words():
            code = app(arguments, standalone_mode=False, prog_name="iceprobe")
    except IceprobeError as error:
        _fail(str(error))
    except UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "iceprobe"
        _fail(f"{error.format_message().rstrip('.')}: {command} --help says what there is")
    except (Stopped, typer.Abort, KeyboardInterrupt) as stopped:
        what = str(stopped) or "interrupted"
        print(f"iceprobe: {what}; the same command goes on from here", file=sys.stderr)
        sys.exit(getattr(stopped, "exit_code", 130))
    except OSError as error:
        if error.errno is None:
            raise  # of a library, not of the system
        place = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror}{place}; {REMEDIES.get(error.errno, _ANSWER)}")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    with world().parting(message) as mine:
        if mine:
            line = visible(clipped(" ".join(message.split())))
            print(f"iceprobe: error: {line}", file=sys.stderr, flush=True)
    sys.exit(2)
