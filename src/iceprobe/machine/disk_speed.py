"""How fast a disk reads, measured on it."""

import os
import tempfile
import time
from pathlib import Path

from iceprobe.machine.object_storage import cache_folder, is_remote

READ_BYTES = 2**26  # written and read again to measure a disk


def read_speed(folder: Path) -> float:
    """Bytes a second that come from the disk of ``folder``, past the system's cache.

    Of a folder on object storage the disk is meant that holds the copies of its shards.

    A nameless file is written, read once and gone. Where the system can't be made to forget it
    (`posix_fadvise`), the cache's speed is what is found.
    """
    if is_remote(folder):
        folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    block = os.urandom(2**20)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(READ_BYTES // len(block)):
            file.write(block)
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(len(block)):
            pass
        return READ_BYTES / max(time.perf_counter() - began, 1e-9)
