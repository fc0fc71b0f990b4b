"""What a Kinesis in memory is made of: its clocks, its shards, and a stream that keeps records."""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_right
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from botocore.exceptions import ClientError, ReadTimeoutError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HASH_KEYS = 1 << 128
BEGIN = 1_700_000_000.0

READS_A_SECOND = 5
READ_BYTES_A_SECOND = 2_000_000
ANSWER_BYTES = 10_000_000
ANSWER_RECORDS = 10_000
ITERATOR_SECONDS = 300.0
PUT_RECORDS_A_SECOND = 1_000
PUT_BYTES_A_SECOND = 1 << 20
#: What callers can be held to: calls and bytes of GetRecords, calls of GetShardIterator, what is put.
QUOTAS = frozenset({"reads", "read_bytes", "iterators", "puts"})


class FakeClock:
    """Stands still but for ``sleep``."""

    def __init__(self, now: float = BEGIN) -> None:
        self.now = now
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        self.slept += seconds


class WallClock(FakeClock):
    """The machine's, but never back: for what is served to other processes."""

    def __call__(self) -> float:
        self.now = max(self.now, time.time())
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(slots=True)
class Put:
    """A record as it is kept."""

    number: int
    key: str
    data: bytes
    at: float

    @property
    def size(self) -> int:
        return len(self.key) + len(self.data)


@dataclass
class FakeShard:
    id: str
    first: int
    last: int
    parent: str = ""
    adjacent: str = ""
    opened: float = 0.0
    closed: float | None = None
    begin: int = 0
    end: int | None = None
    records: list[Put] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    iterators: list[float] = field(default_factory=list)
    puts: list[tuple[float, int]] = field(default_factory=list)
    paid_until: float = 0.0


def error(code: str, message: str = "", operation: str = "Call", status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},
        operation,
    )


class FakeStream:
    """The records and shards of a stream, its quotas and its faults."""

    def __init__(
        self,
        clock: FakeClock,
        shards: int = 2,
        fault: Callable[[str], str | None] = lambda operation: None,
        page: int = 3,
        retention: float = 86_400.0,
        quotas: bool | Collection[str] = True,
        name: str = "ticks",
        begin: int = 0,
        iterator_seconds: float = ITERATOR_SECONDS,
    ) -> None:
        self.name = name
        self.lag = 0.0
        self.clock = clock
        self.fault = fault
        self.page = page
        self.retention = retention
        self.iterator_seconds = iterator_seconds
        self.quotas = QUOTAS if quotas is True else frozenset(quotas or ())
        self.made = clock()
        self.broken: list[tuple[str, str, float]] = []
        self.calls: dict[str, int] = {}
        self.deleted = False
        self.shards: dict[str, FakeShard] = {}
        self._number = begin
        step = HASH_KEYS // shards
        for n in range(shards):
            self._open(n * step, HASH_KEYS - 1 if n == shards - 1 else (n + 1) * step - 1)

    # What tests do ------------------------------------------------------------------------------------------

    @property
    def open(self) -> list[FakeShard]:
        return sorted((s for s in self.shards.values() if s.closed is None), key=lambda s: s.first)

    def put(self, key: str, data: bytes, hash_key: int | None = None) -> tuple[str, str]:
        """Keep a record, whatever the quotas; return its shard and number."""
        shard = self._taking(hash_of(key) if hash_key is None else hash_key)
        return shard.id, self._keep(shard, key, data)

    def split(self, shard: FakeShard, at: int | None = None) -> None:
        at = (shard.first + shard.last) // 2 + 1 if at is None else at
        self._close(shard)
        self._open(shard.first, at - 1, shard.id)
        self._open(at, shard.last, shard.id)

    def merge(self, first: FakeShard, second: FakeShard) -> None:
        """Merge two neighbours; the first argument becomes ``ParentShardId``."""
        self._close(first)
        self._close(second)
        self._open(min(first.first, second.first), max(first.last, second.last), first.id, second.id)

    def all(self) -> dict[tuple[str, str], bytes]:
        return {(s.id, sequence_of(r.number)): r.data for s in self.shards.values() for r in s.records}

    # What operations are made of ----------------------------------------------------------------------------

    def _call(self, operation: str, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.calls[operation] = self.calls.get(operation, 0) + 1
        if self.deleted:
            raise error(
                "ResourceNotFoundException", f"Stream {self.name} under account 1 not found.", operation
            )
        fault = self.fault(operation)
        if fault in (None, "lost"):
            made = answer()
            if fault is None:
                return made
        if fault in ("timeout", "lost"):
            raise ReadTimeoutError(endpoint_url="fake")
        if fault == "broken":
            raise error("InternalFailure", "Internal", operation, 500)
        if fault == "kms":
            raise error("KMSThrottlingException", "Rate exceeded", operation)
        if fault == "denied":
            raise error("AccessDeniedException", "not authorized", operation)
        if fault == "expired" and operation == "get_records":
            raise error("ExpiredIteratorException", "Iterator expired", operation)
        raise error("ProvisionedThroughputExceededException", "Rate exceeded", operation)

    def _open(self, first: int, last: int, parent: str = "", adjacent: str = "") -> None:
        name = f"shardId-{len(self.shards):012d}"
        self.shards[name] = FakeShard(name, first, last, parent, adjacent, self.clock(), begin=self._number)

    def _close(self, shard: FakeShard) -> None:
        shard.closed, shard.end = self.clock(), self._number

    def _taking(self, value: int) -> FakeShard:
        """Return the open shard that takes a hash key."""
        spans = self.open
        return spans[bisect_right([s.first for s in spans], value) - 1]

    def _keep(self, shard: FakeShard, key: str, data: bytes) -> str:
        self._number += 1
        shard.records.append(Put(self._number, key, data, self.clock()))
        return sequence_of(self._number)

    def _full(self, shard: FakeShard, size: int, count: bool = True) -> bool:
        """Whether a shard has had its quota of this second; else, and with ``count``, count a record in."""
        if "puts" not in self.quotas:
            return False
        now = self.clock()
        shard.puts = [put for put in shard.puts if put[0] > now - 1.0]
        if (
            len(shard.puts) >= PUT_RECORDS_A_SECOND
            or sum(put[1] for put in shard.puts) + size > PUT_BYTES_A_SECOND
        ):
            return True
        if count:
            shard.puts.append((now, size))
        return False

    def _gone(self, shard: FakeShard) -> bool:
        return shard.closed is not None and shard.closed < self.clock() - self.retention

    def _listed(self, shard: FakeShard) -> bool:
        # Of two children one is listed later.
        lag = self.lag * (1 + list(self.shards).index(shard.id) % 2)
        return not shard.parent or shard.opened <= self.clock() - lag

    def _shard(self, name: str) -> FakeShard:
        if name not in self.shards or self._gone(self.shards[name]):
            raise error("ResourceNotFoundException", f"Shard {name} in stream {self.name} does not exist")
        return self.shards[name]

    def _open_shard(self, name: str, operation: str) -> FakeShard:
        shard = self._shard(name)
        if shard.closed is not None:
            invalid(operation, f"Shard {name} in stream {self.name} is closed")
        return shard

    def _quota(self, quota: str, shard: FakeShard, calls: list[float], operation: str) -> None:
        if quota not in self.quotas:
            return
        now = self.clock()
        calls[:] = [at for at in calls if at > now - 1.0]
        calls.append(now)
        if len(calls) > READS_A_SECOND:
            self.broken.append((operation, shard.id, now))
            raise error("ProvisionedThroughputExceededException", "Rate exceeded", operation)

    def _page(self, after: str, most: int) -> tuple[list[dict[str, Any]], bool]:
        """Return shards after one, and whether there are more."""
        kept = [s for s in self.shards.values() if not self._gone(s) and self._listed(s) and s.id > after]
        return [self._plain(shard) for shard in kept[:most]], len(kept) > most

    def _about(self) -> dict[str, Any]:
        return {
            "StreamName": self.name,
            "StreamARN": f"arn:aws:kinesis:us-east-1:000000000001:stream/{self.name}",
            "StreamStatus": "ACTIVE",
            "StreamModeDetails": {"StreamMode": "PROVISIONED"},
            "RetentionPeriodHours": max(24, int(self.retention // 3600)),
            "StreamCreationTimestamp": EPOCH + timedelta(seconds=self.made),
            "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
            "EncryptionType": "NONE",
        }

    def _plain(self, shard: FakeShard) -> dict[str, Any]:
        numbers = {"StartingSequenceNumber": sequence_of(shard.begin)}
        if shard.end is not None:
            numbers["EndingSequenceNumber"] = sequence_of(shard.end)
        plain = {
            "ShardId": shard.id,
            "HashKeyRange": {"StartingHashKey": str(shard.first), "EndingHashKey": str(shard.last)},
            "SequenceNumberRange": numbers,
        }
        # A parent's name stays where its records are gone.
        if shard.parent:
            plain["ParentShardId"] = shard.parent
        if shard.adjacent:
            plain["AdjacentParentShardId"] = shard.adjacent
        return plain


def hash_of(key: str) -> int:
    return int(hashlib.md5(key.encode()).hexdigest(), 16)


def sequence_of(number: int) -> str:
    return f"4966{number:052d}"


def number_of(sequence: str) -> int:
    if len(sequence) != 56 or not sequence.startswith("4966") or not sequence.isdecimal():
        invalid("Call", f"{sequence!r} is no sequence number")
    return int(sequence[4:])


def invalid(operation: str, message: str) -> NoReturn:
    raise error("InvalidArgumentException", message, operation)


def parts_of(token: str, count: int) -> list[str]:
    parts = token.split("@")
    if len(parts) != count:
        invalid("Call", f"{token!r} was not made here")
    return parts


def size_of(operation: str, record: dict[str, Any]) -> int:
    """Return the size of a record that may be put."""
    key = record.get("PartitionKey") or ""
    size = len(record["Data"]) + len(key)
    if not 1 <= len(key) <= 256 or size > 1 << 20:
        invalid(operation, "a record may have 1 MiB, its key 1 to 256 characters")
    return size


def hash_key_of(operation: str, key: str, explicit: str | None) -> int:
    if not explicit:
        return hash_of(key)
    if not explicit.isdecimal() or int(explicit) >= HASH_KEYS:
        invalid(operation, f"{explicit!r} is no hash key")
    return int(explicit)
