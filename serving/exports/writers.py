"""Bars as bytes, block by block: Arrow, CSV, Parquet, and CSV as backtesting.py reads it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fibflow.serving.formats import CONTENT_TYPES, Format, encode
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe


class ExportFormat(StrEnum):
    """How an export is written."""

    PARQUET = "parquet"
    ARROW = "arrow"
    CSV = "csv"
    BACKTESTING = "backtesting"


#: What a backtest is given, by its names.
_OHLCV = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}
#: What the writer of ``backtesting`` needs.
BACKTESTING_COLUMNS = ("symbol", "ts", *_OHLCV.values())


class Writer(Protocol):
    """Takes tables of one schema, and gives bytes that make one file together."""

    @property
    def content_type(self) -> str:
        """Of the file."""

    @property
    def suffix(self) -> str:
        """Of the file's name, with its dot."""

    def write(self, table: pa.Table) -> bytes:
        """Return the bytes that a table adds; they may be none."""

    def close(self) -> bytes:
        """Return the bytes that end the file."""


class _Pieces(io.RawIOBase):
    """A file that is taken away in pieces while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._place += len(piece)
        return len(piece)

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found


class ParquetWriter:
    """Parquet, a row group a block."""

    content_type = CONTENT_TYPES[Format.PARQUET]
    suffix = ".parquet"

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = _Pieces()
        sink: Any = self._sink
        # Doubles do not repeat: a dictionary of them takes as long as all the rest.
        words: Any = [field.name for field in schema if pa.types.is_string(field.type)]
        self._writer = pq.ParquetWriter(
            sink, schema, compression="zstd", compression_level=1, use_dictionary=words or False
        )

    def write(self, table: pa.Table) -> bytes:
        """Return the bytes of a row group."""
        if len(table):
            self._writer.write_table(table, row_group_size=len(table))
        return self._sink.taken()

    def close(self) -> bytes:
        """Return the footer."""
        self._writer.close()
        return self._sink.taken()


class ArrowWriter:
    """Arrow's stream format, a record batch a block."""

    content_type = CONTENT_TYPES[Format.ARROW]
    suffix = ".arrows"

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = _Pieces()
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def write(self, table: pa.Table) -> bytes:
        """Return the bytes of a batch."""
        for batch in table.combine_chunks().to_batches():
            self._writer.write_batch(batch)
        return self._sink.taken()

    def close(self) -> bytes:
        """Return the end of the stream."""
        self._writer.close()
        return self._sink.taken()


class CsvWriter:
    """CSV with a header line, as ``formats.encode`` writes it."""

    content_type = CONTENT_TYPES[Format.CSV]
    suffix = ".csv"

    def __init__(self, schema: pa.Schema) -> None:
        self._header = encode(schema.empty_table(), Format.CSV)
        self._told = False

    def write(self, table: pa.Table) -> bytes:
        """Return the lines of a block."""
        lines = encode(table, Format.CSV) if len(table) else self._header
        if self._told:
            return lines[len(self._header) :]
        self._told = True
        return lines

    def close(self) -> bytes:
        """Return the header line where there was no row."""
        return b"" if self._told else self._header


class BacktestWriter:
    """One symbol as ``pd.read_csv(file, index_col=0, parse_dates=True)`` gives it to backtesting.py.

    The first column is when the bar begins: of windows of sessions the date of the first one, else the time
    on the exchange's clock, without a zone.
    """

    content_type = CONTENT_TYPES[Format.CSV]
    suffix = ".csv"

    def __init__(self, timeframe: Timeframe, calendar: TradingCalendar) -> None:
        self._timeframe, self._calendar = timeframe, calendar
        self._told = False

    def write(self, table: pa.Table) -> bytes:
        """Return the lines of a block."""
        lines = backtest_lines(table, self._timeframe, self._calendar, header=not self._told)
        self._told = True
        return lines

    def close(self) -> bytes:
        """Return the header line where there was no block."""
        return b"" if self._told else self.write(BARS.empty_table())


class BacktestZip:
    """Several symbols: a zip with a CSV each, named by the symbol."""

    content_type = "application/zip"
    suffix = ".zip"

    def __init__(self, timeframe: Timeframe, calendar: TradingCalendar) -> None:
        self._timeframe, self._calendar = timeframe, calendar
        self._sink = _Pieces()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._symbol: str | None = None
        self._entry: Any = None

    def write(self, table: pa.Table) -> bytes:
        """Return the bytes that the rows add; a symbol's may come in several tables, one after another."""
        for symbol, rows in _by_symbol(table):
            header = symbol != self._symbol
            if header:
                self._end_entry()
                # The same rows make the same bytes: no clock.
                info = zipfile.ZipInfo(f"{quote(symbol, safe='.-_ ^=+')}.csv")
                info.compress_type = zipfile.ZIP_DEFLATED
                self._entry, self._symbol = self._zip.open(info, "w", force_zip64=True), symbol
            self._entry.write(backtest_lines(rows, self._timeframe, self._calendar, header))
        return self._sink.taken()

    def close(self) -> bytes:
        """Return the directory of the archive."""
        self._end_entry()
        self._zip.close()
        return self._sink.taken()

    def _end_entry(self) -> None:
        if self._entry is not None:
            self._entry.close()
            self._entry = None


def writer_of(
    form: ExportFormat, columns: Sequence[str], alone: bool, timeframe: Timeframe, calendar: TradingCalendar
) -> Writer:
    """Return what writes an export.

    Args:
        form: of the file.
        columns: names of ``schemas.BARS``.
        alone: one symbol was asked for by its name.
        timeframe: of the bars.
        calendar: of the lake.
    """
    if form is ExportFormat.BACKTESTING:
        return BacktestWriter(timeframe, calendar) if alone else BacktestZip(timeframe, calendar)
    schema = pa.schema([BARS.field(name) for name in columns])
    if form is ExportFormat.PARQUET:
        return ParquetWriter(schema)
    return ArrowWriter(schema) if form is ExportFormat.ARROW else CsvWriter(schema)


def backtest_lines(table: pa.Table, timeframe: Timeframe, calendar: TradingCalendar, header: bool) -> bytes:
    """Return rows as lines for a backtest."""
    micros: npt.NDArray[np.int64] = table["ts"].cast(pa.int64()).to_numpy()
    if timeframe.is_intraday:
        local = (micros + calendar.clock(micros)[0]).astype("datetime64[us]").astype("datetime64[s]")
        # As text by a cast: strftime, and CSV's own form of times, take many times as long.
        times: Any = pa.array(local).cast(pa.string())
    else:
        positions = calendar.positions_at(micros)
        days = np.where(positions == NO_SESSION, calendar.local_days(micros), calendar.days[positions])
        times = pa.array(days.astype(np.int32)).cast(pa.date32())
    rows = pa.table({"Date": times, **{name: table[source] for name, source in _OHLCV.items()}})
    sink = io.BytesIO()
    pacsv.write_csv(rows, sink, pacsv.WriteOptions(include_header=header, quoting_style="none"))
    return sink.getvalue()


def _by_symbol(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each symbol; they stand together."""
    if not len(table):
        return
    encode_runs: Any = pc.call_function
    runs = encode_runs("run_end_encode", [table["symbol"].combine_chunks()])
    start = 0
    for symbol, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield symbol, table.slice(start, stop - start)
        start = stop
