"""What a quality report reads of a lake, no more than its sessions, and where it is written.

Tables come in parts: no more than some files of minutes are in memory at once.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables, ticksessions
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.io.reference import RENAMES, SYMBOLS, read_reference
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import Snapshot
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.quality.bars import COLUMNS
from fibflow.transforms.quality.span import Span

FOLDER, LATEST = "_quality", "latest.json"
#: Files that are read at once.
_AT_ONCE = 4
_MINUTE = "1m"
_KEYS = ("symbol", "ts")


class QualityReader:
    """Reads one version of each table.

    Args:
        lake: where.

    Raises:
        LakeError: there is neither a table of days nor one of minutes; a table cannot be read.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._snapshots: dict[str, Snapshot | None] = {}
        if all(self._snapshot(spec) is None for spec in (tables.DAILY, tables.MINUTES, tables.LIVE)):
            raise LakeError(
                f"there is nothing to look at in {lake.uri}: pipelines.load and pipelines.stream make it"
            )

    def _snapshot(self, spec: TableSpec) -> Snapshot | None:
        if spec.name not in self._snapshots:
            table = self._lake.table(spec)
            self._snapshots[spec.name] = table.snapshot() if table.exists else None
        return self._snapshots[spec.name]

    @property
    def calendar_name(self) -> str | None:
        """The calendar that the tables were made with."""
        for spec in (tables.DAILY, tables.MINUTES, tables.LIVE):
            snapshot = self._snapshot(spec)
            if snapshot is not None and (name := snapshot.properties.get(tables.CALENDAR)):
                return name
        return None

    @property
    def has_days(self) -> bool:
        """Whether there are official days."""
        snapshot = self._snapshot(tables.DAILY)
        return snapshot is not None and len(snapshot) > 0

    def newest(self, calendar: TradingCalendar) -> int:
        """The position of the newest session: of official days, without them of the minutes that ended.

        Raises:
            LakeError: no table has one.
        """
        daily, minutes, live = (self._snapshot(s) for s in (tables.DAILY, tables.MINUTES, tables.LIVE))
        if daily is not None and (day := _most(daily, "session")) is not None:
            return calendar.position_on_or_before(day)
        found = -1
        if minutes is not None and (ts := _most(minutes, "ts")) is not None:
            found = int(calendar.positions_at(np.array([ts], np.int64))[0])
        if live is not None and (until := ticksessions.final_until(live)) is not None:
            found = max(found, int(np.searchsorted(calendar.day_ends, until, side="right")) - 1)
        if found < 0:
            raise LakeError(f"no session has ended in {self._lake.uri}: come again when one has")
        return found

    # Rows --------------------------------------------------------------------------------------------------

    def days(self, span: Span) -> pa.Table:
        """Official days: ``symbol``, ``session`` and prices; none where there is no table."""
        names = ["symbol", "session", *COLUMNS]
        snapshot = self._snapshot(tables.DAILY)
        if snapshot is None:
            return tables.DAILY.schema.empty_table().select(names)
        first, last = int(span.days[0]), int(span.days[-1])
        return snapshot.read(names, None, first, last + 1, dictionary=("symbol",))[0]

    def minute_keys(self, span: Span) -> Iterator[pa.Table]:
        """``symbol`` and ``ts`` of the minutes before the window as they are stored, some keys twice."""
        if not span.judged:
            return
        for spec in (tables.MINUTES, tables.BARS, tables.LIVE):
            where = None if spec is tables.MINUTES else {"timeframe": _MINUTE}
            yield from self._parts(spec, _KEYS, span.start(0), span.start(span.judged), where)

    def official_minutes(self, span: Span) -> Iterator[pa.Table]:
        """Official minutes of the window, with prices."""
        yield from self._parts(tables.MINUTES, (*_KEYS, *COLUMNS), span.start(span.judged), span.stop)

    def minute_bars(self, span: Span) -> Iterator[pa.Table]:
        """The one-minute bars of the window as readers see them, with prices, a session at a time."""
        if not any(
            snapshot is not None and _MINUTE in snapshot.timeframes
            for snapshot in map(self._snapshot, (tables.BARS, tables.LIVE))
        ):
            return
        view = LakeReader(self._lake).view()
        for place in range(span.judged, len(span)):
            stop = span.stop if place + 1 == len(span) else span.start(place + 1)
            found = view.read((*_KEYS, *COLUMNS), None, _MINUTE, span.start(place), stop)
            if len(found):
                yield found

    def live_bars(self, span: Span) -> Iterator[pa.Table]:
        """Bars of the stream that begin in the window, of other timeframes than a minute."""
        snapshot = self._snapshot(tables.LIVE)
        others = sorted(snapshot.timeframes - {_MINUTE}) if snapshot is not None else []
        if others:
            names = ("timeframe", *_KEYS, *COLUMNS)
            start, where = span.start(span.judged), {"timeframe": others}
            yield from self._parts(tables.LIVE, names, start, span.stop, where)

    def _parts(
        self,
        spec: TableSpec,
        names: Sequence[str],
        start: int,
        stop: int,
        where: dict[str, Any] | None = None,
    ) -> Iterator[pa.Table]:
        snapshot = self._snapshot(spec)
        if snapshot is None or not len(snapshot):
            return
        condition = Filter.of(spec, None, start, stop, where)
        files = snapshot.located(condition)
        for begin in range(0, len(files), _AT_ONCE):
            parts, _ = snapshot.parts(files[begin : begin + _AT_ONCE], names, condition, ("symbol",))
            yield from (part for part in parts if len(part))

    # What others have found --------------------------------------------------------------------------------

    def differences(self, span: Span) -> pa.Table:
        """``session``, ``timeframe``, ``why`` and ``count`` of what the daily run's reconciliation found."""
        snapshot, names = self._snapshot(tables.RECONCILIATION), ["session", "timeframe", "why"]
        if snapshot is None:
            rows = tables.RECONCILIATION.schema.empty_table().select(names)
        else:
            rows, _ = snapshot.read(names, None, span.start(span.judged), span.stop)
        return _counted(rows, names)

    def refused(self, span: Span) -> pa.Table:
        """``ts``, ``reason`` of the refused rows whose time is in the window."""
        snapshot, names = self._snapshot(tables.DEAD_LETTERS), ["ts", "reason"]
        if snapshot is None:
            return tables.DEAD_LETTERS.schema.empty_table().select(names)
        # A daily row may be stamped at midnight UTC, before its session's day begins.
        start = min(span.start(span.judged), int(span.days[span.judged]) * 86_400_000_000)
        return snapshot.read(names, None, start, span.stop)[0]

    def undated(self) -> pa.Table:
        """``reason`` and ``count`` of all refused rows that have no time."""
        snapshot = self._snapshot(tables.DEAD_LETTERS)
        rows = tables.DEAD_LETTERS.schema.empty_table()
        if snapshot is not None:
            known = "null_count.ts" in snapshot.files.column_names
            counts = snapshot.files.column("null_count.ts").to_pylist() if known else []
            without = {p for p, n in zip(snapshot.unquoted_paths, counts, strict=False) if n == 0}
            files = [file for file in snapshot.select() if file.path not in without]
            parts, _ = snapshot.parts(files, ["ts", "reason"], Filter({}))
            rows = pa.concat_tables(parts)
            rows = rows.filter(pc.is_null(rows["ts"]))
        return _counted(rows.select(["reason"]), ["reason"])

    def reference(self) -> tuple[pa.Table, pa.Table]:
        """``reference.symbols`` and ``reference.renames``, without rows where there is no table."""
        symbols, _ = read_reference(self._lake, SYMBOLS)
        renames, _ = read_reference(self._lake, RENAMES)
        return symbols, renames


def _most(snapshot: Snapshot, column: str) -> int | None:
    """The greatest value of a column by the files' statistics, as an integer in its unit."""
    if not len(snapshot):
        return None
    found: Any = pc.max(snapshot.files.column(f"max.{column}"))
    kind = pa.int32() if pa.types.is_date32(found.type) else pa.int64()
    number = found.cast(kind).as_py()
    return None if number is None else int(number)


def _counted(rows: pa.Table, names: list[str]) -> pa.Table:
    # The stubs do not know of counts.
    count: list[Any] = [([], "count_all")]
    counted = rows.group_by(names).aggregate(count)
    found = counted.select([*names, "count_all"]).rename_columns([*names, "count"])
    return found.sort_by([(name, "ascending") for name in names])


def write_report(lake: Lake, document: dict[str, Any], day: str) -> list[str]:
    """Write a report as the newest one, and as that of a day; return the places.

    A reader sees the one before or this one, never a part.

    Raises:
        LakeError: the lake cannot be written.
    """
    storage = Storage(lake.uri, lake.aws).child(FOLDER)
    content = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    # The newest one last: whoever sees it finds the other.
    names = [f"{day}.json", LATEST]
    try:
        for name in names:
            if storage.is_s3:
                storage.write(name, content)
            else:
                _replace(Path(storage.path(name)), content)
    except OSError as error:
        raise LakeError(storage.explain("write to", error)) from error
    return [f"{storage.uri}/{name}" for name in names]


def _replace(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with staged.open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
