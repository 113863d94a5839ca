"""Optional libraries, imported where they are used."""

import importlib
from typing import Any

from iceprobe.core.errors import IceprobeError


def require(module: str, extra: str, source: str) -> Any:
    """Import the library that ``source`` needs.

    Raises:
        IceprobeError: if it isn't installed; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is installed, but one of its own imports isn't
            raise
        raise IceprobeError(
            f"{source}: needs the package {module}: pip install 'iceprobe[{extra}]'"
        ) from error
