"""Worker processes that end with the process that started them."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
SECONDS_BETWEEN_LOOKS = 1.0


def end_with(parent: int) -> None:
    """Kill this process when ``parent``, which started it, ends.

    On Linux the kernel does it (``prctl``), even during a system call or C code. It also does it
    when the *thread* that forked ends; ours waits for its workers. On other systems a thread checks
    every second, which C code that holds the interpreter lock delays.
    """
    if not _asked_the_kernel():
        threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()
    # It may have ended before. (With a fork server, our parent is that, which ends with it.)
    if os.getppid() != parent and multiprocessing.get_start_method() != "forkserver":
        os._exit(1)


def _asked_the_kernel() -> bool:
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)
    return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
