"""What the kernel's page cache holds: how cold reads are made, and how much of a lake a process read."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def drop(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget the pages of files."""
    os.sync()
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def resident(paths: Iterable[Path]) -> int:
    """Return how many bytes of files are in the page cache; files that are gone count as nothing.

    After ``drop``, that is what was read since, rounded up to pages and the kernel's read-ahead.

    Raises:
        OSError: the kernel does not say.
    """
    pages = 0
    for path in paths:
        if not path.exists() or not (size := path.stat().st_size):
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            count = -(-size // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * count)()
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
            if _LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), states):
                raise OSError(ctypes.get_errno(), f"mincore of {path}")
            pages += sum(state & 1 for state in states)
            del states
    return pages * mmap.PAGESIZE
