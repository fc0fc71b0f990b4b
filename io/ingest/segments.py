"""The files of a spool: a log of bytes in segments, each named by the place of its first byte."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from fibflow.io.ingest.entries import HEAD_BYTES, Broken, Entry, Kind, find, read, size_of

_SUFFIX = ".spool"
_BROKEN = ".broken"
_MARK = struct.Struct("<4q")
_SUM = struct.Struct("<I")
_LOCK = "lock"


class SpoolError(Exception):
    """The spool cannot be used. The message is one line that says what to do."""


def lock(folder: Path) -> int:
    """Make the folder, and hold it for this process; returns what to close at the end.

    Raises:
        SpoolError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolError(f"--spool {folder} cannot be written: {error.strerror}: name another") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise SpoolError(f"--spool {folder} is used by another ingest: name another, or stop it") from error
    return held


class Sent(NamedTuple):
    """How far a spool was sent.

    Attributes:
        place: up to here.
        event: the newest event time of frames until there, UTC microseconds; 0 for none.
        beat: the last heartbeat's time; 0 for none.
        received: when the newest of it was received, UTC microseconds.
    """

    place: int = 0
    event: int = 0
    beat: int = 0
    received: int = 0

    def after(self, entries: Iterable[Entry]) -> Sent:
        """Return it with the times of entries that follow."""
        event, beat, received = self.event, self.beat, self.received
        for entry in entries:
            if entry.kind is Kind.BEAT:
                beat = max(beat, entry.event)
            event = max(event, entry.event) if entry.kind is Kind.FRAMES else event
            received = max(received, entry.received)
        return Sent(self.place, event, beat, received)


class Mark:
    """Keeps how far a spool was sent: one small file, written in place.

    Args:
        folder: the spool's.
    """

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "sent", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        #: What is there; None where nothing legible is.
        self.found: Sent | None = None
        held = os.pread(self._file, _MARK.size + _SUM.size, 0)
        if len(held) == _MARK.size + _SUM.size:
            numbers = held[: _MARK.size]
            if _SUM.unpack(held[_MARK.size :])[0] == zlib.crc32(numbers):
                self.found = Sent(*_MARK.unpack(numbers))

    def write(self, sent: Sent) -> None:
        """Note how far it was sent."""
        numbers = _MARK.pack(*sent)
        os.pwrite(self._file, numbers + _SUM.pack(zlib.crc32(numbers)), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Segments:
    """The segments of a folder. One thread writes; another one reads and deletes what lies behind it.

    Args:
        folder: holds them.
        size: bytes after which the next one begins.

    Attributes:
        starts: where each begins, ascending; the last one is written.
        end: where the log ends.
        torn: bytes that were cut off the end because no whole entry was there: a write that never ended.
        skipped: bytes that were passed over because no entry could be read.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self.torn = self.skipped = 0
        self.starts = sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal())
        self.end = 0
        #: The whole entries of the last segment, their times only.
        self.last = Sent()
        self._file: int | None = None
        self._unsynced: list[int] = []
        self._synced = 0
        self._reading: tuple[int, int] | None = None
        if self.starts:
            self._mend()

    def _mend(self) -> None:
        """Cut off what a process left half written at the end: what no whole entry follows."""
        start = self.starts[-1]
        path = self._path(start)
        data = path.read_bytes()
        at = 0
        while found := find(data, at):
            begin, entry = found
            self.last = self.last.after([entry])
            at = begin + entry.size
        try:
            read(data, at)
        except Broken:  # not a write that was cut short: somebody may want to look at it
            self._put_aside(start, start + at, data[at:])
        if at < len(data):
            self.torn = len(data) - at
            os.truncate(path, at)
        self.end = start + at
        if at < self._size:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:020}{_SUFFIX}"

    def begin_at(self, place: int) -> None:
        """Go on at a place behind the end: what lay before it was sent, and is gone."""
        if place > self.end or not self.starts:
            self.end = max(place, self.end)
            self._close()

    def append(self, parts: Sequence[bytes]) -> None:
        """Write at the end.

        Raises:
            OSError: the disk refuses; nothing of it is kept.
        """
        if self._file is None or self.end - self.starts[-1] >= self._size:
            self._begin()
        assert self._file is not None
        size = sum(map(len, parts))
        done = 0
        try:
            done = os.writev(self._file, parts)
            if done < size:  # the disk is full, or nearly
                rest = memoryview(b"".join(parts))[done:]
                while len(rest):
                    wrote = os.write(self._file, rest)
                    done += wrote
                    rest = rest[wrote:]
        except OSError:
            try:
                os.ftruncate(self._file, self.end - self.starts[-1])
            except OSError:  # what follows must not lie behind it
                self._close()
            raise
        self.end += size

    def _begin(self) -> None:
        file = os.open(
            self._path(self.end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        self._close()
        self._file = file
        if self.starts[-1:] != [self.end]:
            self.starts.append(self.end)

    def _close(self) -> None:
        if self._file is not None:
            self._unsynced.append(self._file)
            self._file = None

    def read(self, place: int, most: int, end: int) -> tuple[list[Entry], int]:
        """Return entries from a place on, and where they end.

        Args:
            place: where to begin.
            most: about so many bytes; one entry at least.
            end: where to end at the latest.
        """
        found: list[Entry] = []
        while place < end and not found:
            begins = [start for start in list(self.starts) if start <= place]
            following = min((start for start in list(self.starts) if start > place), default=end)
            if not begins:  # the file is gone
                self.skipped += following - place
                place = following
                continue
            until = min(following, end)
            try:
                found = self._whole(begins[-1], place, min(most, until - place), until)
                place += sum(entry.size for entry in found)
            except Broken:
                place = self._pass_over(begins[-1], place, until)
        return found, place

    def _whole(self, start: int, place: int, most: int, until: int) -> list[Entry]:
        """Return entries of a segment, one at least.

        Raises:
            Broken: none begins there.
        """
        file = self._opened(start)
        data = self._pread(file, place - start, max(most, HEAD_BYTES))
        missing = min(size_of(data), until - place) - len(data)
        if missing > 0:
            data += self._pread(file, place - start + len(data), missing)
        found: list[Entry] = []
        at = 0
        try:
            while (entry := read(data, at)) is not None and place + at + entry.size <= until:
                found.append(entry)
                at += entry.size
        except Broken:
            if not found:
                raise
        if not found:
            raise Broken
        return found

    def _pass_over(self, start: int, place: int, until: int) -> int:
        """Put aside what is no entry, and return where the next whole one of the segment begins."""
        data = self._pread(self._opened(start), place - start, until - place)
        following = find(data, 1)
        size = following[0] if following else until - place
        self.skipped += size
        with suppress(OSError):
            self._put_aside(start, place, data[:size])
        return place + size

    def _put_aside(self, start: int, place: int, data: bytes) -> None:
        """Keep bytes of a segment that is deleted later in a file of their own: none is written over."""
        for number in count():
            name = f"{start:020}-{place:020}{f'-{number}' if number else ''}{_BROKEN}"
            path = self._folder / name
            if not data or (path.exists() and path.read_bytes() == data):
                return
            with suppress(FileExistsError), path.open("xb") as file:
                file.write(data)
                return

    def _opened(self, start: int) -> int:
        if self._reading is None or self._reading[0] != start:
            if self._reading is not None:
                os.close(self._reading[1])
            self._reading = start, os.open(self._path(start), os.O_RDONLY | os.O_CLOEXEC)
        return self._reading[1]

    def _pread(self, file: int, at: int, size: int) -> bytes:
        parts = []
        while size > 0 and (part := os.pread(file, size, at)):
            parts.append(part)
            at += len(part)
            size -= len(part)
        return b"".join(parts)

    def delete_before(self, place: int) -> None:
        """Delete the segments that end at or before a place; the last one stays."""
        while len(self.starts) > 1 and self.starts[1] <= place:
            with suppress(FileNotFoundError):
                self._path(self.starts[0]).unlink()
            del self.starts[0]

    def unsynced(self) -> list[int]:
        """Return the files that were written since the last time, opened, for ``on_disk``."""
        files, self._unsynced = self._unsynced, []
        if self._file is not None and self.end > self._synced:
            files.append(os.dup(self._file))
        self._synced = self.end
        return files

    def on_disk(self, files: Sequence[int], sync: bool) -> None:
        """Have files on the disk, and close them; without ``sync`` close them only."""
        try:
            if sync and files:
                for file in files:
                    os.fsync(file)
                folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        finally:
            for file in files:
                os.close(file)

    def close(self) -> None:
        """Close the files."""
        self._close()
        self.on_disk(self.unsynced(), sync=False)
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None
