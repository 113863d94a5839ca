"""The command line, in a process 0 whose interpreter takes a second to end."""

import atexit
import os
import time

from iceprobe.cli import main

if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        atexit.register(time.sleep, 1)
    main()
