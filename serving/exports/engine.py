"""DuckDB over the lake's files: how many bars each symbol has, and the bars of a block of symbols.

What counts where both tables have a bar is what ``io.readbars`` says, here as SQL. Values are parameters or
registered tables, never part of the text.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from fibflow.io import coverage
from fibflow.io.rowfilter import plain_array
from fibflow.io.storage import LakeError
from fibflow.serving.exports.files import Files, Stretch, files_of, source_of
from fibflow.transforms.schemas import BARS

#: All exports of a process share this much memory; what a sort needs beyond it goes to files, up to so many.
MEMORY_MB, TEMP_MB, THREADS = 256, 1_024, 1
#: Up to so many symbols are named one by one: row groups without them are not read.
_FEW = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_000_000
_PARAMETER = re.compile(r"\$([a-z]+\d*)")


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Block:
    """Symbols whose bars are read at once: those between ``first`` and ``last``, both included.

    Attributes:
        names: which of them; None for all.
        start, end: of ``ts``, where a symbol has too many bars to be read at once.
        rows: how many bars there are at most.
    """

    first: str
    last: str
    names: tuple[str, ...] | None
    start: int | None
    end: int | None
    rows: int


class Engine:
    """One in-memory database for a process. Safe to use from several threads."""

    def __init__(self, memory_mb: int = MEMORY_MB, temp_mb: int = TEMP_MB, threads: int = THREADS) -> None:
        self._lock = threading.Lock()
        self._temp_mb = temp_mb
        # DuckDB makes the folder when it needs it, and takes it away with the database.
        self._folder = Path(tempfile.gettempdir()) / f"fibflow-exports-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._options: dict[str, Any] = {
            "memory_limit": f"{memory_mb}MB",
            "threads": threads,
            "temp_directory": str(self._folder),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._database: duckdb.DuckDBPyConnection | None = None

    def session(self) -> Session:
        """Return a connection for one export."""
        with self._lock:
            if self._database is None:
                self._database = duckdb.connect(":memory:", config=self._options)
                # DuckDB 2.0 does not keep to it where it is set with the others.
                self._database.execute(f"SET GLOBAL max_temp_directory_size = '{self._temp_mb:d}MB'")
                # Each block opens the same files.
                self._database.execute("SET GLOBAL parquet_metadata_cache = true")
            return Session(self._database.cursor())

    def close(self) -> None:
        """Give the memory back; sessions that are open end with an error."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


@dataclass
class Session:
    """What one export asks the database. For one thread at a time; ``cancel`` may come from another."""

    connection: duckdb.DuckDBPyConnection
    _cancelled: bool = field(default=False, init=False)

    def cancel(self) -> None:
        """End the question that runs, and refuse others."""
        self._cancelled = True
        self.connection.interrupt()

    def close(self) -> None:
        """Give the connection back."""
        self.connection.close()

    def ask(self, text: str, values: dict[str, Any], tables: dict[str, Any]) -> pa.Table:
        """Return what a query gives.

        Raises:
            Cancelled: ``cancel`` was called.
            LakeError: a file cannot be read.
        """
        if self._cancelled:
            raise Cancelled
        # DuckDB refuses values that a text does not name.
        used = set(_PARAMETER.findall(text))
        try:
            for name, table in tables.items():
                self.connection.register(name, table)
            found = self.connection.sql(text, params={n: values[n] for n in used}).to_arrow_table()
            for name in tables:
                self.connection.unregister(name)
        except duckdb.Error as error:
            if self._cancelled:
                raise Cancelled from error
            raise LakeError(f"the lake's files cannot be read: {str(error).splitlines()[0]}") from error
        return found


@dataclass(frozen=True)
class Scan:
    """The bars of a stretch, in blocks.

    Attributes:
        session: to ask.
        stretch: which bars.
        official, streamed: files of ``silver.bars``, and those of ``silver.live`` that have a window which
            ``silver.bars`` does not speak for.
    """

    session: Session
    stretch: Stretch
    official: Files
    streamed: Files

    @classmethod
    def of(cls, session: Session, stretch: Stretch) -> Scan:
        """Find the files."""
        bars, live = stretch.view.bars, stretch.view.live
        hidden = stretch.view.covered(stretch.timeframe)
        nothing = Files(stretch.view.tables[0].storage)
        return cls(
            session,
            stretch,
            nothing if bars is None else files_of(bars, stretch, ()),
            nothing if live is None else files_of(live, stretch, hidden),
        )

    def blocks(self, most_rows: int) -> list[Block]:
        """Cut the stretch into blocks of about ``most_rows`` bars, sorted; a block is never empty.

        Raises:
            Cancelled, LakeError: as ``Session.ask``.
        """
        counted = self._counted()
        names: list[Any] = counted["symbol"].to_pylist()
        counts: list[Any] = counted["rows"].to_pylist()
        firsts: list[Any] = counted["first"].to_pylist()
        lasts: list[Any] = counted["last"].to_pylist()
        found: list[Block] = []
        group: list[str] = []
        rows = 0

        def close() -> None:
            nonlocal group, rows
            if group:
                own = None if self.stretch.symbols is None else tuple(group)
                found.append(Block(group[0], group[-1], own, None, None, rows))
            group, rows = [], 0

        for name, count, first, last in zip(names, counts, firsts, lasts, strict=True):
            if rows + count > most_rows:
                close()
            if count > most_rows:
                found += _slices(name, count, first, last, most_rows)
                continue
            group.append(name)
            rows += count
        close()
        return found

    def _counted(self) -> pa.Table:
        """Return how many rows each symbol has, and between which ``ts`` (UTC microseconds), sorted."""
        parts: list[str] = []
        values: dict[str, Any] = {}
        tables: dict[str, Any] = {}
        symbols = self.stretch.symbols
        bounds = (symbols[0], symbols[-1]) if symbols else None
        for name, files in (("official", self.official), ("streamed", self.streamed)):
            if files.files:
                source, more, kept = source_of(name, files)
                condition, own = self._condition(bounds, symbols, None, None, tables)
                parts.append(f"SELECT symbol, ts FROM {source} WHERE {condition}")
                values |= more | own
                tables |= kept
        if not parts:
            return pa.table({name: plain_array([], kind) for name, kind in _COUNTED.items()})
        text = (
            'SELECT symbol, count(*) AS rows, epoch_us(min(ts)) AS "first", epoch_us(max(ts)) AS "last" '
            f"FROM ({' UNION ALL '.join(parts)}) GROUP BY symbol ORDER BY symbol"
        )
        return self.session.ask(text, values, tables)

    def read(self, block: Block, columns: Sequence[str]) -> pa.Table:
        """Return the bars of a block, each once, sorted by symbol and ts.

        Args:
            block: of ``blocks``.
            columns: names of ``schemas.BARS``.

        Raises:
            Cancelled, LakeError: as ``Session.ask``.
        """
        official, streamed = (
            files.within(block.first, block.last) for files in (self.official, self.streamed)
        )
        tables: dict[str, Any] = {}
        bounds = (block.first, block.last)
        condition, values = self._condition(bounds, block.names, block.start, block.end, tables)
        values["timeframe"] = self.stretch.timeframe
        wanted = ", ".join(
            '$timeframe AS "timeframe"' if name == "timeframe" else f'"{name}"' for name in columns
        )
        if not streamed.files:
            if not official.files:
                return _empty(columns)
            source, more, kept = source_of("official", official)
            text = f"SELECT {wanted} FROM {source} WHERE {condition} ORDER BY symbol, ts"
            return _as_bars(self.session.ask(text, values | more, tables | kept), columns)
        parts = []
        for name, files in (("official", official), ("streamed", streamed)):
            if files.files:
                source, more, kept = source_of(name, files)
                parts.append(_RANKED[name].format(source=source, condition=condition))
                values |= more
                tables |= kept
        tables["hidden"] = _hidden(self.stretch.view.covered(self.stretch.timeframe))
        tables["commits"] = pa.table(
            {
                "path": plain_array(streamed.paths, pa.string()),
                "commit": plain_array([file.modified for file in streamed.files], pa.int64()),
            }
        )
        text = (
            f"SELECT {wanted} FROM ({' UNION ALL BY NAME '.join(parts)}) "
            "QUALIFY row_number() OVER (PARTITION BY symbol, ts "
            "ORDER BY rank DESC, commit DESC, revision DESC, final DESC) = 1 ORDER BY symbol, ts"
        )
        return _as_bars(self.session.ask(text, values, tables), columns)

    def _condition(
        self,
        bounds: tuple[str, str] | None,
        names: Collection[str] | None,
        start: int | None,
        end: int | None,
        tables: dict[str, Any],
    ) -> tuple[str, dict[str, Any]]:
        """Return a condition and its values; a long list of names becomes a table."""
        stretch = self.stretch
        start = stretch.start if start is None else start
        end = stretch.end if end is None else end
        texts, values = ["TRUE"], dict[str, Any]()
        if bounds is not None:
            texts.append("symbol >= $first AND symbol <= $last")
            values |= {"first": bounds[0], "last": bounds[1]}
        if names is not None and len(names) > _FEW:
            texts.append("symbol IN (SELECT name FROM wanted)")
            tables["wanted"] = pa.table({"name": plain_array(list(names), pa.string())})
        elif names is not None and len(names) > 1:
            own = {f"name{number}": name for number, name in enumerate(names)}
            texts.append(f"symbol IN ({', '.join(f'${key}' for key in own)})")
            values |= own
        if start is not None:
            texts.append("ts >= $start")
            values["start"] = _instant(start)
        if end is not None:
            texts.append("ts < $end")
            values["end"] = _instant(end)
        if stretch.complete_only:
            texts.append("complete")
        return " AND ".join(texts), values


_COUNTED = {"symbol": pa.string(), "rows": pa.int64(), "first": pa.int64(), "last": pa.int64()}
_RANKED = {
    "official": (
        "SELECT * EXCLUDE (path), CASE WHEN complete THEN 2 ELSE 0 END AS rank, 0::BIGINT AS commit "
        "FROM (SELECT *, '' AS path FROM {source}) WHERE {condition}"
    ),
    "streamed": (
        "SELECT s.* EXCLUDE (path), 1 AS rank, c.commit FROM {source} s JOIN commits c ON c.path = s.path "
        'WHERE {condition} AND NOT EXISTS (SELECT 1 FROM hidden h WHERE epoch_us(s."end") <= h.until '
        "AND epoch_us(s.ts) >= h.since)"
    ),
}


def _slices(name: str, count: int, first: int, last: int, most_rows: int) -> list[Block]:
    """Cut one symbol's bars by time, evenly."""
    pieces = -(-count // most_rows)
    cuts = [first + (last + 1 - first) * number // pieces for number in range(pieces + 1)]
    names = (name,)
    return [Block(name, name, names, start, stop, -(-count // pieces)) for start, stop in pairwise(cuts)]


def _hidden(stretches: coverage.Stretches) -> pa.Table:
    since = [_EARLIEST if start is None else start for start, _ in stretches]
    until = [end for _, end in stretches]
    return pa.table({"since": plain_array(since, pa.int64()), "until": plain_array(until, pa.int64())})


def _instant(micros: int) -> datetime:
    """Return an instant that DuckDB takes: within the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=min(max(micros, _EARLIEST), _LATEST))


def _empty(columns: Sequence[str]) -> pa.Table:
    return pa.schema([BARS.field(name) for name in columns]).empty_table()


def _as_bars(found: pa.Table, columns: Sequence[str]) -> pa.Table:
    return found.cast(pa.schema([BARS.field(name) for name in columns]))
