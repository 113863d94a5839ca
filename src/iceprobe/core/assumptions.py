"""Assumptions about files: one line each, logged at once and kept in every result."""

import logging
from collections.abc import Iterable

log = logging.getLogger("iceprobe")


def log_assumptions(assumed: Iterable[str]) -> None:
    """Log each line as a warning."""
    for line in assumed:
        log.warning("assumed: %s", line)
