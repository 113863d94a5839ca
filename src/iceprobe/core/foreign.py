"""Functions of other people's code, named by a spec: ``package.module:function`` or ``./file.py:function``.

Whoever calls this has the caller's consent (`trust.py`).
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import visible


def imported(name: str, spec: str, what: str) -> Callable[..., Any]:
    """The function ``name``; ``what`` it is called in errors.

    Raises:
        IceprobeError: if it isn't there, or its module can't be imported.
    """
    path, _, attribute = name.rpartition(":")
    if not path or not attribute:
        raise IceprobeError(
            f"{spec!r} names no {what}: write python:package.module:{what}, or "
            f"python:./file.py:{what}"
        )
    with explained(lambda error: f"{spec!r} can't be imported: {where(error)}"):
        try:
            if is_file_path(path):
                module = _from_file(Path(path).expanduser(), spec)
            else:
                module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            raise IceprobeError(
                f"{spec!r}: no module named {error.name!r}; is its folder on PYTHONPATH?"
            ) from error
    found: Any = getattr(module, attribute, None)
    if not callable(found):
        raise IceprobeError(f"{spec!r}: {path} has no function {attribute!r}")
    function: Callable[..., Any] = found
    return function


def place_of(name: str) -> str:
    """The real path of the file or folder that ``name`` is in; empty for a module."""
    file = name.rpartition(":")[0]
    place = name if os.path.isdir(name) else file if is_file_path(file) else ""
    return os.path.realpath(os.path.expanduser(place)) if place else ""


def is_file_path(module: str) -> bool:
    """Whether ``python:`` names a file (``./models.py``) rather than a module."""
    return module.endswith(".py") or "/" in module


@contextmanager
def explained(message: Callable[[Exception], str]) -> Iterator[None]:
    """Turn any error of foreign code into an IceprobeError with this message."""
    try:
        yield
    except IceprobeError:
        raise
    except Exception as error:
        raise IceprobeError(message(error)) from error


def where(error: Exception) -> str:
    """An error of foreign code as a clause."""
    return f"{type(error).__name__}: {one_line(error)} (--debug shows where)"


def one_line(error: BaseException, limit: int = 300) -> str:
    """Another library's error as a clause: its message on one line, or its type."""
    message = " ".join(str(error).split())
    if len(message) > limit:
        message = message[:limit].rsplit(" ", 1)[0] + " …"
    return message or type(error).__name__


def line_of(error: Exception) -> str:
    """What went wrong, in one line: iceprobe's own message, or the type and message of any other error."""
    text = " ".join(str(error).split())
    return visible(text if isinstance(error, IceprobeError) else f"{type(error).__name__}: {text}")


def _from_file(file: Path, spec: str) -> ModuleType:
    """Import the module in a file, without adding its folder to the import path."""
    if not file.is_file():
        raise IceprobeError(f"{spec!r}: no file {str(file)!r} here ({Path.cwd()})")
    file = file.resolve()
    name = f"_iceprobe_{hashlib.sha256(bytes(file)).hexdigest()[:12]}_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise IceprobeError(f"{spec!r}: {str(file)!r} is no Python file: name one that ends in .py")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look their classes up there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
