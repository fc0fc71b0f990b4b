"""``PutTicks``: messages into a stream, in order within a partition key, and heartbeats to every shard."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.kinesis import shards
from fibflow.io.kinesis.errors import (
    Backoff,
    Clock,
    Fault,
    KinesisError,
    Random,
    Sleep,
    explain,
    fault_of,
)
from fibflow.io.kinesis.packing import Packer, Record, aggregates_of, records_of
from fibflow.io.kinesis.shards import Shard
from fibflow.transforms.schemas import TIMESTAMP

_LOGGER = logging.getLogger(__name__)

# What the service takes in one call.
_MOST_RECORDS = 500
_MOST_BYTES = 5 << 20


@dataclass(frozen=True)
class PutOptions:
    """How to put.

    Attributes:
        messages: the most a record.
        codec: of payloads: ``none``, ``gzip`` or ``zstd``.
        aggregate: gather the records of a shard's keys in one, in the Kinesis Producer Library's format: for
            many keys that have few messages each.
        queued: bytes of packed records after which ``put`` sends.
        refresh: seconds after which the list of shards is taken anew, for heartbeats and aggregates.
        patience: seconds after which records that the service goes on refusing are an error.
        backoff: how long to wait after failures.
    """

    messages: int = 500
    codec: str = "none"
    aggregate: bool = False
    queued: int = 4 << 20
    refresh: float = 60.0
    patience: float = 120.0
    backoff: Backoff = field(default_factory=Backoff)


@dataclass
class PutCounts:
    """What was put since the beginning."""

    messages: int = 0
    records: int = 0
    bytes: int = 0
    calls: int = 0
    throttled: int = 0
    failed: int = 0
    heartbeats: int = 0


@dataclass
class _Queue:
    """The records of one key, oldest first; only the first is ever under way."""

    records: deque[Record]
    failures: int = 0
    refused_since: float | None = None
    due: float = 0.0


class PutTicks:
    """Puts messages into a stream.

    **What is guaranteed.** Each message is put at least once. Records of one partition key are put in the
    order in which their messages came: one at a time, and the next one only when the service has taken the
    one before. A record whose answer was lost is put again, so that it may be there twice, one right after
    the other. Nothing is said of the order between keys. Splits and merges keep a key's order: its new
    records are in a child of the shard that has the old ones. With ``aggregate`` they do so only as long as
    the list of shards is current.

    A shard takes 1,000 records and 1 MB a second. What it refuses is put again, and nothing else of the call;
    each key waits for itself.

    Args:
        client: boto3's client of Kinesis, or one like it; its own retries should be off.
        stream: name of the stream.
        clock: the time.
        sleep: waits.
        random: for backing off.
        options: how to put.
    """

    def __init__(
        self,
        client: Any,
        stream: str,
        clock: Clock,
        sleep: Sleep,
        random: Random,
        options: PutOptions | None = None,
    ) -> None:
        self.counts = PutCounts()
        self.newest: int | None = None
        self._client = client
        self._stream = stream
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._options = options or PutOptions()
        self._packer = Packer(self._options.messages, self._options.codec)
        self._queues: dict[str, _Queue] = {}
        self._queued = 0
        self._shards: list[Shard] = []
        self._listed: float | None = None

    def put(self, ticks: pa.Table) -> None:
        """Take messages in and send what fills records. What does not stays until more come, or ``flush``.

        Args:
            ticks: columns ``symbol`` (strings), ``message`` (one line of JSON, bytes or string) and ``ts``
                (timestamp, the event time).

        Raises:
            KinesisError: A message is too large, or the stream refuses records for too long; those are kept.
        """
        if not len(ticks):
            return
        self._packer.add(ticks)
        newest = pc.max(ticks["ts"].cast(TIMESTAMP)).cast(pa.int64()).as_py()
        if newest is not None:
            self.newest = newest if self.newest is None else max(self.newest, newest)
        self._pack(rest=False)
        self._send(until=self._options.queued)

    def put_rows(self, rows: Iterable[tuple[str, bytes, int]], size: int = 10_000) -> None:
        """Take messages in as (symbol, message, event time in UTC microseconds), ``size`` at once."""
        rows = iter(rows)
        while some := list(islice(rows, size)):
            symbols, messages, times = zip(*some, strict=True)
            self.put(
                pa.table(
                    {
                        "symbol": pa.array(symbols, pa.string()),
                        "message": pa.array(messages, pa.binary()),
                        "ts": pa.array(times, pa.int64()).cast(TIMESTAMP),
                    }
                )
            )

    def flush(self) -> None:
        """Send everything that was taken in.

        Raises:
            KinesisError: The stream refuses records for too long; those are kept.
        """
        self._pack(rest=True)
        self._send(until=0)

    def heartbeat(self, time: int | None = None) -> None:
        """Tell every open shard that nothing older than a time will come. Flushes first, so that it is true.

        Args:
            time: event time, UTC microseconds; None for the newest one that was put.

        Raises:
            KinesisError: The stream refuses records for too long.
        """
        self.flush()
        time = self.newest if time is None else time
        if time is None:
            return
        message = json.dumps({"ev": "HB", "t": time // 1000}, separators=(",", ":")).encode()
        for shard in self.open_shards():
            self._queue(Record(f"heartbeat-{shard.id}", message, str(shard.first)))
            self.counts.heartbeats += 1
        self._send(until=0)

    def open_shards(self) -> list[Shard]:
        """Return the shards that take records, by their first hash key; listed anew when the list is old.

        Raises:
            KinesisError: They cannot be listed.
        """
        now = self._clock()
        if self._listed is None or now - self._listed >= self._options.refresh:
            backoff = self._options.backoff
            found = shards.list_shards(self._client, self._stream, self._sleep, self._random, backoff)
            self._shards = sorted((shard for shard in found if shard.is_open), key=lambda shard: shard.first)
            self._listed = now
        return self._shards

    def _pack(self, rest: bool) -> None:
        payloads = self._packer.payloads(rest)
        if not self._options.aggregate:
            made = records_of(payloads)
        else:
            made = aggregates_of(payloads, self.open_shards())
        for record in made:
            self._queue(record)

    def _queue(self, record: Record) -> None:
        self._queues.setdefault(record.key, _Queue(deque())).records.append(record)
        self._queued += record.size

    def _send(self, until: int) -> None:
        """Send until at most so many bytes are queued."""
        while self._queued > until:
            batch = self._batch()
            if batch:
                self._call(batch)
            else:
                due = min(queue.due for queue in self._queues.values())
                self._sleep(max(0.0, due - self._clock()))

    def _batch(self) -> list[Record]:
        """Return the first record of each key that is not to wait, as many as one call may have."""
        now = self._clock()
        batch: list[Record] = []
        size = 0
        for queue in self._queues.values():
            if queue.due > now:
                continue
            size += queue.records[0].size
            if size > _MOST_BYTES or len(batch) == _MOST_RECORDS:
                break
            batch.append(queue.records[0])
        return batch

    def _call(self, batch: list[Record]) -> None:
        """Put records of different keys; take those off that the service took."""
        self.counts.calls += 1
        try:
            answer = self._client.put_records(
                StreamName=self._stream,
                Records=[
                    {"Data": record.data, "PartitionKey": record.key}
                    | ({"ExplicitHashKey": record.hash_key} if record.hash_key else {})
                    for record in batch
                ],
            )
        except Exception as error:
            fault = fault_of(error)
            if fault is Fault.FATAL:
                raise KinesisError(explain(error, self._stream)) from error
            self._count_fault(fault is Fault.THROTTLED)
            for record in batch:
                self._refused(record, explain(error, self._stream))
            return
        known = {shard.id for shard in self._shards}
        for record, result in zip(batch, answer["Records"], strict=True):
            if code := result.get("ErrorCode"):
                self._count_fault(code == "ProvisionedThroughputExceededException")
                self._refused(record, f"kinesis://{self._stream}: {code}: {result.get('ErrorMessage', '')}")
            else:
                self._taken(record)
                if self._listed is not None and result["ShardId"] not in known:
                    self._listed = None  # the stream was split or merged

    def _count_fault(self, throttled: bool) -> None:
        if throttled:
            self.counts.throttled += 1
        else:
            self.counts.failed += 1

    def _taken(self, record: Record) -> None:
        queue = self._queues.pop(record.key)
        queue.records.popleft()
        if queue.records:
            # To the end: keys take turns.
            self._queues[record.key] = _Queue(queue.records)
        self._queued -= record.size
        self.counts.records += 1
        self.counts.messages += record.messages
        self.counts.bytes += record.size

    def _refused(self, record: Record, why: str) -> None:
        """Have a key wait.

        Raises:
            KinesisError: It has waited for too long.
        """
        now = self._clock()
        queue = self._queues[record.key]
        queue.failures += 1
        if queue.refused_since is None:
            queue.refused_since = now
            _LOGGER.info("%s", why)
        waited = now - queue.refused_since
        queue.due = now + self._options.backoff.delay(queue.failures, self._random)
        if waited > self._options.patience:
            raise KinesisError(f"{why} (records are refused for {waited:.0f} s)")
