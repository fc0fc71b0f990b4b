"""Lakes of the stand-in: a market as one, another lake seen through, and what changes in them to order.

A lake that is seen through is never written to: its files, which nobody ever changes, are linked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.lake import Lake, LakeTable, Scope
from fibflow.io.news.articles import rows_of
from fibflow.io.news.table import NewsTable
from fibflow.io.reference import upsert
from fibflow.io.snapshot import read_files
from fibflow.io.storage import LakeError, Storage
from fibflow.serving.standin.faults import draw
from fibflow.serving.standin.market import Market
from fibflow.transforms.calendar import load_calendar

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

Changed = Callable[[pa.Table], pa.Table]

_PRICES = ("open", "high", "low", "close", "volume", "vwap", "trade_count")
_TABLES = (tables.DAILY, tables.MINUTES)
#: A market may lie in the future.
_LAST = datetime(9000, 1, 1, tzinfo=UTC)


def write_market(market: Market, uri: str, minutes_of: Iterable[date] = ()) -> Lake:
    """Write a market as a new lake of raw prices: its days, its reference data, the minutes of some sessions.

    Args:
        market: what to write.
        uri: a folder that is not there, or empty.
        minutes_of: sessions of the market.
    """
    lake = Lake(uri)
    write_rows(lake, tables.DAILY, market.daily)
    sessions = sorted(set(minutes_of))
    if sessions:
        write_rows(lake, tables.MINUTES, pa.concat_tables([market.minutes(session) for session in sessions]))
    known = (
        (tables.SYMBOLS, market.symbols),
        (tables.SPLITS, market.splits),
        (tables.DIVIDENDS, market.dividends),
        (tables.RENAMES, market.renames),
    )
    for spec, rows in known:
        if len(rows):
            upsert(lake.table(spec), rows, "market")
    return lake


def write_rows(lake: Lake, spec: TableSpec, rows: pa.Table) -> None:
    """Write rows of days or minutes as a new table of raw prices.

    Files are small, a month of days or a day of minutes: the vendor is asked for all symbols of a day.

    Args:
        lake: of the table.
        spec: ``tables.DAILY`` or ``tables.MINUTES``.
        rows: of ``schemas.DAILY_ROWS`` or ``schemas.MINUTE_ROWS``, symbols plain or not.
    """
    table = lake.table(spec)
    time, unit, length = ("session", "M", 4) if spec is tables.DAILY else ("ts", "D", 7)
    zeros = np.zeros(len(rows), np.int64)
    given = {"source": pa.array(zeros), "landed": pa.array(zeros.astype(np.int32))}
    columns = [given[name] if name in given else rows[name] for name in spec.file_schema.names]
    stored = pa.table(columns, names=spec.file_schema.names).cast(spec.file_schema)
    stored = stored.sort_by([(name, "ascending") for name in spec.sort_by])
    names = np.datetime_as_string(stored[time].to_numpy().astype(f"datetime64[{unit}]"))
    files = []
    for name in np.unique(names).tolist():
        part = stored.filter(pa.array(names == name))
        files.append(table.writer().write(part, {"period": name[:length]}, f"market-{name}"))
    properties = {tables.CALENDAR: "XNYS", tables.PRICE_BASIS: "raw"}
    table.commit(files, base_version=table.version, scope=Scope(), run="market", properties=properties)


def seen_through(uri: str, folder: Path) -> Lake:
    """Return a lake with the same rows as another, which can be changed without touching it.

    Args:
        uri: of a lake in a folder.
        folder: where the new one comes, on the same disk where that can be.

    Raises:
        LakeError: the lake lies in a bucket, or is not there.
    """
    storage = Storage(uri)
    if storage.is_s3:
        raise LakeError(f"{uri}: faults that change data need a lake in a folder")
    base = Path(storage.base)
    if not base.is_dir():
        raise LakeError(f"there is no lake at {uri}")
    shutil.copytree(base, folder, copy_function=_linked)
    return Lake(str(folder))


def publish(lake: Lake, articles: Sequence[Any]) -> int:
    """Write articles, the vendor's objects, into a lake, and return how many were new or changed.

    Raises:
        ValueError: one of them is none.
    """
    if not articles:
        return 0
    rows, refused = rows_of(articles, _LAST)
    if refused:
        raise ValueError(f"what was to be published has an {refused[0].reason.replace('_', ' ')}")
    done = NewsTable(lake).write(rows, lake.new_id()[:16])
    return done.new + done.changed


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Editor:
    """Changes a lake's days and minutes, and takes it back. For one thread at a time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._number = 0
        self._before: dict[str, int] = {}

    def correct(self, symbol: str, session: date, values: Mapping[str, float]) -> int:
        """Give a symbol's day other values, and return how many rows that changed.

        Raises:
            ValueError: a value is of no column of a day.
        """
        if strange := sorted(set(values) - set(_PRICES)):
            raise ValueError(f"{strange[0]} is no value of a day: name some of {', '.join(_PRICES)}")

        def changed(rows: pa.Table) -> pa.Table:
            hit = pc.and_(pc.equal(rows["symbol"], symbol), pc.equal(rows["session"], session))
            for name, value in values.items():
                at = rows.schema.get_field_index(name)
                field = rows.schema.field(at)
                given = pa.scalar(value).cast(field.type)
                rows = rows.set_column(at, field, pc.if_else(hit, given, rows[name]))
            return rows

        return self._change(tables.DAILY, changed, [symbol], session, session)

    def publish(self, articles: Sequence[Any]) -> int:
        """Let there be articles: new ones, or others in the places of those with their ids; return how many.

        Raises:
            ValueError: one of them is none.
        """
        return publish(self._lake, articles)

    def hide(
        self,
        symbols: Collection[str] | None = None,
        first: date | None = None,
        last: date | None = None,
        share: float = 1.0,
        seed: int = 0,
    ) -> int:
        """Take rows away, of days and of minutes, and return how many.

        Args:
            symbols: whose; None for all.
            first: of the sessions; None for no bound.
            last: likewise.
            share: such a part of the symbols, drawn by the seed.
            seed: of the draw.
        """
        return sum(
            self._change(spec, self._hidden(spec, symbols, first, last, share, seed), symbols, first, last)
            for spec in _TABLES
        )

    def heal(self) -> None:
        """Take all changes back."""
        for spec in _TABLES:
            table = self._lake.table(spec)
            if (version := self._before.pop(spec.name, None)) is None:
                continue
            then, now = table.snapshot(version).select(), table.snapshot()
            kept = {file.path for file in then}
            self._number += 1
            # Written anew: a snapshot's files come without their statistics.
            back = [
                self._rewritten(table, file, read_files(table.storage, spec, [file])[0], place)
                for place, file in enumerate(file for file in then if file.path not in now.paths)
            ]
            gone = [file for file in now.select() if file.path not in kept]
            table.commit(back, gone, base_version=now.version, scope=Scope(), run=f"edit-{self._number}")

    def _rewritten(self, table: LakeTable, file: DataFile, rows: pa.Table, place: int) -> DataFile:
        stored = rows.select(table.spec.file_schema.names)
        return table.writer().write(stored, dict(file.partition), f"edit-{self._number}-{place}")

    def _hidden(
        self,
        spec: TableSpec,
        symbols: Collection[str] | None,
        first: date | None,
        last: date | None,
        share: float,
        seed: int,
    ) -> Changed:
        def changed(rows: pa.Table) -> pa.Table:
            gone = np.ones(len(rows), np.bool_)
            if symbols is not None:
                gone &= _mask(pc.is_in(rows["symbol"], value_set=pa.array(sorted(symbols), pa.string())))
            days = self._days(spec, rows)
            if first is not None:
                gone &= days >= np.datetime64(first)
            if last is not None:
                gone &= days <= np.datetime64(last)
            if share < 1:
                names: Any = rows["symbol"].combine_chunks().dictionary_encode()
                drawn = [draw(seed, name) < share for name in names.dictionary.to_pylist()]
                gone &= np.array(drawn, np.bool_)[names.indices.to_numpy()]
            return rows.filter(pa.array(~gone))

        return changed

    def _days(self, spec: TableSpec, rows: pa.Table) -> npt.NDArray[Any]:
        if spec is tables.DAILY:
            return rows["session"].to_numpy().astype("datetime64[D]")
        calendar = load_calendar(self._lake.table(spec).properties.get(tables.CALENDAR, "XNYS"))
        return calendar.local_days(rows["ts"].to_numpy().astype(np.int64)).astype("datetime64[D]")

    def _change(
        self,
        spec: TableSpec,
        changed: Changed,
        symbols: Collection[str] | None,
        first: date | None,
        last: date | None,
    ) -> int:
        table: LakeTable = self._lake.table(spec)
        if not table.exists:
            return 0
        self._number += 1
        snapshot = table.snapshot()
        self._before.setdefault(spec.name, snapshot.version)
        removed, added, count = [], [], 0
        for file in snapshot.select(None if symbols is None else sorted(symbols)):
            rows, _ = read_files(table.storage, spec, [file])
            after = changed(rows)
            if after.equals(rows):
                continue
            removed.append(file)
            count += max(len(rows) - len(after), _differing(rows, after))
            if len(after):
                added.append(self._rewritten(table, file, after, len(removed)))
        if removed:
            table.commit(
                added, removed, base_version=snapshot.version, scope=Scope(), run=f"edit-{self._number}"
            )
        return count


def _differing(a: pa.Table, b: pa.Table) -> int:
    if len(a) != len(b):
        return 0
    differs = np.zeros(len(a), np.bool_)
    for name in _PRICES:
        same = pc.or_(
            pc.equal(a[name], b[name]).fill_null(False), pc.and_(a[name].is_null(), b[name].is_null())
        )
        differs |= ~_mask(same)
    return int(differs.sum())


def _mask(found: Any) -> npt.NDArray[np.bool_]:
    array = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return np.asarray(array.to_numpy(zero_copy_only=False))
