"""A small lake with everything that the compatible surface answers from, and what it has to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, Scope
from fibflow.io.reference import SPLITS, SYMBOLS, upsert
from fibflow.io.streamcommit import StreamCommit
from fibflow.tests.io.barlakes import XNYS, daily_rows, make_bars, minute_rows
from fibflow.tests.io.streams import JOB, table_of, write
from fibflow.transforms.timeframe import parse_timeframes

#: A Monday, 11:00 in New York. The lake's newest session is the Friday before.
NOW = datetime(2024, 4, 8, 15, tzinfo=UTC)
FIRST, LAST = "2023-11-20", "2024-04-05"
#: SPLT is split 4 for 1 on it.
SPLIT = date(2024, 3, 13)
#: With minutes on a half day, on both sides of the change to daylight saving, and on the last two sessions:
#: before the open, from the open on, after the close.
MINUTES = (
    "2023-11-24T14:30",
    "2024-03-08T14:30",
    "2024-03-11T13:30",
    "2024-04-04T12:00",
    "2024-04-04T13:30",
    "2024-04-05T12:00",
    "2024-04-05T13:30",
    "2024-04-05T20:00",
)
MINUTES_EACH = 90
HISTORIES = {
    "AAPL": (FIRST, LAST),
    "BRK A": (FIRST, LAST),
    "BRK.B": ("2024-01-02", LAST),
    "GONE": (FIRST, "2024-02-29"),
    "MSFT": (FIRST, LAST),
    "SPLT": (FIRST, LAST),
}
#: Trades of AAPL: (microseconds after TRADED, sequence number, price, size, conditions, correction).
TRADED = datetime(2024, 4, 4, 14, 0, tzinfo=UTC)
_DAY = 86_400_000_000
TRADES = [
    *(
        (second * 1_000_000 + 7, second, 15 + second / 100, 100.0, "" if second % 3 else "12,37", None)
        for second in range(40)
    ),
    (40_000_000, 40, 15.39, 100.0, "", 12),
    *((_DAY + second * 1_000_000, 1000 + second, 16 + second / 100, 0.5, "37", None) for second in range(20)),
]


def clock() -> datetime:
    return NOW


@dataclass
class Made:
    """A lake, and the rows that it was made of.

    Attributes:
        lake: the lake.
        basis: of its prices.
        days: rows of ``schemas.DAILY_ROWS``, symbols as strings.
        minutes: rows of ``schemas.MINUTE_ROWS``, likewise.
    """

    lake: Lake
    basis: str
    days: pa.Table
    minutes: pa.Table
    sql: duckdb.DuckDBPyConnection = field(init=False)

    def __post_init__(self) -> None:
        self.sql = duckdb.connect()
        self.sql.execute("SET TimeZone = 'UTC'")
        scaled = _after_the_split(self.days) if self.basis == "raw" else None
        self.sql.register("days", self.days)
        self.sql.register("minutes", self.minutes)
        self.sql.register("adjusted", self.days if scaled is None else scaled)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer of DuckDB over ``days``, ``adjusted`` (days) and ``minutes``."""
        found = self.sql.execute(query)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _after_the_split(days: pa.Table) -> pa.Table:
    """Days scaled to after the split, written down anew: not by the code under test."""
    rows = days.to_pylist()
    for row in rows:
        if row["symbol"] == "SPLT" and row["session"] < SPLIT:
            for name in ("open", "high", "low", "close", "vwap"):
                row[name] /= 4
            row["volume"] *= 4
    return pa.Table.from_pylist(rows, days.schema)


def _plain(rows: pa.Table) -> pa.Table:
    names: Any = rows["symbol"].cast(pa.string())
    return rows.set_column(rows.schema.get_field_index("symbol"), "symbol", names)


def _louder(rows: pa.Table) -> pa.Table:
    """Volumes that a mover has to have, for some symbols."""
    loud = pc.is_in(rows["symbol"].cast(pa.string()), pa.array(["AAPL", "MSFT", "SPLT", "BRK.B"]))
    volume: Any = rows["volume"]
    volume = pc.if_else(loud, pc.multiply(volume, 100.0), volume)
    return rows.set_column(rows.schema.get_field_index("volume"), "volume", volume)


def commit(
    lake: Lake, spec: TableSpec, parts: Mapping[str, tuple[pa.Table, dict[str, str]]], basis: str
) -> None:
    """Write a table: by file name its rows and partition."""
    table = lake.table(spec)
    files = [table.writer().write(rows, partition, name) for name, (rows, partition) in parts.items()]
    properties = {tables.CALENDAR: XNYS.name, tables.ANCHOR: "exchange", tables.PRICE_BASIS: basis}
    properties |= {tables.INTRADAY_ANCHOR: "midnight"} if spec is tables.BARS else {}
    table.commit(files, base_version=-1, scope=Scope(), run="run", properties=properties)


def _stored(rows: pa.Table, spec: TableSpec) -> pa.Table:
    ones: Any = [1] * len(rows)
    given = {"source": pa.array(ones, pa.int64()), "landed": pa.array(ones, pa.int32())}
    names = spec.file_schema.names
    columns = [given[name] if name in given else rows[name] for name in names]
    return pa.table(columns, names=names).cast(spec.file_schema)


def _by_period(
    rows: pa.Table, spec: TableSpec, time: str, length: int
) -> dict[str, tuple[pa.Table, dict[str, str]]]:
    names = np.array([str(value)[:length] for value in rows[time].to_pylist()])
    found = {}
    for name in np.unique(names).tolist():
        part = rows.filter(pa.array(names == name)).sort_by([("symbol", "ascending"), (time, "ascending")])
        found[f"all-{name}"] = _stored(part, spec), {"period": name}
    return found


def _bar_files(made: list[pa.Table]) -> dict[str, tuple[pa.Table, dict[str, str]]]:
    found = {}
    for number, bars in enumerate(made):
        name = bars["timeframe"][0].as_py()
        ts = bars["ts"].combine_chunks().view(pa.int64()).to_numpy()
        periods = tables.Period.of(*parse_timeframes(name)).names(XNYS.local_days(ts))
        for period in np.unique(periods).tolist():
            part = bars.filter(pa.array(periods == period)).sort_by(
                [("symbol", "ascending"), ("ts", "ascending")]
            )
            stored = part.drop_columns(["timeframe"]).cast(tables.BARS.file_schema)
            found[f"bars-{number}-{period}"] = stored, {"timeframe": name, "period": str(period)}
    return found


def make(folder: Path, basis: str) -> Made:
    """A lake of days, minutes, trades, symbols and splits."""
    lake = Lake(str(folder), clock=lambda: NOW - timedelta(hours=30))
    days = _louder(daily_rows(HISTORIES))
    minutes = pa.concat_tables(
        [minute_rows(symbol, MINUTES, MINUTES_EACH, seed) for seed, symbol in enumerate(("AAPL", "SPLT"), 1)]
    )
    commit(lake, tables.DAILY, _by_period(_plain(days), tables.DAILY, "session", 4), basis)
    commit(lake, tables.MINUTES, _by_period(_plain(minutes), tables.MINUTES, "ts", 7), basis)
    bars = [*make_bars(days, "5d"), *make_bars(minutes, "1m,5m,1h")]
    commit(lake, tables.BARS, _bar_files(bars), basis)
    _reference(lake)
    _ticks(lake)
    return Made(lake, basis, _plain(days), _plain(minutes))


#: (symbol, name, type, exchange, cik, listed)
KNOWN = (
    ("AAPL", "Apple Inc.", "CS", "XNAS", "0000320193", date(1980, 12, 12)),
    ("BRK A", None, None, None, None, None),
    ("BRK.B", "Berkshire Hathaway Inc.", "CS", "XNYS", "0001067983", None),
    ("GONE", "Gone Corp.", "CS", "XNYS", None, date(2001, 1, 2)),
    ("NOBARS", "A Fund", "ETF", "ARCX", None, None),
    ("SPLT", "Split & Sons", "CS", "XNAS", None, None),
)
SPLITS_OF = (
    ("SPLT", SPLIT, 1.0, 4.0, "a1"),
    ("GONE", date(2022, 5, 2), 10.0, 1.0, "b2"),
    ("GONE", date(2019, 5, 2), 1.0, 2.0, "b1"),
)


def _reference(lake: Lake) -> None:
    symbols = [
        (*known, "usd", date(2024, 3, 1) if known[0] == "GONE" else None, known[0] != "GONE")
        for known in KNOWN
    ]
    names: tuple[str, ...] = (
        "symbol",
        "name",
        "type",
        "exchange",
        "cik",
        "listed",
        "currency",
        "delisted",
        "active",
    )
    upsert(lake.table(SYMBOLS), _rows_of(SYMBOLS, names, symbols), "symbols")
    names = ("symbol", "execution_date", "split_from", "split_to", "id")
    upsert(lake.table(SPLITS), _rows_of(SPLITS, names, SPLITS_OF), "splits")


def _rows_of(spec: TableSpec, names: Sequence[str], rows: Sequence[tuple]) -> pa.Table:
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return pa.table({name: pa.array(values, spec.schema.field(name).type) for name, values in columns})


def _ticks(lake: Lake) -> None:
    trades = [(*trade, number) for number, trade in enumerate(TRADES)]
    # A producer sent one twice: the copy comes later, in another record.
    trades.append((*TRADES[5], len(TRADES)))
    stamps = [TRADED + timedelta(microseconds=trade[0]) for trade in trades]
    count = len(trades)
    columns: dict[str, Any] = {
        "kind": ["T"] * count,
        "symbol": ["AAPL"] * count,
        "ts": stamps,
        "seq": [trade[1] for trade in trades],
        "price": [trade[2] for trade in trades],
        "size": [trade[3] for trade in trades],
        "conditions": [trade[4] for trade in trades],
        "trade_id": [str(trade[1]) for trade in trades],
        "exchange": [4] * count,
        "tape": [3] * count,
        "correction": [trade[5] for trade in trades],
        "shard": ["shard-0"] * count,
        "sequence": [f"{trade[6]:056d}" for trade in trades],
        "sub": [0] * count,
        "place": [0] * count,
        "arrived": [
            stamp + timedelta(milliseconds=20 + trade[6]) for stamp, trade in zip(stamps, trades, strict=True)
        ],
    }
    rows = table_of(tables.TICKS, columns)
    StreamCommit(lake, tables.TICKS.name, JOB).commit(0, write(lake, tables.TICKS.name, rows, "ticks"))
