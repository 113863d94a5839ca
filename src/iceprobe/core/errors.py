"""The one exception that a user is meant to read."""

from iceprobe.core.text import clipped


class IceprobeError(Exception):
    """Something the user can put right.

    The message is one line that names the thing, the value and the remedy. The command line
    prints it without a traceback and exits with 2 (``--debug`` shows the traceback). A message
    that quotes megabytes of a file is cut in the middle, here for every outlet: terminal, log,
    notebook.
    """

    def __init__(self, message: object = ""):
        super().__init__(clipped(str(message)))
