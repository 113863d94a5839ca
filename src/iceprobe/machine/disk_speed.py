"""The measured reading speed of a disk."""

import os
import tempfile
import time
from pathlib import Path

from iceprobe.machine.object_storage import cache_folder, is_remote

READ_BYTES = 2**26  # written and read to measure a disk


def read_speed(folder: Path) -> float:
    """Bytes per second read from the disk of ``folder``, without the system's cache.

    For a folder on object storage, of the disk that has the copies of its shards. Without
    `posix_fadvise` the speed of the cache is measured.
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
