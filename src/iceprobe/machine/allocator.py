"""Whether the allocator keeps freed memory or returns it to the system.

A training step allocates and frees hundreds of megabytes. glibc maps and unmaps each large block,
so the kernel clears the same pages at every step: a quarter of a fit's time on two cores
(docs/speed.md). The command line turns that off in its own process; a library doesn't change its
host's allocator.

Kept memory is fragmented: a process with a memory budget took up to three times as much. With a
budget, large blocks are therefore returned at once.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_BLOCKS, _LARGE = 65536, 2**20  # most blocks that are mapped by themselves; their least bytes


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory; False if the C library is another."""
    return _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> bool:
    """Make it return large blocks when they are freed; False if the C library is another."""
    return _set((_M_MMAP_MAX, _BLOCKS), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE))


def _set(*options: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(name, value) for name, value in options)
