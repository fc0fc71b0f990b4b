"""The stream's rows to data files: they wait in state until they are many enough, or old enough."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from fibflow.io import tables
from fibflow.io.datafiles import DataFile, DataFileWriter, TableSpec
from fibflow.io.failpoints import hit
from fibflow.io.lake import Lake
from fibflow.io.sinks import write_bars
from fibflow.io.streamtables import STATE_VERSION, content_of, encode_file
from fibflow.transforms import coders
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow, encode_symbols, newest, numbers
from fibflow.transforms.schemas import SYMBOL

coders.register()

#: Partitions of ``late``, by the date on the exchange's clock; those of ``bronze.ticks`` are days.
LATE_PERIOD = tables.Period("M")
_AT_ONCE = 65_536


@dataclass(frozen=True)
class FileLimits:
    """When rows become a file.

    Attributes:
        rows: so many wait.
        bytes: so many, in memory, wait.
        at_once: so many come in one element: they go to a file without waiting, and those that waited with
            them. In catch-up, then, no row passes through the state.
        age: seconds that rows wait at most.
    """

    rows: int = 1_000_000
    bytes: int = 64 << 20
    at_once: int = _AT_ONCE
    age: float = 5.0


def write_rows(
    writer: DataFileWriter, rows: pa.Table, calendar: TradingCalendar, name: str
) -> Iterator[DataFile]:
    """Write rows of one of the stream's tables, a file a partition.

    Ticks stay in the order in which they came, which is that of time but for little: sorting them costs as
    much as writing them, and compaction does. Bars are sorted, and of one bar's revisions the last is
    written.

    Args:
        writer: of one of ``streamtables.STREAM_TABLES``.
        rows: the columns of ``row_schema``, strings as dictionaries or not, in the order they came.
        calendar: its clock says which partition a row belongs to.
        name: unique for all time; the files are called so.
    """
    spec = writer.spec
    if spec.name == tables.TICKS.name:
        for period, part in _by_period(rows, calendar, None):
            yield writer.write(part, {"period": period}, name)
    elif spec.name == tables.LATE.name:
        for period, part in _by_period(_plain(rows, spec), calendar, LATE_PERIOD):
            ordered = part.sort_by([(column, "ascending") for column in spec.sort_by])
            yield writer.write(ordered, {"period": period}, name)
    elif spec.name == tables.LIVE.name:
        timeframes = rows["timeframe"].cast(pa.string())
        for timeframe in timeframes.unique():
            of_timeframe = rows.filter(pc.equal(timeframes, cast(Any, timeframe)))
            yield from write_bars(writer, last_revisions(of_timeframe), calendar, name)
    else:
        yield writer.write(rows, {}, name)


def _by_period(
    rows: pa.Table, calendar: TradingCalendar, period: tables.Period | None
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each period by ``ts``; of each day where ``period`` is None."""
    ts = numbers(rows, "ts")
    # A file is a few seconds of a stream: two instants nearly always say it for all.
    ends = _period_names(calendar.local_days(np.array([ts.min(), ts.max()])), period)
    if ends[0] == ends[1]:
        yield str(ends[0]), rows
        return
    days, of_row = np.unique(calendar.local_days(ts), return_inverse=True)
    names = _period_names(days, period)
    for name in np.unique(names):
        yield str(name), rows.filter(as_arrow((names == name)[of_row]))


def _period_names(days: npt.NDArray[Any], period: tables.Period | None) -> npt.NDArray[Any]:
    return np.datetime_as_string(days.astype("datetime64[D]")) if period is None else period.names(days)


def last_revisions(bars: pa.Table) -> pa.Table:
    """Return the last revision of each bar of one timeframe, sorted by symbol and ts."""
    symbols, codes = encode_symbols(bars["symbol"])
    last = newest(codes, *(numbers(bars, name) for name in ("ts", "revision", "final")))
    at = bars.schema.get_field_index("symbol")
    symbol = pa.DictionaryArray.from_arrays(as_arrow(codes[last]), symbols)
    found = bars.take(as_arrow(last))
    return found.set_column(at, found.schema.field(at).with_type(SYMBOL), symbol)


def row_schema(spec: TableSpec) -> pa.Schema:
    """The columns that rows of a table come with: all but ``period``, which is made here."""
    return pa.schema([field for field in spec.schema if field.name != "period"])


def _plain(rows: pa.Table, spec: TableSpec) -> pa.Table:
    return rows.cast(row_schema(spec))


def together(parts: Sequence[pa.Table], spec: TableSpec) -> pa.Table:
    """Return the rows of several tables in their order, each string column with one dictionary or none."""
    names = row_schema(spec).names
    selected = [part.select(names) for part in parts]
    if len({part.schema for part in selected}) > 1:
        selected = [_plain(part, spec) for part in selected]
    return selected[0] if len(selected) == 1 else pa.concat_tables(selected).unify_dictionaries()


def encode_rows(rows: pa.Table) -> bytes:
    """Return rows as a cell of state: a byte for the format, and a compressed IPC stream."""
    sink = pa.BufferOutputStream()
    sink.write(STATE_VERSION)
    with pa.ipc.new_stream(sink, rows.schema, options=_COMPRESSED) as stream:
        stream.write_table(rows)
    return sink.getvalue().to_pybytes()


_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


def decode_rows(cell: bytes) -> pa.Table:
    """The inverse of ``encode_rows``. Raises LakeError for another format."""
    return coders.decode_table(content_of(cell))


class _Waiting(NamedTuple):
    """The cell that counts the rows that wait."""

    rows: int = 0
    size: int = 0

    def encode(self) -> bytes:
        return STATE_VERSION + struct.pack(">QQ", *self)

    @classmethod
    def decode(cls, cell: bytes | None) -> _Waiting:
        return cls() if cell is None else cls(*struct.unpack(">QQ", content_of(cell)))


@beam.typehints.with_input_types(tuple[tuple[str, int], pa.Table])
@beam.typehints.with_output_types(tuple[str, bytes])
class WriteFiles(beam.DoFn):
    """Writes data files of the stream's tables; emits (table, what ``encode_file`` made).

    Input: ((table, writer), rows). All rows of a symbol's bars go to one writer, in their order. Files are
    invisible until ``CommitFiles`` names them: those that a restore forgets are orphans, which vacuum takes.
    """

    #: Rows that wait, as ``encode_rows`` made them; a file clears them.
    ROWS = beam.DoFn.StateParam(BagStateSpec("rows", BytesCoder()))
    #: A ``_Waiting``; as old as the key.
    WAITING = beam.DoFn.StateParam(ReadModifyWriteStateSpec("waiting", BytesCoder()))
    AGE = TimerSpec("age", TimeDomain.REAL_TIME)
    #: The end of the global window: a drain.
    END = TimerSpec("files_end", TimeDomain.WATERMARK)
    _AGE = beam.DoFn.TimerParam(AGE)
    _END = beam.DoFn.TimerParam(END)

    def __init__(
        self,
        lake: Lake,
        calendar: TradingCalendar,
        limits: Mapping[str, FileLimits] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lake = lake
        self._calendar = calendar
        self._limits = dict(limits or {})
        self._clock = clock

    def setup(self) -> None:
        """Know of no table yet."""
        self._writers: dict[str, DataFileWriter] = {}

    def process(
        self,
        element: tuple[tuple[str, int], pa.Table],
        rows: Any = ROWS,
        waiting: Any = WAITING,
        age: Any = _AGE,
        end: Any = _END,
    ) -> Iterator[tuple[str, bytes]]:
        """Keep the rows, or write them with those that wait."""
        (table, _), new = element
        limits = self._limits.get(table, FileLimits())
        cell = waiting.read()
        if cell is None:
            end.set(GlobalWindow().max_timestamp())
        held = _Waiting.decode(cell)
        total = _Waiting(held.rows + len(new), held.size + new.nbytes)
        if len(new) >= limits.at_once or total.rows >= limits.rows or total.size >= limits.bytes:
            yield from self._write(table, rows if held.rows else None, waiting, age, [new])
        elif len(new):
            if not held.rows:
                age.set(self._clock() + limits.age)
            rows.add(encode_rows(new))
            waiting.write(total.encode())

    @on_timer(AGE)
    def on_age(
        self, key: Any = beam.DoFn.KeyParam, rows: Any = ROWS, waiting: Any = WAITING, age: Any = _AGE
    ) -> Iterator[TimestampedValue]:
        """Write what has waited long enough."""
        # Of itself it would be as late as the timer's clock, and a runner might wait for that time.
        return (TimestampedValue(file, MIN_TIMESTAMP) for file in self._write(key[0], rows, waiting, age))

    @on_timer(END)
    def on_end(
        self, key: Any = beam.DoFn.KeyParam, rows: Any = ROWS, waiting: Any = WAITING, age: Any = _AGE
    ) -> Iterator[tuple[str, bytes]]:
        """Write what waits."""
        return self._write(key[0], rows, waiting, age)

    def _write(
        self, table: str, rows: Any, waiting: Any, age: Any, new: Sequence[pa.Table] = ()
    ) -> Iterator[tuple[str, bytes]]:
        held = [] if rows is None else [decode_rows(cell) for cell in rows.read()]
        if held:
            rows.clear()
            age.clear()
        waiting.write(_Waiting().encode())
        if not held and not new:
            return
        if table not in self._writers:
            self._writers[table] = self._lake.table(tables.TABLES[table]).writer()
        writer = self._writers[table]
        every = together([*held, *new], writer.spec)
        for file in write_rows(writer, every, self._calendar, self._lake.new_id()):
            Metrics.counter("lake", f"files_written.{table}").inc()
            Metrics.counter("lake", f"rows_written.{table}").inc(file.rows)
            Metrics.counter("lake", f"bytes_written.{table}").inc(file.size)
            yield table, encode_file(file)
        hit("after-files", table)
