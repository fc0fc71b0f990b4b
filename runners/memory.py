"""How a process that runs a pipeline keeps its memory."""

from __future__ import annotations

import ctypes

import pyarrow as pa

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of large arrays that it has freed; return whether the C library can.

    By default glibc gives each large block back to the kernel, and the next one costs a page fault for every
    4 KiB. A pipeline makes and drops arrays of megabytes all the time: a fifth of its CPU time went into
    that. One heap for all threads keeps the peak low.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, 2 * _LARGE - 1), (_M_ARENA_MAX, 1))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
