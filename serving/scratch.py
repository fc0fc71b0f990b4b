"""A file without a name, for what would else be in memory; it goes when nobody holds it any more."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class Scratch:
    """Bytes at places. Safe to use from several threads where these use other places.

    Args:
        directory: where it is; None for the system's place for temporary files.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._number, path = tempfile.mkstemp(prefix="fibflow-", dir=directory)
        Path(path).unlink()

    def __del__(self) -> None:
        os.close(self._number)

    def write(self, content: bytes | memoryview, place: int) -> None:
        """Write all of something.

        Raises:
            OSError: there is no room.
        """
        view = memoryview(content)
        while view:
            written = os.pwrite(self._number, view, place)
            view, place = view[written:], place + written

    def read(self, size: int, place: int) -> bytes:
        """Read so many bytes."""
        return os.pread(self._number, size, place)
