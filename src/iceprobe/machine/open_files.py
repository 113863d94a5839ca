"""The limit of open files, and the error when it is reached."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from iceprobe.core.errors import IceprobeError

try:
    import resource
except ModuleNotFoundError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

TOO_MANY = (errno.EMFILE, errno.ENFILE)
WANTED = 65_536  # files; more than a store has shards


def raise_limit() -> bool:
    """Raise the soft limit of this process up to the hard one; whether it got higher."""
    if resource is None:
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # the system has a lower limit that it doesn't report
        return False
    return True


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read from in the block; an `IceprobeError` if there are too many."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in TOO_MANY:
            raise
        if not raise_limit():
            raise IceprobeError(f"{path} can't be opened: {reason_of(error)}") from error
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reason_of(error: OSError) -> str:
    """Cause and remedy of an error of `TOO_MANY`."""
    if error.errno == errno.ENFILE or resource is None:
        return "the system has too many files open: close some programs and run the same again"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = f"raise the limit with ulimit -n {min(WANTED, hard) if hard > soft else WANTED}"
    whose = "" if hard > soft else " (as root: it is the hard limit)"
    return f"this process has as many files open as it may ({soft}): {remedy}{whose} and run again"
