"""What the benchmark reads: tapes of trades, made once, and a stream that is filled with them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io.kinesis.packing import Record
from fibflow.io.kinesis.shards import list_shards
from fibflow.pipelines import tape
from fibflow.pipelines.replay import make_ready
from fibflow.transforms.buckets import buckets_of
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow

#: Three sessions in a row, of full length.
SESSIONS = ("2024-11-25", "2024-11-26", "2024-11-27")
SEED = 7
#: Out-of-orderness, and some more.
_PAST_US = 120_000_000
_DIGITS = 40
_CALL_BYTES = 4 << 20
_CALL_RECORDS = 500
#: Shares for each trade of a busy tape.
_SHARES = 100


def saved_tape(
    data: Path, calendar: TradingCalendar, symbols: int, trades: int, session: str, minutes: int = 0
) -> tape.SavedTape:
    """Return the tape of one session, made where it is not there: trades in time order, nothing disturbed.

    It does not end the session: a heartbeat at ``end_of`` does, when what is measured has been.

    Args:
        data: the folder of tapes.
        calendar: has the session.
        symbols: how many.
        trades: of all symbols together, about.
        session: its date.
        minutes: all trades are in so many minutes from the open on; 0: in the whole session, extended hours
            too.
    """
    path = data / f"tape-{symbols}-{trades}-{session}{f'-{minutes}m' if minutes else ''}.arrow"
    if not path.exists():
        day = np.array([session], "datetime64[D]").astype(np.int32)
        rng = np.random.default_rng([SEED, 5])
        rows = tape.synthetic_daily(symbols, day, rng)
        if minutes:
            rows = first_minutes(rows, int(calendar.opens[calendar.positions(day)][0]), minutes, trades, rng)
        made = tape.make(rows, calendar, trades=trades / symbols, seed=SEED, final_heartbeat=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        tape.save(made, part)
        part.rename(path)
    return tape.SavedTape(path)


def first_minutes(
    days: pa.Table, open_: int, minutes: int, trades: int, rng: np.random.Generator
) -> pa.Table:
    """Return minute rows of a busy time from an open on, with volumes for so many trades.

    Args:
        days: daily rows of one session.
        open_: when it begins, UTC microseconds.
        minutes: how many of each symbol.
        trades: of all together.
        rng: of the prices.
    """
    n = len(days)
    moves = rng.normal(0, 0.0005, (n, minutes))
    closes = np.maximum(days["open"].to_numpy()[:, None] * np.exp(np.cumsum(moves, axis=1)), 0.01).round(4)
    opens = np.concatenate((closes[:, :1], closes[:, :-1]), axis=1)
    shares = np.sqrt(days["volume"].to_numpy())
    volumes = np.maximum(shares / shares.sum() * trades / minutes * _SHARES, 100.0)
    columns: dict[str, Any] = {
        "symbol": days["symbol"].take(as_arrow(np.repeat(np.arange(n), minutes))),
        "ts": np.tile(open_ + np.arange(minutes) * 60_000_000, n).astype("datetime64[us]"),
        "open": opens.ravel(),
        "high": np.maximum(opens, closes).ravel(),
        "low": np.minimum(opens, closes).ravel(),
        "close": closes.ravel(),
        "volume": np.repeat(np.floor(volumes), minutes),
    }
    return pa.table(columns)


class ShardFiller:
    """Packs messages in time order into records of ``messages`` each, a run of them a shard.

    A symbol's messages are all in one shard, in their order. A heartbeat goes to every shard, behind the
    messages that came before it: into a record of its own once the record that was being filled is full.

    Args:
        shards: how many there are.
        messages: in a record.
    """

    def __init__(self, shards: int, messages: int = 500) -> None:
        self._messages = messages
        self._waiting: list[list[bytes]] = [[] for _ in range(shards)]
        #: The heartbeat that waits, and how many messages go before it.
        self._beats: list[tuple[bytes, int] | None] = [None] * shards

    def add(self, block: pa.Table) -> Iterator[tuple[int, bytes, int]]:
        """Take a block of ``tape.MESSAGES`` and yield (shard, payload, messages) of what is full."""
        beats: npt.NDArray[Any] = np.flatnonzero(block["symbol"].is_null().to_numpy(zero_copy_only=False))
        begin = 0
        for beat in (*beats.tolist(), len(block)):
            yield from self._trades(block.slice(begin, beat - begin))
            if beat < len(block):
                beat_ms = block["ts"][beat].cast(pa.int64()).as_py() // 1000
                line = b'{"ev":"HB","t":%d}' % beat_ms
                self._beats = [(line, len(waiting)) for waiting in self._waiting]
            begin = beat + 1

    def rest(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield what is left."""
        for shard in range(len(self._waiting)):
            yield from self._take(shard, 1)

    def _trades(self, block: pa.Table) -> Iterator[tuple[int, bytes, int]]:
        if not len(block):
            return
        shard_of = buckets_of(block["symbol"]) % len(self._waiting)
        column: Any = block["message"].combine_chunks()
        for shard in range(len(self._waiting)):
            own: list[Any] = column.take(as_arrow(np.flatnonzero(shard_of == shard))).to_pylist()
            self._waiting[shard] += own
            yield from self._take(shard, self._messages)

    def _take(self, shard: int, least: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield payloads of a shard while there are as many messages, then the heartbeat that is due."""
        waiting, at = self._waiting[shard], 0
        while len(waiting) - at >= least:
            some = waiting[at : at + self._messages]
            yield shard, b"\n".join(some), len(some)
            at += len(some)
        del waiting[:at]
        if (beat := self._beats[shard]) is not None:
            line, before = beat[0], beat[1] - at
            self._beats[shard] = (line, before) if before > 0 else None
            if before <= 0:
                yield shard, line, 0


class Stream:
    """A stream of the emulator.

    Args:
        client: boto3's.
        name: its name.
        shards: how many it gets where it is not there.
    """

    def __init__(self, client: Any, name: str, shards: int) -> None:
        self.client, self.name = client, name
        make_ready(client, name, shards, time.monotonic, time.sleep)
        found = list_shards(client, name, time.sleep, random.Random(0).random)
        self._firsts = sorted(str(each.first).zfill(_DIGITS) for each in found if each.is_open)

    def fill(self, messages: tape.Messages, begin: float = 0.0, until: float = 1.0) -> int:
        """Put a part of a tape in and return how many trades that were.

        Args:
            messages: the tape.
            begin, until: which part, of all its messages.
        """
        size = len(messages.sent)
        return sum(self._put(batch) for batch in batches(self._records(messages, begin * size, until * size)))

    def heartbeat(self, ts: int) -> None:
        """Tell every shard that nothing older than ``ts``, UTC microseconds, will come."""
        line = b'{"ev":"HB","t":%d}' % (ts // 1000)
        self._put([self._record(shard, line, 0) for shard in range(len(self._firsts))])

    def delete(self) -> None:
        """Forget all of it."""
        self.client.delete_stream(StreamName=self.name)

    def _records(self, messages: tape.Messages, begin: float, until: float) -> Iterator[Record]:
        filler = ShardFiller(len(self._firsts))
        first, last, place = round(begin), round(until), 0
        for block in messages.blocks():
            low, high = max(first - place, 0), min(last - place, len(block))
            place += len(block)
            if high > low:
                for each in filler.add(block.slice(low, high - low)):
                    yield self._record(*each)
        for each in filler.rest():
            yield self._record(*each)

    def _record(self, shard: int, data: bytes, messages: int) -> Record:
        return Record(f"shard-{shard}", data, str(int(self._firsts[shard])), messages)

    def _put(self, records: Sequence[Record]) -> int:
        """Put records and return how many messages they hold.

        Raises:
            RuntimeError: the emulator refused some.
        """
        plain = [
            {"Data": each.data, "PartitionKey": each.key, "ExplicitHashKey": each.hash_key}
            for each in records
        ]
        refused = self.client.put_records(StreamName=self.name, Records=plain)["FailedRecordCount"]
        if refused:
            raise RuntimeError(f"{refused} records were refused: the emulator is in trouble")
        return sum(each.messages for each in records)


def end_of(session: str, calendar: TradingCalendar, lateness_us: int) -> int:
    """Return a time past all windows of a session and their lateness, UTC microseconds."""
    day = np.array([session], "datetime64[D]").astype(np.int32)
    return int(calendar.day_ends[calendar.positions(day)][0]) + lateness_us + _PAST_US


def batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield records in calls as large as the service takes."""
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (size + record.size > _CALL_BYTES or len(batch) == _CALL_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record.size
    if batch:
        yield batch
