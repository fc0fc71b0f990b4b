"""``LiveBars`` on Beam: tables to buckets, and a bucket's state and timer to the state machine's cells."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import coders, pvalue
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from fibflow.transforms import beamstate, tickrows
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.livebars import LiveBars, Output, Plan, StreamPolicy
from fibflow.transforms.livebucket import Memo
from fibflow.transforms.livecells import BASE, HEAD, MINUTES, REVISIONS, SEEN
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


def _value(name: str) -> Any:
    return beam.DoFn.StateParam(ReadModifyWriteStateSpec(name, coders.BytesCoder()))


def _bag(name: str) -> Any:
    return beam.DoFn.StateParam(BagStateSpec(name, coders.BytesCoder()))


class LiveBarsFn(beam.DoFn):
    """Makes live bars of (bucket, table); ``livecells`` says what the state holds, and when it is cleared.

    The main output is ``BARS``; ``OPEN``, ``LATE`` and ``DEAD_LETTERS`` are tagged.
    """

    #: Set for the first instant at which a window ends or is final, or a minute passes the horizon.
    DUE = TimerSpec("due", TimeDomain.WATERMARK)
    _VALUES = tuple(_value(name) for name in (HEAD, BASE, REVISIONS))
    _MINUTES = tuple(_bag(name) for name in MINUTES)
    _SEEN = tuple(_bag(name) for name in SEEN)
    _TIMER: Any = beam.DoFn.TimerParam(DUE)

    def __init__(self, spec: BarSpec, policy: StreamPolicy) -> None:
        self._spec, self._policy = spec, policy
        self._count = {
            name: Metrics.counter("fibflow", name)
            for name in ("ticks_in", "late", "dead_letters", "bars_out", "bars_open")
        }

    def setup(self) -> None:
        """Make what all buckets share."""
        self._plan = Plan(self._spec, self._policy)
        self._memos: dict[int, Memo] = {}

    def process(
        self,
        element: tuple[int, pa.Table],
        head: Any = _VALUES[0],
        base: Any = _VALUES[1],
        revisions: Any = _VALUES[2],
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
        due: Any = _TIMER,
    ) -> Iterator[Any]:
        """Take a bucket's rows."""
        key, rows = element
        self._count["ticks_in"].inc(len(rows))
        live = self._live(key, head, base, revisions, (m0, m1, m2, m3, m4), (s0, s1, s2, s3, s4))
        yield from self._emit(live.add(rows), due)

    @on_timer(DUE)
    def close(
        self,
        key: Any = beam.DoFn.KeyParam,
        clock: Any = beam.DoFn.TimestampParam,
        head: Any = _VALUES[0],
        base: Any = _VALUES[1],
        revisions: Any = _VALUES[2],
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
        due: Any = _TIMER,
    ) -> Iterator[Any]:
        """Close windows, and make them final."""
        live = self._live(key, head, base, revisions, (m0, m1, m2, m3, m4), (s0, s1, s2, s3, s4))
        yield from self._emit(live.advance(clock.micros), due)

    def _live(
        self, key: int, head: Any, base: Any, revisions: Any, minutes: tuple[Any, ...], seen: tuple[Any, ...]
    ) -> LiveBars:
        names = (HEAD, BASE, REVISIONS, *MINUTES, *SEEN)
        cells = BeamCells(dict(zip(names, (head, base, revisions, *minutes, *seen), strict=True)))
        return LiveBars(self._plan, cells, self._memos.setdefault(key, Memo()))

    def _emit(self, output: Output, due: Any) -> Iterator[Any]:
        if output.timer is not None:
            due.set(Timestamp(micros=output.timer))
        if output.bars is not None:
            self._count["bars_out"].inc(len(output.bars))
            yield output.bars
        if output.open is not None:
            self._count["bars_open"].inc(len(output.open))
            yield pvalue.TaggedOutput(OPEN, output.open)
        if output.late is not None:
            self._count["late"].inc(len(output.late))
            yield pvalue.TaggedOutput(LATE, output.late)
        for letters in output.dead_letters:
            self._count["dead_letters"].inc(len(letters))
            yield pvalue.TaggedOutput(DEAD_LETTERS, letters)
