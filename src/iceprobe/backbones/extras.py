"""Libraries that not everybody needs, and weights that aren't on this machine yet."""

import importlib
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from iceprobe.errors import IceprobeError


def require(module: str, extra: str, source: str) -> Any:
    """Import the library behind a source of backbones.

    Raises:
        IceprobeError: if it isn't installed; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is there, and misses something itself
            raise
        raise IceprobeError(
            f"{source}: needs the package {module}: pip install 'iceprobe[{extra}]'"
        ) from error


def hub_has_address() -> bool:
    """Whether Hugging Face's name resolves, or a proxy is set that would resolve it.

    Asked before a download: without a network the hub's client tries for a minute.
    """
    from huggingface_hub import constants

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error of another library as a clause: its message on one line, or its type."""
    message = " ".join(str(error).split())
    if len(message) > limit:
        message = message[:limit].rsplit(" ", 1)[0] + " …"
    return message or type(error).__name__
