"""The spool: everything that was received goes through it to Kinesis, in order, and outlives the process."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

from fibflow.io.ingest.entries import Entry, to_bytes
from fibflow.io.ingest.segments import Mark, Segments, Sent, SpoolError, lock

__all__ = ["Spool", "SpoolError"]

#: A segment's bytes, and how many bytes of entries are kept in memory too.
SEGMENT = 16 << 20
CACHED = 16 << 20
#: Deleting is by segments: below this a limit would never be away from full.
LEAST_LIMIT = 4 * SEGMENT


class Spool:
    """A log on disk that one thread appends to and another one sends from.

    Entries are written (to the page cache) before they are sent, so that a killed process loses none. They
    are also kept in memory, up to ``cached`` bytes: while the sender keeps up nothing is read from the disk.
    What was sent is noted after each batch; a batch whose note was lost is sent again.

    Args:
        folder: where; made if it is not there. One process holds it at a time.
        limit: bytes that may wait: at it ``is_full``.
        segment: bytes of a file.
        cached: bytes of entries in memory.

    Raises:
        SpoolError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int, segment: int = SEGMENT, cached: int = CACHED) -> None:
        self.folder, self.limit = folder, limit
        self._cached, self._held = cached, 0
        self._cache: deque[Entry] = deque()
        self._cache_begin = self._cache_end = 0
        self._changed = threading.Condition()
        self._lock = lock(folder)
        try:
            self._mark = Mark(folder)
            self._segments = Segments(folder, segment)
        except OSError as error:
            os.close(self._lock)
            raise SpoolError(f"--spool {folder} cannot be read: {error.strerror}: name another") from error
        first = self._segments.starts[0] if self._segments.starts else 0
        self._taken = self._mark.found or Sent(first)
        self._segments.begin_at(self._taken.place)
        self._sent = self._read = max(self._taken.place, first)
        self._oldest = 0
        #: The times of what an earlier process received last: as far as that is known.
        self.before = Sent(*map(max, self._taken, self._segments.last))

    @property
    def torn(self) -> int:
        """Bytes at the end that a killed process, or a machine that went down, had not written whole."""
        return self._segments.torn

    @property
    def skipped(self) -> int:
        """Bytes that could not be read, and were passed over; what they were lies in ``*.broken``."""
        return self._segments.skipped

    @property
    def event(self) -> int:
        """The newest event time of the frames that were taken, UTC microseconds; 0 for none."""
        return self._taken.event

    @property
    def waiting(self) -> int:
        """Bytes that were not sent."""
        return self._segments.end - self._sent

    @property
    def is_full(self) -> bool:
        """Whether no more is to be appended: the files that are kept have as many bytes as they may."""
        starts = self._segments.starts
        kept = self._segments.end - (starts[0] if starts else self._segments.end)
        return self.waiting > 0 and kept >= self.limit

    @property
    def oldest(self) -> int:
        """When the first entry that was taken and is not sent was received, UTC microseconds; 0 for none."""
        return self._oldest

    def append(self, entry: Entry) -> None:
        """Append an entry. It is not refused where the spool is full: ask ``is_full`` before.

        Raises:
            OSError: the disk refuses; nothing of it is kept.
        """
        with self._changed:
            at = self._segments.end
            self._segments.append(to_bytes(entry))
            follows = self._cache_end == at if self._cache else self._read == at
            if follows and self._held + entry.size <= self._cached:
                if not self._cache:
                    self._cache_begin = at
                self._cache.append(entry)
                self._cache_end = self._segments.end
                self._held += entry.size
            self._changed.notify_all()

    def take(self, most: int, timeout: float) -> list[Entry]:
        """Return what follows what was taken before, about ``most`` bytes of it; nothing after ``timeout``.

        Args:
            most: bytes; one entry comes at least.
            timeout: seconds.
        """
        with self._changed:
            if self._read == self._segments.end:
                self._changed.wait(timeout)
            end = self._segments.end
            found = self._from_memory(most)
            if self._cache:
                end = self._cache_begin
        if not found and self._read < end:
            found, place = self._segments.read(self._read, most, end)
            with self._changed:
                self._read = place
        if found:
            self._taken = self._taken.after(found)
            self._oldest = self._oldest or found[0].received
        return found

    def _from_memory(self, most: int) -> list[Entry]:
        found: list[Entry] = []
        if not self._cache or self._cache_begin != self._read:
            return found
        size = 0
        while self._cache and (not found or size + self._cache[0].size <= most):
            entry = self._cache.popleft()
            found.append(entry)
            size += entry.size
        self._held -= size
        self._read += size
        self._cache_begin += size
        return found

    def wake(self) -> None:
        """End a wait in ``take``."""
        with self._changed:
            self._changed.notify_all()

    def sent(self) -> None:
        """Note that everything that was taken is sent; files that hold nothing else are deleted."""
        with self._changed:
            self._sent = self._read
            self._oldest = 0
            self._taken = self._taken._replace(place=self._sent)
            self._mark.write(self._taken)
            self._segments.delete_before(self._sent)

    def sync(self, force: bool = False) -> None:
        """Have it on the disk where something waits that was received a while ago; called every second.

        While the sender keeps up nothing is synced: what a machine that goes down loses then is what it had
        not sent yet, and the hole is filled like any other.

        Args:
            force: also where nothing waits.
        """
        with self._changed:
            behind = self.waiting > 0
            files = self._segments.unsynced()
        self._segments.on_disk(files, sync=force or behind)

    def close(self) -> None:
        """Close the files, and let another process have the folder."""
        with self._changed:
            self._segments.close()
            self._mark.close()
            os.close(self._lock)
