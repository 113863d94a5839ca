"""The one exception that a user is meant to read."""


class IceprobeError(Exception):
    """Something the user can put right.

    The message is one line that names the thing, the value and the remedy. The command line
    prints it without a traceback and exits with 2 (``--debug`` shows the traceback).
    """
