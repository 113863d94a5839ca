"""The one exception whose message is written for the user."""

from iceprobe.core.text import clipped


class IceprobeError(Exception):
    """An error that the user can correct.

    The message is one line that names the object, the value and the remedy. The command line prints
    it without a traceback and exits with 2 (``--debug`` shows the traceback). A message that quotes
    megabytes of a file is cut in the middle.
    """

    def __init__(self, message: object = ""):
        super().__init__(clipped(str(message)))
