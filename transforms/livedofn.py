"""``LiveBars`` on Beam: tables to buckets, and a bucket's state and timer to the state machine's cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import coders, pvalue
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp

from fibflow.transforms import beamstate, tickrows
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.history import note_of
from fibflow.transforms.livebars import LiveBars, Output, Plan, StreamPolicy
from fibflow.transforms.livebucket import Memo
from fibflow.transforms.livecells import BASE, DAYS, HEAD, MINUTES, REVISIONS, SEEN
from fibflow.transforms.livecounts import LiveCounts
from fibflow.transforms.openbars import Flush, Pace
from fibflow.transforms.partials import as_arrow

Int32 = npt.NDArray[np.int32]

beamstate.install()

BARS = "bars"
OPEN = "open"
LATE = "late"
DEAD_LETTERS = "dead_letters"

_bucket_of = lru_cache(maxsize=1 << 16)(bucket_of)


def split_ticks(rows: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (bucket, rows): a symbol's rows stand together in the order they had, words are those in use.

    Args:
        rows: TRADE_INPUT or MINUTE_INPUT.
        buckets: how many there are.
    """
    if not len(rows):
        return
    words, codes = tickrows.words(rows, "symbol")
    present = np.zeros(len(words), np.bool_)
    present[codes] = True
    used = np.flatnonzero(present)
    names: list[Any] = words.take(as_arrow(used)).to_pylist()
    of_name = np.array([_bucket_of(name, buckets) for name in names], np.int64)
    by_bucket = np.argsort(of_name, kind="stable")
    rank = np.zeros(len(words), np.int64)
    rank[used[by_bucket]] = np.arange(len(used))
    places = rank[codes]
    # NumPy sorts small integers by radix.
    small = places.astype(np.uint16) if len(used) <= np.iinfo(np.uint16).max else places
    order = np.argsort(small, kind="stable")
    rows = rows.combine_chunks().take(as_arrow(order))
    sorted_words = words.take(as_arrow(used[by_bucket]))
    stops_of_symbol = np.cumsum(np.bincount(places, minlength=len(used)))
    ordered = of_name[by_bucket]
    last = np.flatnonzero(np.diff(ordered, append=-1))
    first_symbol, first_row = 0, 0
    for symbol in last.tolist():
        stop = int(stops_of_symbol[symbol])
        own = rows.slice(first_row, stop - first_row)
        local = (places[order[first_row:stop]] - first_symbol).astype(np.int32)
        columns = {"symbol": _dictionary(local, sorted_words.slice(first_symbol, symbol + 1 - first_symbol))}
        for name in ("shard", "sequence"):
            columns[name] = _compact(*tickrows.words(own, name))
        for name, column in columns.items():
            own = own.set_column(own.schema.get_field_index(name), rows.schema.field(name), column)
        yield int(ordered[symbol]), own
        first_symbol, first_row = symbol + 1, stop


def _compact(words: pa.Array, codes: Int32) -> Any:
    """Return a dictionary column without words that no row uses."""
    present = np.zeros(len(words), np.bool_)
    present[codes] = True
    place = (np.cumsum(present) - 1).astype(np.int32)
    return _dictionary(place[codes], words.filter(as_arrow(present)))


def _dictionary(codes: Int32, words: pa.Array) -> Any:
    return pa.DictionaryArray.from_arrays(as_arrow(codes), words)


class BeamCells:
    """Beam's state as ``livecells.Cells``."""

    def __init__(self, states: dict[str, Any]) -> None:
        self._states = states

    def read(self, name: str) -> bytes | None:
        """Return a value."""
        return self._states[name].read()

    def write(self, name: str, value: bytes) -> None:
        """Put a value."""
        self._states[name].write(value)

    def parts(self, name: str) -> list[bytes]:
        """Return what a bag holds."""
        return list(self._states[name].read())

    def append(self, name: str, part: bytes) -> None:
        """Add to a bag."""
        self._states[name].add(part)

    def clear(self, name: str) -> None:
        """Empty a cell."""
        self._states[name].clear()


class _Memos:
    """The memos of a process, which outlive bundles: a bucket may come to another instance of the DoFn.

    Who uses one has it alone; what an instance of an abandoned history gives back is told by its cells.
    """

    def __init__(self) -> None:
        self._idle: dict[int, Memo] = {}

    def take(self, bucket: int) -> Memo:
        """Return a bucket's memo, or a new one."""
        return self._idle.pop(bucket, None) or Memo()

    def give_back(self, bucket: int, memo: Memo) -> None:
        """Keep a memo for the bucket's next call."""
        self._idle[bucket] = memo

    def clear(self) -> None:
        """Keep none of them."""
        self._idle.clear()


class _Clocks(NamedTuple):
    """When a bucket's open bars go out; instants in UTC microseconds.

    Attributes:
        stamp: of the last flush.
        is_set: what the timer of the next one is set for; 0: it is not set.
        checked: when the marker is looked at next.
    """

    stamp: int = 0
    is_set: int = 0
    checked: int = 0


def _value(name: str, coder: Any = None) -> Any:
    return beam.DoFn.StateParam(ReadModifyWriteStateSpec(name, coder or coders.BytesCoder()))


def _bag(name: str) -> Any:
    return beam.DoFn.StateParam(BagStateSpec(name, coders.BytesCoder()))


class LiveBarsFn(beam.DoFn):
    """Makes live bars of (bucket, table); ``livecells`` says what the state holds, and when it is cleared.

    The main output is ``BARS``; ``OPEN``, ``LATE`` and ``DEAD_LETTERS`` are tagged.

    Args:
        spec, policy: which bars, and how long they take rows.
        pace: how open bars go out; None: nobody wants them.
    """

    #: Set for the first instant at which a window ends or is final, or a minute passes the horizon.
    DUE = TimerSpec("due", TimeDomain.WATERMARK)
    #: Set where open bars changed within the interval after the last flush.
    FLUSH = TimerSpec("flush", TimeDomain.REAL_TIME)
    #: Set as long as there is a marker to look at.
    CHECK = TimerSpec("check", TimeDomain.REAL_TIME)
    _VALUES = tuple(_value(name) for name in (HEAD, BASE, REVISIONS))
    _DAYS = _bag(DAYS)
    _MINUTES = tuple(_bag(name) for name in MINUTES)
    _SEEN = tuple(_bag(name) for name in SEEN)
    #: A ``_Clocks``; as old as the key.
    _CLOCKS = _value("clocks", coders.TupleCoder([coders.VarIntCoder()] * 3))
    _DUE, _FLUSH, _CHECK = map(beam.DoFn.TimerParam, (DUE, FLUSH, CHECK))

    def __init__(self, spec: BarSpec, policy: StreamPolicy, pace: Pace | None = None) -> None:
        self._spec, self._policy, self._pace = spec, policy, pace
        self._shared = Shared()
        self._counts = LiveCounts()

    def setup(self) -> None:
        """Make what all buckets share."""
        self._plan = Plan(self._spec, self._policy, tells_open=self._pace is not None)
        self._memos = self._shared.acquire(_Memos)
        # Beam makes a new instance after a bundle that failed: what it let out may not have been written.
        self._memos.clear()
        if self._pace is not None and self._pace.marker is not None:
            self._pace.marker.open()

    def teardown(self) -> None:
        """Close the marker."""
        if self._pace is not None and self._pace.marker is not None:
            self._pace.marker.close()

    def process(
        self,
        element: tuple[int, pa.Table],
        head: Any = _VALUES[0],
        base: Any = _VALUES[1],
        revisions: Any = _VALUES[2],
        days: Any = _DAYS,
        m0: Any = _MINUTES[0],
        m1: Any = _MINUTES[1],
        m2: Any = _MINUTES[2],
        m3: Any = _MINUTES[3],
        m4: Any = _MINUTES[4],
        s0: Any = _SEEN[0],
        s1: Any = _SEEN[1],
        s2: Any = _SEEN[2],
        s3: Any = _SEEN[3],
        s4: Any = _SEEN[4],
        clocks: Any = _CLOCKS,
        due: Any = _DUE,
        flush: Any = _FLUSH,
        check: Any = _CHECK,
    ) -> Iterator[Any]:
        """Take a bucket's rows, or days of its history."""
        key, rows = element
        is_history = note_of(rows) is not None
        self._counts.rows("history_in" if is_history else "ticks_in", len(rows))
        with self._bucket(key, head, base, revisions, days, m0, m1, m2, m3, m4, s0, s1, s2, s3, s4) as live:
            yield from self._emit(live.take_history(rows) if is_history else live.add(rows), due)
            yield from self._pass_on(key, live, clocks, flush, check)

    @on_timer(DUE)
    def close(
        self,
        key: Any = beam.DoFn.KeyParam,
        clock: Any = beam.DoFn.TimestampParam,
        head: Any = _VALUES[0],
        base: Any = _VALUES[1],
        revisions: Any = _VALUES[2],
        days: Any = _DAYS,
        m0: Any = _MINUTES[0],
        m1: Any = _MINUTES[1],
        m2: Any = _MINUTES[2],
        m3: Any = _MINUTES[3],
        m4: Any = _MINUTES[4],
        s0: Any = _SEEN[0],
        s1: Any = _SEEN[1],
        s2: Any = _SEEN[2],
        s3: Any = _SEEN[3],
        s4: Any = _SEEN[4],
        clocks: Any = _CLOCKS,
        due: Any = _DUE,
        flush: Any = _FLUSH,
        check: Any = _CHECK,
    ) -> Iterator[Any]:
        """Close windows, and make them final."""
        with self._bucket(key, head, base, revisions, days, m0, m1, m2, m3, m4, s0, s1, s2, s3, s4) as live:
            yield from self._emit(live.advance(clock.micros), due)
            yield from self._pass_on(key, live, clocks, flush, check)

    @on_timer(FLUSH)
    def on_flush(
        self,
        key: Any = beam.DoFn.KeyParam,
        head: Any = _VALUES[0],
        base: Any = _VALUES[1],
        revisions: Any = _VALUES[2],
        days: Any = _DAYS,
        m0: Any = _MINUTES[0],
        m1: Any = _MINUTES[1],
        m2: Any = _MINUTES[2],
        m3: Any = _MINUTES[3],
        m4: Any = _MINUTES[4],
        clocks: Any = _CLOCKS,
        flush: Any = _FLUSH,
    ) -> Iterator[Any]:
        """Let open bars out."""
        with self._bucket(key, head, base, revisions, days, m0, m1, m2, m3, m4) as live:
            yield from self._flush(key, live, clocks, flush, True)

    @on_timer(CHECK)
    def on_check(
        self,
        key: Any = beam.DoFn.KeyParam,
        head: Any = _VALUES[0],
        base: Any = _VALUES[1],
        revisions: Any = _VALUES[2],
        days: Any = _DAYS,
        m0: Any = _MINUTES[0],
        m1: Any = _MINUTES[1],
        m2: Any = _MINUTES[2],
        m3: Any = _MINUTES[3],
        m4: Any = _MINUTES[4],
        clocks: Any = _CLOCKS,
        check: Any = _CHECK,
    ) -> Iterator[Any]:
        """Let all open bars out where the marker has changed, and come again."""
        pace, known = self._pace, _Clocks(*clocks.read())
        assert pace is not None
        now = pace.now()
        # A runner that drains, or keeps no time, fires at once what it is given: it would go round for ever.
        if now < known.checked - pace.check_us // 2:
            return
        with self._bucket(key, head, base, revisions, days, m0, m1, m2, m3, m4) as live:
            marker = pace.current()
            for of_days in self._plan.kinds:
                if live.news(of_days).told != marker:
                    yield from self._let_out(key, live, clocks, of_days)
        check.set(Timestamp(micros=now + pace.check_us))
        clocks.write(_Clocks(*clocks.read())._replace(checked=now + pace.check_us))

    @contextmanager
    def _bucket(self, key: int, *states: Any) -> Iterator[LiveBars]:
        names = (HEAD, BASE, REVISIONS, DAYS, *MINUTES, *SEEN)
        memo = self._memos.take(key)
        yield LiveBars(self._plan, BeamCells(dict(zip(names, states, strict=False))), memo)
        self._memos.give_back(key, memo)

    def _emit(self, output: Output, due: Any) -> Iterator[Any]:
        if output.timer is not None:
            due.set(Timestamp(micros=output.timer))
        if output.bars is not None:
            self._counts.bars(output.bars)
            yield output.bars
        if output.late is not None:
            self._counts.rows("late", len(output.late))
            yield pvalue.TaggedOutput(LATE, output.late)
        for letters in output.dead_letters:
            self._counts.letters(letters)
            yield pvalue.TaggedOutput(DEAD_LETTERS, letters)

    def _pass_on(self, key: int, live: LiveBars, clocks: Any, flush: Any, check: Any) -> Iterator[Any]:
        """Let open bars out where the interval is over, else set the timer for its end."""
        pace = self._pace
        if pace is None or not any(live.news(of_days).is_there for of_days in self._plan.kinds):
            return
        now, cell = pace.now(), clocks.read()
        known = _Clocks(checked=now + pace.check_us) if cell is None else _Clocks(*cell)
        if cell is None:
            clocks.write(known)
            if pace.marker is not None:
                check.set(Timestamp(micros=known.checked))
        yield from self._flush(key, live, clocks, flush, False)

    def _flush(self, key: int, live: LiveBars, clocks: Any, flush: Any, fired: bool) -> Iterator[Any]:
        """Let open bars out of the kinds whose interval is over, and set the timer for the others."""
        pace, known = self._pace, _Clocks(*clocks.read())
        assert pace is not None
        now = pace.now()
        # A runner that drains, or keeps no time, fires at once what it is given: it would go round for ever.
        at_once = live.is_empty or (fired and now < known.is_set - pace.interval_us // 2)
        due = []
        for of_days in self._plan.kinds:
            news = live.news(of_days)
            # A worker that took the timer over knows nothing of what was told before it.
            if not news.is_there and not (fired and news.told is None):
                continue
            until = news.let_out + pace.interval(of_days)
            # A time in the future is of a clock that was ahead of this one: it must not hold bars back.
            if not at_once and news.let_out <= now < until:
                due.append(until)
            else:
                yield from self._let_out(key, live, clocks, of_days)
        known = _Clocks(*clocks.read())
        first = min(due, default=0)
        if first and (fired or known.is_set <= now or first < known.is_set):
            flush.set(Timestamp(micros=first))
            clocks.write(known._replace(is_set=first))
        elif fired:
            clocks.write(known._replace(is_set=0))

    def _let_out(self, key: int, live: LiveBars, clocks: Any, of_days: bool) -> Iterator[Any]:
        pace, known = self._pace, _Clocks(*clocks.read())
        assert pace is not None
        let_out = live.let_out(pace.current(), of_days)
        if let_out is not None:
            whole, bars = let_out
            now = pace.now()
            known = known._replace(stamp=max(known.stamp + 1, now))
            live.news(of_days).let_out = now
            self._counts.rows("bars_open", len(bars))
            yield pvalue.TaggedOutput(OPEN, tuple(Flush(key, known.stamp, of_days, whole, bars)))
            clocks.write(known)
