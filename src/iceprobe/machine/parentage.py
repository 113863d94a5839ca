"""A worker process that never outlives the process that started it, however that one ends."""

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
    """End this process when ``parent``, which started it, is gone: by SIGKILL, in any work.

    Linux does it by itself (``prctl``), so a worker that hangs in a system call or in foreign code
    ends too. It counts the end of the *thread* that forked as well; ours waits for its workers.
    Elsewhere a thread looks every second, which foreign code that keeps the interpreter delays.
    """
    if not _asked_the_kernel():
        threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()
    # It may have died before we asked. (A fork server stands between, and ends with it.)
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
