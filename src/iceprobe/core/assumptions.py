"""What is taken for granted about files: one line each, logged at once and kept in every result."""

import logging
from collections.abc import Iterable

log = logging.getLogger("iceprobe")


def log_assumptions(assumed: Iterable[str]) -> None:
    """Say each line: on the terminal, in the run's log, to the handlers of a Python user."""
    for line in assumed:
        log.warning("assumed: %s", line)
