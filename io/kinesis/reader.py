"""Reading the shards of a lane: every record once, in order, within the service's quotas, whatever fails.

A position moves only when records are taken. Answers that were asked for ahead belong to a position: where
a caller comes back with another one, because what it had taken was lost in a crash, they are thrown away.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from fibflow.io.kinesis import records
from fibflow.io.kinesis.calls import Answer, fetch
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
from fibflow.io.kinesis.positions import Position, Step

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How fast and how much to read. The defaults are what the service allows.

    Attributes:
        interval: seconds from the end of a call for a shard to the next one. The service allows five a second
            for all that read the shard.
        rate: bytes a second of a shard. The service gives up to 10 MB at once, and then nothing until these
            have been paid for.
        backoff: how long to wait after failures.
        seconds: the most that a poll waits for answers.
        size: the bytes, decompressed, after which a poll takes no further record.
    """

    interval: float = 0.25
    rate: float = 2_000_000.0
    backoff: Backoff = field(default_factory=Backoff)
    seconds: float = 0.1
    size: int = 8_000_000

    @property
    def answer(self) -> int:
        """About how many bytes to ask for at once: small answers keep the rate as well as large ones."""
        return int(min(self.rate * self.interval * 2, 10_000_000))


_MOST_RECORDS = 10_000
_FIRST_RECORDS = 100
# How long to wait for the answers of other shards once there is one, seconds.
_GRACE = 0.02


class Block(NamedTuple):
    """What a poll took of a shard.

    Attributes:
        step: how far it went.
        records: a table of ``schemas.RECORDS``; may be empty.
        size: bytes as they came.
        taken: records as they came; an aggregated one is one.
    """

    step: Step
    records: pa.Table
    size: int
    taken: int


class Poll(NamedTuple):
    """What a poll brought.

    Attributes:
        blocks: at most one a shard.
        due: when the next poll can bring something, seconds since 1970.
        throttled, failed: calls that ended so.
    """

    blocks: list[Block]
    due: float
    throttled: int = 0
    failed: int = 0


class ShardReader:
    """Reads one shard from a position on. One thread at a time; only ``fetch`` runs elsewhere.

    Attributes:
        position: after the last record that was taken.
        due: when the next call may be made.
        spent: the end of the shard was taken.
    """

    def __init__(self, stream: str, shard: str, position: Position, limits: Limits) -> None:
        self.shard = shard
        self.position = position
        self.due = 0.0
        self.spent = False
        self._stream = stream
        self._limits = limits
        self._iterator: str | None = None
        self._limit = _FIRST_RECORDS
        self._failures = 0
        self._answer: Answer | None = None
        self._held: deque[dict[str, Any]] = deque()

    @property
    def holds(self) -> bool:
        """Whether there is something to take."""
        return self._answer is not None

    def arguments(self) -> tuple[str, str, Position, str | None, int]:
        """Return what to call ``fetch`` with, besides the client and the clock."""
        return self._stream, self.shard, self.position, self._iterator, self._limit

    def accept(self, answer: Answer, random: Random) -> Fault | None:
        """Take an answer in; return what was wrong with it.

        Raises:
            KinesisError: Trying again would not help.
        """
        self._iterator = answer.iterator
        self.due = answer.at + max(self._limits.interval, answer.size / self._limits.rate)
        if answer.error is None:
            self._failures = 0
            self._answer = answer
            self._held = deque(answer.records)
            if answer.records:
                wanted = self._limits.answer * len(answer.records) // max(1, answer.size)
                self._limit = min(max(1, wanted), _MOST_RECORDS)
            return None
        fault = fault_of(answer.error)
        if fault is Fault.FATAL:
            raise KinesisError(explain(answer.error, self._stream, self.shard)) from answer.error
        self._failures += 1
        if fault is Fault.EXPIRED:
            self._iterator = None
        else:
            wait_for = self._limits.backoff.delay(self._failures, random)
            self.due = max(self.due, answer.at + wait_for)
        if self._failures & (self._failures - 1) == 0:
            why = explain(answer.error, self._stream, self.shard)
            _LOGGER.warning("%s (%d in a row)", why, self._failures)
        return fault

    def take(self, most: int) -> Block:
        """Take records off the last answer and move the position behind them.

        Args:
            most: bytes, decompressed, after which to stop; one record comes at least.
        """
        answer = self._answer
        assert answer is not None
        taken, users, size, room = [], [], 0, most
        while self._held and room > 0:
            record = self._held.popleft()
            parts = records.user_records(record["PartitionKey"], record["Data"])
            taken.append(record)
            users.append(parts)
            size += len(record["Data"])
            room -= sum(len(data) for _, data in parts)
        over = not self._held
        sequence = taken[-1]["SequenceNumber"] if taken else None
        if sequence is not None:
            self.position = Position(sequence=sequence)
        quiet = None
        if over:
            self._answer = None
            self.spent = answer.children is not None
            if not answer.records and not answer.behind and not self.spent:
                quiet = int(answer.called * 1e6)
        step = Step(
            shard=self.shard,
            sequence=sequence,
            behind=answer.behind,
            ended=self.spent,
            children=(answer.children or ()) if over else (),
            quiet=quiet,
        )
        return Block(step, records.to_table(self.shard, taken, users), size, len(taken))

    def is_at(self, position: Position) -> bool:
        """Whether the next record to take is the first one after ``position``."""
        if self.spent or self.position.sequence != position.sequence:
            return False
        return position.sequence is not None or self.position.at == position.at


class LaneReader:
    """Reads the shards of one lane. Not for several threads at once.

    Args:
        client: boto3's client of Kinesis, or one like it; its own retries should be off.
        stream: name of the stream.
        limits: how fast and how much.
        clock: the time.
        sleep: waits.
        random: for backing off.
        executor: where calls are made, so that they overlap each other and the decoding of what came before;
            None makes them one after another. No more than one call a shard is under way.
    """

    def __init__(
        self,
        client: Any,
        stream: str,
        limits: Limits,
        clock: Clock,
        sleep: Sleep,
        random: Random,
        executor: Executor | None = None,
    ) -> None:
        self._client = client
        self._stream = stream
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._executor = executor
        self._readers: dict[str, ShardReader] = {}
        self._pending: dict[str, Future[Answer]] = {}

    def poll(self, positions: Mapping[str, Position]) -> Poll:
        """Take what there is after the positions, waiting a little for it.

        Where a position is not the one that the last poll left, the shard is read anew from it.

        Args:
            positions: by shard, for all shards of the lane.

        Raises:
            KinesisError: The stream cannot be read; the message says why.
        """
        self._align(positions)
        faults = self._wait()
        blocks = self._take(positions)
        if self._executor is not None:
            # What is due now comes while the caller works on what it got.
            self._submit()
        return Poll(
            blocks=blocks,
            due=self._next_due(any(block.taken for block in blocks)),
            throttled=faults.count(Fault.THROTTLED),
            failed=faults.count(Fault.BROKEN),
        )

    def _wait(self) -> list[Fault]:
        """Make the calls that are due and wait a little for their answers; return what went wrong."""
        end = self._clock() + self._limits.seconds
        faults: list[Fault] = []
        found = False
        while True:
            self._submit()
            faults += self._accept()
            now = self._clock()
            if not found and any(reader.holds for reader in self._readers.values()):
                found, end = True, min(end, now + _GRACE)
            if now >= end or (found and not self._pending):
                return faults
            if self._pending:
                wait(self._pending.values(), timeout=end - now, return_when=FIRST_COMPLETED)
                continue
            due = min((reader.due for reader in self._readers.values()), default=end)
            if due >= end:
                return faults
            self._sleep(max(0.0, due - now))

    def _align(self, positions: Mapping[str, Position]) -> None:
        """Have one reader a position, and throw the others away with what they hold."""
        for shard in list(self._readers):
            if shard not in positions or not self._readers[shard].is_at(positions[shard]):
                due = self._readers.pop(shard).due
                if shard in self._pending:
                    self._pending.pop(shard).cancel()
                if shard in positions:
                    self._add(shard, positions[shard]).due = max(due, self._clock() + self._limits.interval)
        for shard in positions:
            if shard not in self._readers:
                self._add(shard, positions[shard])

    def _add(self, shard: str, position: Position) -> ShardReader:
        self._readers[shard] = ShardReader(self._stream, shard, position, self._limits)
        return self._readers[shard]

    def _submit(self) -> None:
        """Make the calls that are due."""
        now = self._clock()
        for shard, reader in self._readers.items():
            if shard in self._pending or reader.holds or reader.spent or reader.due > now:
                continue
            call = (self._client, *reader.arguments(), self._clock)
            if self._executor is not None:
                self._pending[shard] = self._executor.submit(fetch, *call)
            else:
                self._pending[shard] = Future()
                self._pending[shard].set_result(fetch(*call))

    def _accept(self) -> list[Fault]:
        faults = []
        for shard in [shard for shard, future in self._pending.items() if future.done()]:
            fault = self._readers[shard].accept(self._pending.pop(shard).result(), self._random)
            if fault is not None:
                faults.append(fault)
        return faults

    def _take(self, positions: Mapping[str, Position]) -> list[Block]:
        """Take from the shard whose time is furthest back first: it holds the others' watermark back."""
        blocks: list[Block] = []
        room = self._limits.size
        for shard in sorted(positions, key=lambda shard: (positions[shard].newest or 0, shard)):
            reader = self._readers[shard]
            if reader.holds and room > 0:
                blocks.append(reader.take(room))
                room -= blocks[-1].records.nbytes
        return blocks

    def _next_due(self, found: bool) -> float:
        now = self._clock()
        if any(reader.holds for reader in self._readers.values()):
            return now
        times = [reader.due for shard, reader in self._readers.items() if shard not in self._pending]
        if self._pending:
            # An answer that is under way; where this poll waited for it in vain, it may take long.
            times.append(now if found else now + self._limits.interval / 4)
        return min(times, default=now)
