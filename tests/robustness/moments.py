"""The command line, which kills itself or waits for a signal at a moment of its own work.

    python -m tests.robustness.moments STAGE DONE kill COMMAND …
    python -m tests.robustness.moments STAGE DONE FILE COMMAND …

The moment is the first at which ``STAGE`` (with "_" for a space) has come to ``DONE``, as the
progress bars show it. With
``kill`` the process ends there by SIGKILL. Else it makes the empty ``FILE``, goes no further until
a signal has come, and then does what iceprobe does with one.
"""

import os
import signal
import sys
import time
from pathlib import Path

from iceprobe.cli import main
from iceprobe.machine.progress import Bars
from iceprobe.machine.signals import asked


def arrange(stage: str, done: int, what: str) -> None:
    """Put the moment into every bar."""
    call, came = Bars.__call__, []

    def watched(self: Bars, name: str, count: int, total: int) -> None:
        call(self, name, count, total)
        if name != stage or count < done or came:
            return
        came.append(True)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        Path(what).touch()
        while not asked():
            time.sleep(0.01)

    Bars.__call__ = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    stage, done, what, *command = sys.argv[1:]
    arrange(stage.replace("_", " "), int(done), what)
    sys.argv = ["iceprobe", *command]
    main(command)
