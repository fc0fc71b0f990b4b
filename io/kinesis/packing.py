"""Ticks to records: which messages go into one record, and what its bytes are. Pure."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.records import UserRecord, aggregate, compress
from fibflow.io.kinesis.shards import Shard
from fibflow.transforms.buckets import BUCKETS, buckets_of

#: Columns of ticks to be put: ``message`` is one line of JSON without its end, ``ts`` its event time.
TICKS_TO_PUT = ("symbol", "message", "ts")

#: What the service takes as one record, key included.
MOST_RECORD = 1 << 20
# What an aggregate adds for each user record and for itself, at most; and what packing may add to a payload.
_FRAME = 32
_SLACK = 4096
#: What a message has to be smaller than.
MOST_MESSAGE = MOST_RECORD - _SLACK


class Record(NamedTuple):
    """A record to be put.

    Attributes:
        key: its partition key.
        data: its payload.
        hash_key: sends it to the shard that holds this hash key; empty for the key's own.
        messages: how many messages it holds.
    """

    key: str
    data: bytes
    hash_key: str = ""
    messages: int = 0

    @property
    def size(self) -> int:
        """Bytes as the service counts them."""
        return len(self.data) + len(self.key)


def key_of(bucket: int) -> str:
    """Return the partition key of a bucket, ``b017``."""
    return f"b{bucket:03d}"


def hash_of(key: str) -> int:
    """Return the hash key of a partition key, as the service has it."""
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest())


def shard_of(hash_key: int, open_shards: Sequence[Shard]) -> Shard:
    """Return which of the open shards, sorted by ``first``, takes a hash key."""
    return open_shards[max(0, bisect_right([shard.first for shard in open_shards], hash_key) - 1)]


@dataclass
class _Waiting:
    """The messages of a bucket that are not in a record yet."""

    messages: deque[bytes]
    size: int = 0


class Packer:
    """Gathers messages by bucket and packs those of one bucket into payloads, in order.

    Args:
        messages: the most a payload.
        codec: ``none``, ``gzip`` or ``zstd``.
    """

    def __init__(self, messages: int = 500, codec: str = "none") -> None:
        if messages < 1:
            raise ValueError("a record holds at least one message")
        compress(b"", codec)
        self._most = messages
        self._codec = codec
        self._waiting = [_Waiting(deque()) for _ in range(BUCKETS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, ticks: pa.Table) -> None:
        """Take messages in.

        Args:
            ticks: columns ``symbol`` (strings) and ``message`` (bytes or strings).

        Raises:
            KinesisError: A message is larger than a record may be. Nothing was taken in.
        """
        if not len(ticks):
            return
        column: Any = ticks["message"].combine_chunks().cast(pa.binary())
        sizes: Any = pc.binary_length(column).to_numpy(zero_copy_only=False)
        if column.null_count or sizes.max() >= MOST_MESSAGE:
            raise KinesisError(
                f"a message is null, or has more than {MOST_MESSAGE} bytes, what a record may have: "
                "leave it out"
            )
        buckets = buckets_of(ticks["symbol"]).astype(np.uint8)
        order = np.argsort(buckets, kind="stable")
        index: Any = pa.array(order)
        messages: list[bytes] = column.take(index).to_pylist()
        sizes = sizes[order]
        starts = np.flatnonzero(np.diff(buckets[order].astype(np.int64), prepend=-1))
        stops = np.append(starts[1:], len(order))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            waiting = self._waiting[int(buckets[order[start]])]
            waiting.messages.extend(messages[start:stop])
            waiting.size += int(sizes[start:stop].sum()) + stop - start
        self._count += len(messages)

    def payloads(self, rest: bool) -> Iterator[tuple[int, bytes, int]]:
        """Yield (bucket, payload, messages) of each payload that is full; with ``rest`` of the others too."""
        for bucket, waiting in enumerate(self._waiting):
            while waiting.messages and (
                rest or len(waiting.messages) >= self._most or waiting.size > MOST_RECORD - _SLACK
            ):
                lines: list[bytes] = []
                room = MOST_RECORD - _SLACK
                while waiting.messages and len(lines) < self._most and len(waiting.messages[0]) < room:
                    line = waiting.messages.popleft()
                    lines.append(line)
                    room -= len(line) + 1
                waiting.size -= MOST_RECORD - _SLACK - room
                self._count -= len(lines)
                yield bucket, compress(b"\n".join(lines), self._codec), len(lines)


def records_of(payloads: Iterator[tuple[int, bytes, int]]) -> Iterator[Record]:
    """Yield a record a payload."""
    for bucket, data, messages in payloads:
        yield Record(key_of(bucket), data, messages=messages)


def aggregates_of(
    payloads: Iterator[tuple[int, bytes, int]], open_shards: Sequence[Shard]
) -> Iterator[Record]:
    """Yield records that each hold the payloads of several buckets of one shard, in order.

    Args:
        payloads: (bucket, payload, messages).
        open_shards: sorted by ``first``.
    """
    gathered: dict[str, tuple[Shard, list[UserRecord], list[int]]] = {}
    sizes: dict[str, int] = {}
    for bucket, data, messages in payloads:
        key = key_of(bucket)
        shard = shard_of(hash_of(key), open_shards)
        size = len(data) + len(key) + _FRAME
        if shard.id in gathered and sizes[shard.id] + size > MOST_RECORD - _SLACK:
            yield _aggregate(*gathered.pop(shard.id))
            sizes[shard.id] = 0
        _, users, counts = gathered.setdefault(shard.id, (shard, [], []))
        users.append((key, data))
        counts.append(messages)
        sizes[shard.id] = sizes.get(shard.id, 0) + size
    for parts in gathered.values():
        yield _aggregate(*parts)


def _aggregate(shard: Shard, users: list[UserRecord], counts: list[int]) -> Record:
    # One key and place a shard, so that its records stay in order.
    return Record(shard.id, aggregate(users), str(shard.first), sum(counts))
