"""The live store: last prices, open bars and the last closed bars in Redis. No Beam.

Written by the stream, read by servers. Whatever is written twice, again after a restore, or by a late retry
leaves what the job's own order would leave; ``docs/live-store.md`` says how, and what each key holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import redis

from fibflow.io import livestore_scripts as scripts
from fibflow.io.liverecords import (
    BAR,
    FINAL,
    LAYOUT,
    PRICE,
    Packed,
    frame_of,
    group_bars,
    list_names,
    pack_bars,
    pack_prices,
    seconds,
    unpack_bars,
    unpack_prices,
)
from fibflow.io.liveredis import Call, Connection, Patience, another_store
from fibflow.io.redisaddress import split_password
from fibflow.transforms.buckets import BUCKETS, bucket_of
from fibflow.transforms.openbars import Flush
from fibflow.transforms.partials import as_arrow, newest
from fibflow.transforms.timeframe import Timeframe

#: The keys of open bars: of minutes and hours, and of days.
_OPEN = ("open", "days")
#: How many closed bars of a (symbol, timeframe) are kept.
KEEP = 500
#: About how many bytes of ``push`` are kept.
BACKLOG = 128 << 20

# A call of a script holds Redis up for some milliseconds at most.
_ROWS_A_CALL = 2_000
_LISTS_A_CALL = 250
_PRICES_A_CALL = 3_000
_CALLS_AT_ONCE = 64
_MOST_KEPT = 0xFFFF

T = TypeVar("T")
_Named = list[tuple[str | bytes, bytes]]


@dataclass(frozen=True)
class Status:
    """What is known of a store.

    Attributes:
        generation: names the store from when it was empty; None: it is empty.
        marker: changes with the generation, and with each restart and failover of the server.
        filled: closed bars were filled from the lake since then. Until then lists may lack bars.
    """

    generation: str | None
    marker: str
    filled: bool


@dataclass
class LiveStore:
    """A live store, for writing and reading. Opens its connections at the first call; pickle it before that.

    Attributes:
        url: ``redis://``, ``rediss://`` or ``unix://``, with user and database where needed; and a password,
            which is not pickled. Without one it is ``REDIS_PASSWORD`` of the process that asks.
        prefix: begins every key, so that several stores can share a server.
        buckets: of symbols; the job's.
        keep: how many closed bars of a (symbol, timeframe), up to 65,535.
        backlog: about how many bytes of entries ``push`` keeps, but 16 entries at least and 10,000 at most.
        timeout_s: of one answer.
        patience: how long a call waits for Redis to come back.

    Every method raises ``LiveStoreError`` when Redis stays away, refuses, or holds a store of another layout.
    """

    url: str = field(repr=False)
    prefix: str = "fibflow"
    buckets: int = BUCKETS
    keep: int = KEEP
    backlog: int = BACKLOG
    timeout_s: float = 5.0
    patience: Patience = field(default_factory=Patience)
    connection: Connection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= _MOST_KEPT or self.buckets < 1 or self.backlog < 1:
            raise ValueError(f"keep takes 1 to {_MOST_KEPT}, buckets and backlog 1 or more")
        self.connection = Connection(self.url, self.timeout_s, self.patience)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the password out, and what is open: a pickled store lies in a job's graph."""
        url, _ = split_password(self.url)
        return {**vars(self), "url": url, "connection": Connection(url, self.timeout_s, self.patience)}

    def __enter__(self) -> LiveStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self.connection.close()

    def key(self, *parts: str | int) -> str:
        """Return a key. The braces keep all keys in one slot of a cluster, as scripts need them."""
        return ":".join(("{" + self.prefix + "}", *map(str, parts)))

    # Writing.

    def write_prices(self, prices: pa.Table) -> int:
        """Move last prices forward; return how many were newer, by (ts, seq), than what was there.

        Args:
            prices: of ``liverecords.PRICES``, a symbol at most once.
        """
        packed = pack_prices(prices)
        parts = (
            packed.slice(at, min(at + _PRICES_A_CALL, len(packed)))
            for at in range(0, len(packed), _PRICES_A_CALL)
        )
        return self._write(scripts.WRITE_PRICES, (([self.key("last")], part.parts()) for part in parts))

    def write_open(self, flushes: Iterable[Flush]) -> int:
        """Write open bars; return how many. A flush older than the last of its bucket and kind is dropped.

        What a flush holds of a symbol takes the place of all that was open of it, of the kind.
        """
        return self._write(scripts.WRITE_OPEN, map(self._open_call, flushes))

    def _open_call(self, flush: Flush) -> Call:
        parts = group_bars(flush.bars, seconds(flush.stamp)).parts()
        keys = [self.key(_OPEN[flush.of_days], flush.bucket), self.key("stamps")]
        return keys, [flush.bucket, flush.stamp, int(flush.whole), *parts, int(flush.of_days)]

    def write_closed(self, bars: pa.Table, written: int, push: bool = True) -> int:
        """Write closed bars, in any order, into the lists of the last ones; return how many were taken.

        A bar takes the place of one of its window that was not written later; within a second the higher
        revision stays, then the final one.

        Args:
            bars: of ``schemas.BARS`` or ``partials.BAR_BATCH``.
            written: when, UTC microseconds; 0 loses to any bar that a stream wrote.
            push: whether readers of ``push`` learn of them.
        """
        packed = pack_bars(bars, seconds(written))
        packed, starts = _by_list(Packed(list_names(bars["timeframe"], packed.names), packed.rows), self.keep)
        return self._write(scripts.WRITE_CLOSED, self._closed_calls(packed, starts, push))

    def _closed_calls(self, packed: Packed, starts: npt.NDArray[np.int64], push: bool) -> Iterator[Call]:
        head = self.key("closed", "")
        for first, last in _lists_of_calls(starts):
            rows = packed.rows[starts[first] : starts[last]].tobytes()
            counts = np.diff(starts[first : last + 1]).astype("<u2").tobytes()
            names = packed.names.take(as_arrow(starts[first:last])).to_pylist()
            yield [head + name for name in names], [self.keep, int(push), len(head.encode()), counts, rows]

    def _write(self, script: scripts.Script, calls: Iterable[Call]) -> int:
        shared, head = [self.key("meta"), self.key("push")], [LAYOUT, self.buckets, self.backlog]
        waiting, taken = iter(calls), 0
        while part := [([*shared, *keys], [*head, *rest]) for keys, rest in islice(waiting, _CALLS_AT_ONCE)]:
            taken += sum(answer[1] for answer in self.connection.call(script, part))
        return taken

    # Filling again.

    def status(self) -> Status:
        """Return what is known of the store; makes nothing. Servers ask this before they read.

        Raises:
            LiveStoreError: also where it is of another layout, or has other buckets.
        """

        def question(client: redis.Redis) -> list[Any]:
            pipe: Any = client.pipeline(transaction=False)
            return pipe.hgetall(self.key("meta")).info("server").execute()

        found, server = self.connection.ask(question)
        known = {name.decode(): value.decode() for name, value in found.items()}
        theirs = known.get("layout"), known.get("buckets")
        if known and theirs != (str(LAYOUT), str(self.buckets)):
            raise another_store(*theirs)
        generation = known.get("generation", "")
        marker = f"{generation}/{server.get('run_id', '')}"
        return Status(generation or None, marker, known.get("filled") == marker)

    def marker(self) -> str:
        """Return the marker of ``status``; makes the store where it is empty."""
        self._write(scripts.TOUCH, [([], [])])
        return self.status().marker

    def claim_fill(self, owner: str, for_s: int) -> bool:
        """Return whether nobody else is filling closed bars. The owner's next call renews the claim."""
        key = self.key("fill")

        def question(client: redis.Redis) -> bool:
            if client.set(key, owner, nx=True, ex=for_s):
                return True
            return client.get(key) == owner.encode() and bool(client.expire(key, for_s))

        return self.connection.ask(question)

    def mark_filled(self, owner: str, marker: str) -> bool:
        """Say that closed bars are filled; False where the store or the claim is another now."""
        keys = [self.key("meta"), self.key("push"), self.key("fill")]
        arguments = [marker.split("/")[0], owner, marker]
        return bool(self.connection.call(scripts.FILLED, [(keys, arguments)])[0])

    # Reading.

    def last_prices(self, symbols: Sequence[str] | None = None) -> pa.Table:
        """Return last prices (``liverecords.PRICES``) of symbols, in their order, or of all, sorted.

        A symbol without one is left out.
        """
        found = self._hashes({self.key("last"): None if symbols is None else list(symbols)})
        prices = unpack_prices(_packed(found, PRICE))
        return prices.sort_by("symbol") if symbols is None else prices

    def open_bars(
        self, symbols: Sequence[str] | None = None, timeframes: Sequence[str] | None = None
    ) -> pa.Table:
        """Return open bars (``schemas.BARS``), sorted by symbol, timeframe and ts; None is all of them.

        A (symbol, timeframe) has two while trades of a window come before the one before it has ended.
        """
        by_bucket: dict[int, list[str]] = {}
        for symbol in symbols or ():
            by_bucket.setdefault(bucket_of(symbol, self.buckets), []).append(symbol)
        asked = dict.fromkeys(range(self.buckets)) if symbols is None else by_bucket
        keys = {self.key(kind, bucket): names for bucket, names in asked.items() for kind in _OPEN}
        bars = unpack_bars(_packed(self._hashes(keys), BAR))
        if timeframes is not None:
            wanted = pa.array(list(timeframes), pa.string())
            bars = bars.filter(pc.is_in(bars["timeframe"], value_set=wanted))
        return bars.sort_by([("symbol", "ascending"), ("timeframe", "ascending"), ("ts", "ascending")])

    def closed_bars(self, symbol: str, timeframe: str, limit: int = KEEP) -> pa.Table:
        """Return the last closed bars (``schemas.BARS``) of a symbol, oldest first."""
        return self._bars(symbol, timeframe, limit, with_open=False)

    def latest_bars(self, symbol: str, timeframe: str, limit: int = KEEP) -> pa.Table:
        """Return the last bars of a symbol, oldest first, open ones with them: what a chart shows.

        An open bar that is not after the last closed one is left out: its window has closed meanwhile.
        """
        return self._bars(symbol, timeframe, limit, with_open=True)

    def _bars(self, symbol: str, timeframe: str, limit: int, with_open: bool) -> pa.Table:
        if limit < 1:
            raise ValueError(f"a limit of {limit} bars: ask for 1 or more")
        parsed, key = Timeframe.parse(timeframe), self.key("closed", timeframe, symbol)
        bucket = self.key(_OPEN[not parsed.is_intraday], bucket_of(symbol, self.buckets))

        def question(client: redis.Redis) -> list[Any]:
            pipe: Any = client.pipeline(transaction=False).lrange(key, -limit, -1)
            return (pipe.hget(bucket, symbol) if with_open else pipe).execute()

        closed, *opened = self.connection.ask(question)
        rows = np.frombuffer(b"".join(closed), BAR)
        for now_open in (np.frombuffer(value, BAR) for value in opened if value is not None):
            own = now_open["frame"] == frame_of(parsed)
            later = now_open["ts"] > rows["ts"][-1] if len(rows) else own
            rows = np.concatenate((rows, now_open[own & later]))[-limit:]
        return unpack_bars(Packed(pa.array([symbol] * len(rows), pa.string()), rows))

    def _hashes(self, asked: Mapping[str, list[str] | None]) -> _Named:
        """Return the named fields of hashes, or all where there are no names, in one round trip."""
        asked = {key: names for key, names in asked.items() if names is None or names}

        def question(client: redis.Redis) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for key, names in asked.items():
                if names is None:
                    pipe.hgetall(key)
                else:
                    pipe.hmget(key, names)
            return pipe.execute()

        found: _Named = []
        for names, answer in zip(asked.values(), self.connection.ask(question), strict=True):
            pairs = answer.items() if names is None else zip(names, answer, strict=True)
            found += [(name, value) for name, value in pairs if value is not None]
        return found


def _packed(found: _Named, dtype: np.dtype) -> Packed:
    """Return the records of hash fields; a field may hold several."""
    names = pa.array([name for name, _ in found], pa.string())
    rows = np.frombuffer(b"".join(value for _, value in found), dtype)
    if len(rows) > len(found):
        counts = [len(value) // dtype.itemsize for _, value in found]
        names = names.take(as_arrow(np.repeat(np.arange(len(found)), counts)))
    return Packed(names, rows)


def _by_list(packed: Packed, keep: int) -> tuple[Packed, npt.NDArray[np.int64]]:
    """Return the last ``keep`` bars of each list, list by list, and where each list begins, and the end.

    Of two bars of one window the better one stays, as inside Redis.
    """
    codes: Any = pc.dictionary_encode(packed.names)
    group = codes.indices.to_numpy(zero_copy_only=False)
    rows = packed.rows
    order = newest(group, rows["ts"], rows["revision"], rows["flags"] & FINAL)
    group = group[order]
    # How many bars of its list come after each.
    ends = np.searchsorted(group, group, side="right")
    order, group = (part[ends - np.arange(len(group)) <= keep] for part in (order, group))
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return packed.take(order), np.append(starts, len(order)).astype(np.int64)


def _lists_of_calls(starts: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of lists that make a call each."""
    first, lists = 0, len(starts) - 1
    while first < lists:
        fit = int(np.searchsorted(starts, starts[first] + _ROWS_A_CALL, side="right")) - 1
        last = max(first + 1, min(fit, first + _LISTS_A_CALL))
        yield first, last
        first = last


def refill_closed(
    store: LiveStore, bars: Iterable[pa.Table], *, owner: str, claim_s: int = 120
) -> int | None:
    """Fill the lists of closed bars from the lake, where they need it and nobody else is at it.

    Call it when a job or server starts, and again from time to time: it is one look at the store while all is
    well. Bars that a stream wrote meanwhile stay. Windows that have not ended are passed over.

    Args:
        store: the store.
        bars: of ``schemas.BARS``, in any order; only read where needed. A table should take seconds at most.
        owner: names the caller; no two at once may have the same.
        claim_s: for how long a caller that died keeps others away.

    Returns:
        How many bars were written; None where there was nothing to do, or somebody else is doing it.
    """
    marker = store.marker()
    if store.status().filled or not store.claim_fill(owner, claim_s):
        return None
    written = 0
    for table in bars:
        written += store.write_closed(table.filter(table["complete"]), written=0, push=False)
        if not store.claim_fill(owner, claim_s):
            return None
    return written if store.mark_filled(owner, marker) else None
