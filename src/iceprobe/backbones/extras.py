"""Weights that aren't on this machine yet."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from iceprobe.core.errors import IceprobeError


def hub_has_address() -> bool:
    """Whether Hugging Face's host name resolves, or a proxy is set.

    Checked before a download: without a network the hub's client retries for a minute.
    """
    from huggingface_hub import constants

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def model_folder(name: str, spec: str, first: str, fetch: str) -> str:
    """A local folder, or a name on Hugging Face whose files are cached or can be downloaded.

    Args:
        first: a file that every such folder has.
        fetch: what to do without a network.

    Raises:
        IceprobeError: if it is neither.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    local = Path(name).expanduser()
    if local.is_dir():
        return str(local)
    try:
        cached = isinstance(try_to_load_from_cache(name, first), str)
    except HFValidationError as error:
        raise IceprobeError(f"{spec}: no folder {name!r}, and no name of Hugging Face") from error
    if not cached and not hub_has_address():
        raise IceprobeError(f"{spec}: no folder {name!r}, and no network to fetch it: {fetch}")
    return name


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """No warnings about missing heads and no progress bars within; the former state afterwards.

    ``logging`` is ``transformers.utils.logging`` or the same module of diffusers.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
