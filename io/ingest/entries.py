"""What the spool holds: entries, as bytes that tell whether they are whole."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# A mark, the kind, the payload's bytes and count, two times; then the checksum of these and the payload.
_HEAD = struct.Struct("<HBxIIqq")
_SUM = struct.Struct("<I")
_MARK = 0xFB5E
_MARK_BYTES = struct.pack("<H", _MARK)
HEAD_BYTES = _HEAD.size + _SUM.size
#: A larger payload than this is no entry: a frame of the feed may have 16 MiB.
MOST_PAYLOAD = 64 << 20


class Kind(IntEnum):
    """What an entry is."""

    FRAMES = 1
    #: Nothing before ``event`` comes any more; has no payload.
    BEAT = 2
    #: What was missed, as ``holes.Hole`` writes it; it belongs before all that follows.
    HOLE = 3


class Entry(NamedTuple):
    """An entry of the spool.

    Attributes:
        kind: what it is.
        payload: of frames, their lengths (uint32 each), then the frames.
        frames: how many.
        event: the newest event time of it, UTC microseconds; 0 where it tells none.
        received: when it was received, UTC microseconds.
    """

    kind: Kind
    payload: bytes = b""
    frames: int = 0
    event: int = 0
    received: int = 0

    @property
    def size(self) -> int:
        """Its bytes in the spool."""
        return HEAD_BYTES + len(self.payload)


class Broken(ValueError):
    """These bytes are no whole entry."""


def frames_entry(frames: Sequence[bytes], event: int, received: int) -> Entry:
    """Return the entry of frames of the feed."""
    lengths = np.array([len(frame) for frame in frames], "<u4")
    return Entry(Kind.FRAMES, b"".join([lengths.tobytes(), *frames]), len(frames), event, received)


def frames_of(entries: Sequence[Entry]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Return the frames of entries, one behind the other, and the length of each."""
    lengths = [np.frombuffer(entry.payload, "<u4", entry.frames) for entry in entries]
    data = b"".join(memoryview(entry.payload)[4 * entry.frames :] for entry in entries)
    return data, np.concatenate(lengths).astype(np.int64)


def to_bytes(entry: Entry) -> list[bytes]:
    """Return an entry's bytes, in parts."""
    head = _HEAD.pack(_MARK, entry.kind, len(entry.payload), entry.frames, entry.event, entry.received)
    return [head, _SUM.pack(zlib.crc32(entry.payload, zlib.crc32(head))), entry.payload]


def size_of(data: bytes) -> int:
    """Return the bytes of the entry that begins with these, by what it says itself.

    Raises:
        Broken: no entry begins so.
    """
    if len(data) < HEAD_BYTES:
        raise Broken
    mark, _, length, *_ = _HEAD.unpack_from(data)
    if mark != _MARK or length > MOST_PAYLOAD:
        raise Broken
    return HEAD_BYTES + length


def read(data: bytes, at: int = 0) -> Entry | None:
    """Return the entry that begins at a place; None where the bytes end before it does.

    Raises:
        Broken: no entry begins there.
    """
    if len(data) - at < HEAD_BYTES:
        return None
    mark, kind, length, count, event, received = _HEAD.unpack_from(data, at)
    if mark != _MARK or length > MOST_PAYLOAD or kind not in (Kind.FRAMES, Kind.BEAT, Kind.HOLE):
        raise Broken
    begin = at + HEAD_BYTES
    if len(data) - begin < length:
        return None
    payload = data[begin : begin + length]
    if _SUM.unpack_from(data, at + _HEAD.size)[0] != zlib.crc32(
        payload, zlib.crc32(data[at : at + _HEAD.size])
    ):
        raise Broken
    return Entry(Kind(kind), payload, count, event, received)


def find(data: bytes, at: int = 0) -> tuple[int, Entry] | None:
    """Return the next whole entry from a place on, and where it begins; None where there is none."""
    while (at := data.find(_MARK_BYTES, at)) >= 0:
        with suppress(Broken):
            if (entry := read(data, at)) is not None:
                return at, entry
        at += 1
    return None


def read_all(data: bytes) -> Iterator[Entry]:
    """Yield whole entries from the beginning on, until the bytes end.

    Raises:
        Broken: what follows is no entry.
    """
    at = 0
    while (entry := read(data, at)) is not None:
        yield entry
        at += entry.size
