"""Keep memory that is freed, instead of giving it back to the system and asking again.

A training step takes and frees hundreds of megabytes. glibc maps each large block anew and unmaps
it when it is freed, so the kernel clears the same pages at every step: a quarter of a fit's time
on two cores (docs/speed.md). The command line, whose process is its own, turns that off; a
library doesn't change its host's allocator.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; whether there is one to tell."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
