"""The command line, in a process 0 whose interpreter ends after torchrun has asked it to stop.

`tests.distributed.launcher` makes the file ``$ASKED`` when torchrun has.
"""

import atexit
import os
import time
from pathlib import Path

from iceprobe.cli import main

NEVER_ASKED = 9


def wait() -> None:
    asked, deadline = Path(os.environ["ASKED"]), time.monotonic() + 120
    while not asked.exists():
        if time.monotonic() > deadline:
            os._exit(NEVER_ASKED)
        time.sleep(0.01)


if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        atexit.register(wait)
    main()
