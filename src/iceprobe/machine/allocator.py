"""Whether memory that is freed is kept, or given back to the system and asked for again.

A training step takes and frees hundreds of megabytes. glibc maps each large block anew and unmaps
it when it is freed, so the kernel clears the same pages at every step: a quarter of a fit's time
on two cores (docs/speed.md). The command line, whose process is its own, turns that off; a
library doesn't change its host's allocator.

What is kept lies in pieces, and a process with a budget takes up to three times its budget in them.
Under one, large blocks are given back at once, and what the process takes is what it uses.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_BLOCKS, _LARGE = 65536, 2**20  # mapped each by itself: at most, and from so many bytes on


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; whether there is one to tell."""
    return _told((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> bool:
    """Tell it to give back large blocks as soon as they are freed; whether there is one to tell."""
    return _told((_M_MMAP_MAX, _BLOCKS), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE))


def _told(*options: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(name, value) for name, value in options)
