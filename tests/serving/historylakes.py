"""Lakes for the tests of history: rows, stored bars, bars of a stream; and their oracle in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import deltalake
import duckdb
import exchange_calendars
import numpy as np
import pyarrow as pa

from fibflow.io import coverage, tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake, Scope
from fibflow.io.streamcommit import StreamCommit
from fibflow.io.streamfiles import write_rows
from fibflow.tests.io.barlakes import XNYS, as_of, commit_bars, daily_rows, make_bars, minute_rows
from fibflow.tests.io.streams import JOB
from fibflow.transforms.schemas import BARS

NEW_YORK = ZoneInfo("America/New_York")
DAY_US = 86_400_000_000


def us(text: str) -> int:
    """An instant (UTC) in microseconds."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def commit_rows(lake: Lake, spec: TableSpec, rows: pa.Table, run: str, basis: str = "raw") -> int:
    """Commit daily or minute rows to a bronze table, a file for each year or month."""
    table, time = lake.table(spec), spec.time_column
    assert time is not None
    extra = {"source": pa.array([0] * len(rows), pa.int64()), "landed": pa.array([0] * len(rows), pa.int32())}
    arrays = [
        extra[field.name] if field.name in extra else rows[field.name].cast(field.type)
        for field in spec.file_schema
    ]
    stored = pa.table(arrays, schema=spec.file_schema).sort_by([("symbol", "ascending"), (time, "ascending")])
    texts = [str(value)[: 4 if time == "session" else 7] for value in stored[time].to_pylist()]
    files = []
    for period in sorted(set(texts)):
        part = stored.filter(pa.array([text == period for text in texts]))
        files.append(table.writer().write(part, {"period": period}, f"{run}-{period}"))
    terms = {tables.CALENDAR: "XNYS", tables.PRICE_BASIS: basis}
    return table.commit(files, base_version=table.version, scope=Scope(), run=run, properties=terms)


def commit_batch(lake: Lake, made: Sequence[pa.Table], until: int | None) -> None:
    """Commit bars as a run of batch leaves them: open ones apart, and until when those of days speak."""
    for name, keep in (("ended", True), ("open", False)):
        parts = [
            bars.filter(pa.array([flag is keep for flag in bars["complete"].to_pylist()])) for bars in made
        ]
        commit_bars(lake, [part for part in parts if len(part)], f"{name}-{lake.new_id()}")
    if until is not None:
        table = lake.table(tables.BARS)
        found = {bars["timeframe"][0].as_py(): ((None, until),) for bars in made}
        told = coverage.changed(table.properties, tables.COVERED, found)
        table.commit(base_version=table.version, scope=Scope(), run="covers", properties=told)


class Stream:
    """Commits bars as a stream does."""

    def __init__(self, lake: Lake, **terms: str) -> None:
        self.lake, self.number = lake, 0
        self.terms = {tables.CALENDAR: "XNYS", tables.PRICE_BASIS: "raw", **terms}

    def commit(self, bars: pa.Table) -> None:
        """Commit bars of ``schemas.BARS``."""
        files = list(write_rows(self.lake.table(tables.LIVE).writer(), bars, XNYS, self.lake.new_id()))
        commit = StreamCommit(self.lake, tables.LIVE.name, JOB, self.terms)
        self.number = commit.commit(self.number, files).number


def splits_table(*splits: tuple[str, str, float, float]) -> pa.Table:
    """Splits of (symbol, execution date, from, to)."""
    names = ("symbol", "execution_date", "split_from", "split_to")
    columns: list[Any] = list(zip(*splits, strict=True)) if splits else [[], [], [], []]
    days = pa.array([date.fromisoformat(day) for day in columns[1]], pa.date32())
    found = pa.array(columns[0], pa.string()), days, *(pa.array(c, pa.float64()) for c in columns[2:])
    return pa.table(list(found), names=list(names))


@dataclass(frozen=True)
class World:
    """A lake with rows, and with bars of some timeframes.

    Attributes:
        lake: the lake.
        splits: of its symbols.
    """

    lake: Lake
    splits: pa.Table

    @classmethod
    def make(cls, folder: Path, stored: str = "3d,5d", stored_minutes: str = "5m,1h") -> World:
        """Land rows of A to D over a half day and both changes of the clock, and make stored bars of them."""
        lake = Lake(str(folder / "lake"))
        days = daily_rows(
            {
                "A": ("2023-09-01", "2024-03-28"),
                "B": ("2023-10-25", "2024-03-28"),
                "C": ("2023-09-01", "2024-01-17"),
                "D": ("2024-03-26", "2024-03-28"),
            }
        )
        # B is halted for some days, and lacks a vwap on one.
        halted = {
            date(2023, 12, 5),
            date(2023, 12, 6),
            date(2023, 12, 7),
            date(2023, 12, 8),
            date(2023, 12, 11),
        }
        keep = [
            not (name == "B" and day in halted)
            for name, day in zip(days["symbol"].to_pylist(), days["session"].to_pylist(), strict=True)
        ]
        days = days.filter(pa.array(keep))
        vwap = days["vwap"].to_pylist()
        vwap[len(vwap) // 2] = None
        days = days.set_column(days.schema.get_field_index("vwap"), "vwap", pa.array(vwap, pa.float64()))
        commit_rows(lake, tables.DAILY, days, "daily")
        # Before and after both changes of the clock, and a half day; early, regular and late hours.
        starts = [
            "2023-11-03T13:00",
            "2023-11-06T14:00",
            "2023-11-24T14:30",
            "2024-03-08T14:10",
            "2024-03-11T13:30",
            "2024-03-11T19:50",
        ]
        minutes = pa.concat_tables([minute_rows("A", starts, 220, 1), minute_rows("B", starts[2:4], 37, 2)])
        commit_rows(lake, tables.MINUTES, minutes, "minutes")
        commit_batch(lake, make_bars(days, stored), as_of(days))
        commit_batch(lake, make_bars(minutes, stored_minutes), None)
        return cls(
            lake,
            splits_table(
                ("A", "2023-12-13", 1.0, 4.0),
                ("A", "2024-02-06", 3.0, 1.0),
                ("B", "2030-01-02", 1.0, 10.0),
                ("C", "2023-10-03", 2.0, 3.0),
            ),
        )

    @cached_property
    def oracle(self) -> Oracle:
        """Answers from the same files, by SQL."""
        return Oracle(self.lake.uri)


class Oracle:
    """Bars by DuckDB over the files of the lake's tables, with windows of ``exchange_calendars`` alone."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.db = duckdb.connect()
        calendar = exchange_calendars.get_calendar("XNYS", start="1999-12-01", end="2026-12-31")
        days = [stamp.date() for stamp in calendar.sessions]
        first = days.index(date(2000, 1, 3))
        rows = [
            (
                number - first,
                day,
                self._midnight(day),
                self._midnight(day + timedelta(days=1)),
                calendar.session_open(day.isoformat()).value // 1000,
                calendar.session_close(day.isoformat()).value // 1000,
            )
            for number, day in enumerate(days)
        ]
        names = ("idx", "day", "starts", "ends", "opens", "closes")
        self.db.register("listed", pa.table(list(map(pa.array, zip(*rows, strict=True))), names=list(names)))
        self.db.execute("CREATE TABLE sessions AS SELECT * FROM listed")
        for name in ("bronze.daily", "bronze.minutes", "silver.bars", "silver.live"):
            self._load(name)
        if "bronze.daily" in self.names:
            self.db.execute(
                "CREATE TABLE daily AS SELECT r.symbol, r.session AS day, s.idx, open, high, low, close, "
                "volume, vwap, trade_count FROM bronze_daily r JOIN sessions s ON s.day = r.session"
            )
        if "bronze.minutes" in self.names:
            self.db.execute(
                "CREATE TABLE minutes AS SELECT r.symbol, epoch_us(r.ts) AS t, s.*, open, high, low, close, "
                "volume, vwap, trade_count FROM bronze_minutes r JOIN sessions s "
                "ON epoch_us(r.ts) >= s.starts AND epoch_us(r.ts) < s.ends"
            )

    @staticmethod
    def _midnight(day: date) -> int:
        return round(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp()) * 1_000_000

    @cached_property
    def names(self) -> set[str]:
        """The tables that are there."""
        return {path.name for path in Path(self.uri).iterdir() if (path / "_delta_log").is_dir()}

    def _load(self, name: str) -> None:
        if name not in self.names:
            return
        files = deltalake.DeltaTable(f"{self.uri}/{name}").file_uris()
        listed = ", ".join(f"'{file}'" for file in files)
        self.db.execute(
            f"CREATE TABLE {name.replace('.', '_')} AS "
            f"SELECT * FROM read_parquet([{listed}], hive_partitioning=true, hive_types_autocast=false)"
        )

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        result = self.db.execute(sql)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    #: The sums of a group of rows, exactly, and what becomes of them. ``place`` orders rows.
    _FOLD = """
        arg_min(open, place) AS open, max(high) AS high, min(low) AS low, arg_max(close, place) AS close,
        sum(v) AS v, CASE WHEN count(vwap) = count(*) THEN sum(p * v) END AS notional,
        CASE WHEN count(trade_count) = count(*) THEN sum(trade_count)::BIGINT END AS trade_count
    """
    _VALUES = """
        open, high, low, close, (v::DOUBLE / 1e6) AS volume,
        CASE WHEN v > 0 THEN ((notional // v)::DOUBLE + (notional % v)::DOUBLE / v::DOUBLE) / 1e6 END AS vwap,
        trade_count
    """

    def days(self, count: int, anchor: str = "exchange", splits: str | None = None) -> list[dict[str, Any]]:
        """Bars of ``<N>d``; ``splits`` is the name of a table of them, to which rows are scaled first."""
        base = "0" if anchor == "exchange" else "(SELECT min(idx) FROM daily d WHERE d.symbol = r.symbol)"
        scale, grow = "1.0", "1.0"
        if splits is not None:
            later = f"FROM {splits} x WHERE x.symbol = r.symbol AND x.execution_date > r.day"
            scale = f"coalesce((SELECT product(x.split_from / x.split_to) {later}), 1.0)"
            grow = f"coalesce((SELECT product(x.split_to / x.split_from) {later}), 1.0)"
        return self.rows(f"""
            WITH scaled AS (
                SELECT symbol, idx, idx AS place, {base} AS base, open * f AS open, high * f AS high,
                    low * f AS low, close * f AS close, vwap * f AS vwap,
                    round_even(volume * g * 1e6, 0)::HUGEINT AS v,
                    round_even(vwap * f * 1e6, 0)::HUGEINT AS p, trade_count
                FROM (SELECT r.*, {scale} AS f, {grow} AS g FROM daily r) r
            ), folded AS (
                SELECT symbol, base + floor((idx - base) / {count})::BIGINT * {count} AS first, {self._FOLD},
                    count(*)::INTEGER AS sessions
                FROM scaled GROUP BY 1, 2
            )
            SELECT symbol, '{count}d' AS timeframe, a.starts AS ts, b.ends AS "end", {self._VALUES}, sessions,
                b.ends <= (SELECT max(ends) FROM sessions JOIN daily USING (day)) AS complete
            FROM folded JOIN sessions a ON a.idx = first JOIN sessions b ON b.idx = first + {count} - 1
            ORDER BY 1, 3
        """)

    def intraday(
        self, minutes: int, anchor: str = "midnight", splits: str | None = None
    ) -> list[dict[str, Any]]:
        """Bars of so many minutes."""
        length = minutes * 60_000_000
        name = f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
        start = f"starts + (t - starts) // {length} * {length}"
        end = f"least({start} + {length}, ends)"
        if anchor == "open":
            base = "CASE WHEN t >= closes THEN closes ELSE opens END"
            begin = f"{base} + floor((t - ({base})) / {length})::BIGINT * {length}"
            start = f"greatest({begin}, starts)"
            cut = "CASE WHEN t >= opens AND t < closes THEN closes ELSE ends END"
            end = f"least({begin} + {length}, {cut})"
        scale, grow = "1.0", "1.0"
        if splits is not None:
            later = f"FROM {splits} x WHERE x.symbol = r.symbol AND x.execution_date > r.day"
            scale = f"coalesce((SELECT product(x.split_from / x.split_to) {later}), 1.0)"
            grow = f"coalesce((SELECT product(x.split_to / x.split_from) {later}), 1.0)"
        return self.rows(f"""
            WITH scaled AS (
                SELECT symbol, t AS place, {start} AS ts, {end} AS "end", open * f AS open, high * f AS high,
                    low * f AS low, close * f AS close, vwap * f AS vwap,
                    round_even(volume * g * 1e6, 0)::HUGEINT AS v,
                    round_even(vwap * f * 1e6, 0)::HUGEINT AS p, trade_count
                FROM (SELECT r.*, {scale} AS f, {grow} AS g FROM minutes r) r
            ), folded AS (
                SELECT symbol, ts, max("end") AS "end", {self._FOLD}, 1::INTEGER AS sessions
                FROM scaled GROUP BY 1, 2
            )
            SELECT symbol, '{name}' AS timeframe, ts, "end", {self._VALUES}, sessions, true AS complete
            FROM folded ORDER BY 1, 3
        """)

    def grid(self, timeframe: str) -> list[tuple[int, int]]:
        """The windows: of ``<N>d`` by the exchange's count, of minutes those of regular sessions."""
        count = int(timeframe[:-1])
        if timeframe.endswith("d"):
            sql = (
                f"SELECT a.starts, b.ends FROM sessions a JOIN sessions b ON b.idx = a.idx + {count} - 1 "
                f"WHERE a.idx % {count} = 0 ORDER BY 1"
            )
        else:
            length = count * (3_600_000_000 if timeframe.endswith("h") else 60_000_000)
            sql = (
                f"SELECT starts + k * {length}, starts + (k + 1) * {length} FROM sessions, "
                f"range(0, {DAY_US // length + 1}) w(k) WHERE starts + k * {length} < closes "
                f"AND starts + (k + 1) * {length} > opens "
                "AND day >= DATE '2023-08-01' AND day < DATE '2024-06-01' ORDER BY 1"
            )
        return [(int(a), int(b)) for a, b in self.db.execute(sql).fetchall()]

    def fill(
        self, bars: Sequence[Mapping[str, Any]], timeframe: str, until: int, fill: str
    ) -> list[dict[str, Any]]:
        """Bars with rows for the windows that have none, up to an instant."""
        found: list[dict[str, Any]] = []
        for symbol in sorted({bar["symbol"] for bar in bars}):
            own = {bar["ts"]: dict(bar, filled=False) for bar in bars if bar["symbol"] == symbol}
            windows = {ts: end for ts, end in self.grid(timeframe) if min(own) <= ts < until}
            close: float | None = None
            for ts in sorted({*own, *windows}):
                row = own.get(ts)
                if row is None:
                    prev = fill == "prev"
                    price = close if prev else None
                    row = {
                        "symbol": symbol,
                        "timeframe": timeframe,
                        "ts": ts,
                        "end": windows[ts],
                        **dict.fromkeys(("open", "high", "low", "close"), price),
                        "volume": 0.0 if prev else None,
                        "vwap": None,
                        "trade_count": 0 if prev else None,
                        "sessions": 0,
                        "complete": windows[ts] <= until,
                        "filled": True,
                    }
                else:
                    close = row["close"]
                found.append(row)
        return found


#: What is compared with the oracle; flags of who may still change are the reader's.
COMPARED = [name for name in BARS.names if name not in ("final", "revision")]


def plain(table: pa.Table, *more: str) -> list[dict[str, Any]]:
    """Rows of bars with instants as integers."""
    columns: dict[str, Any] = {name: table[name] for name in (*COMPARED, *more)}
    columns |= {name: columns[name].cast(pa.int64()) for name in ("ts", "end")}
    return pa.table(columns).to_pylist()


def days_of(table: pa.Table) -> np.ndarray:
    """The dates of daily rows, days since 1970."""
    return table["session"].combine_chunks().view(pa.int32()).to_numpy()
