"""From a question to an export: which versions, which source, which blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from fastapi import FastAPI
from pyarrow.fs import FileType

from fibflow.serving.exports.engine import Cancelled, Engine, Scan, Session
from fibflow.serving.exports.files import Stretch
from fibflow.serving.exports.request import ExportQuery
from fibflow.serving.exports.stream import Export, Slots
from fibflow.serving.exports.writers import writer_of
from fibflow.serving.history.bars import History
from fibflow.serving.history.lakestate import Tables
from fibflow.serving.history.records import SymbolRows, table_of_rows
from fibflow.serving.history.sources import Source, Stored
from fibflow.serving.problems import Problem, bad_request
from fibflow.serving.reference import Reference
from fibflow.serving.services import Services
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.schemas import BARS

#: About how many bars are read, and held in memory, at once.
BLOCK_ROWS = 131_072
#: How many symbols are computed at once, at most.
_COMPUTED = 256
_NAMED = 10
#: Of so many symbols at most rows come from those that were decoded before; others are scanned.
_FEW = 1_000
_ALL_ROWS = 1 << 40


@dataclass(frozen=True)
class Plan:
    """What an export reads: one version of each table.

    Attributes:
        tables: these versions.
        source: of the bars.
        calendar: of the bars.
        versions: of the tables, and of what else the answer hangs on.
        kept: the rows of all symbols were decoded before.
    """

    tables: Tables
    source: Source
    calendar: TradingCalendar
    versions: tuple[int, ...]
    kept: bool = False

    @property
    def versions_text(self) -> str:
        """The versions as ``as_of`` takes them."""
        names = ("bars", "live", "daily", "minutes")
        return ",".join(
            f"{name}:{version}" for name, version in zip(names, self.tables.versions, strict=True)
        )


class Exporter:
    """Makes exports, for one server process. ``plan`` blocks; ``begin`` is for the event loop.

    Args:
        history: where the tables, and the sources of their bars, come from.
        reference: for how many symbols there are, and which splits.
        clock: now, UTC.
        at_once: how many exports run at a time.
        engine: that reads stored bars.
        block_rows: how many bars are held in memory at once, of each export.
        wait_s: how long an export may wait for its turn, seconds.
    """

    def __init__(
        self,
        history: History,
        reference: Reference,
        clock: Callable[[], datetime],
        at_once: int,
        engine: Engine | None = None,
        block_rows: int = BLOCK_ROWS,
        wait_s: float = 10.0,
    ) -> None:
        self._history, self._reference, self._clock = history, reference, clock
        self._engine = engine or Engine()
        self._block_rows = block_rows
        self.slots = Slots(at_once, wait_s=wait_s)

    def plan(self, query: ExportQuery) -> Plan:
        """Find out what a question reads.

        Raises:
            Problem: it cannot be answered.
        """
        if query.declined and self._history.terms().price_basis == "split-adjusted":
            raise bad_request(
                "this lake's prices are split-adjusted, and what they were before is not known: "
                "leave adjusted out",
                "bad_adjusted",
            )
        tables, source, calendar = self._history.source_of(query.bars)
        more: tuple[int, ...] = ()
        if query.bars.adjusted:
            # Splits that are to come have not happened yet.
            more = (self._reference.listing().version, self._clock().toordinal())
        kept = isinstance(source, Stored) and _is_at_hand(source, query.bars.symbols)
        return Plan(tables, source, calendar, (*tables.versions, *more), kept)

    async def begin(self, query: ExportQuery, plan: Plan) -> Export:
        """Wait for a place and return an export of which nothing is read yet.

        Raises:
            Problem: 429, too many run.
        """
        await self.slots.place()
        try:
            writer = writer_of(query.form, query.needed, query.alone, query.bars.timeframe, plan.calendar)
            if plan.kept and isinstance(plan.source, Stored):
                stop = _Stop()
                return Export(self.slots, self._kept(plan.source, query, stop), writer, stop.set, _nothing)
            if isinstance(plan.source, Stored):
                session = self._engine.session()
                tables = self._stored(session, query, plan)
                return Export(self.slots, tables, writer, session.cancel, session.close)
            stop = _Stop()
            return Export(self.slots, self._computed(query, plan, stop), writer, stop.set, _nothing)
        except BaseException:
            self.slots.give_back()
            raise

    def lacks_files(self, plan: Plan) -> bool:
        """Return whether vacuum has taken files of the versions that a plan reads; asks the filesystem."""
        for table in plan.tables.present:
            paths = [table.storage.path(path) for path in table.unquoted_paths]
            infos = table.storage.filesystem.get_file_info(paths)
            if any(info.type == FileType.NotFound for info in infos):
                return True
        return False

    def close(self) -> None:
        """Give threads and memory back."""
        self.slots.close()
        self._engine.close()

    def _stored(self, session: Session, query: ExportQuery, plan: Plan) -> Iterator[pa.Table]:
        """Yield the bars that the lake has."""
        bars = query.bars
        stretch = Stretch(
            plan.tables.view, bars.timeframe.name, bars.symbols, bars.start, bars.end, bars.complete_only
        )
        scan = Scan.of(session, stretch)
        blocks = scan.blocks(self._block_rows)
        if bars.symbols is not None:
            _check_known(plan.source, bars.symbols, {name for block in blocks for name in block.names or ()})
        for block in blocks:
            yield scan.read(block, query.needed)

    def _kept(self, source: Stored, query: ExportQuery, stop: _Stop) -> Iterator[pa.Table]:
        """Yield the bars that the lake has of some symbols whose rows were decoded before."""
        bars = query.bars
        assert bars.symbols is not None
        _check_known(source, bars.symbols, set(filter(source.has, bars.symbols)))
        schema = pa.schema([BARS.field(name) for name in query.needed])
        parts: list[SymbolRows] = []
        count = 0
        for name in bars.symbols:
            stop.check()
            rows = source.records(name, bars.start, bars.end, _ALL_ROWS, True, False)
            if parts and (rows is None or count + len(rows) > self._block_rows):
                yield table_of_rows(parts, schema)
                parts, count = [], 0
            if rows is None:
                # Of a file that the store cannot keep.
                yield source.between((name,), bars.start, bars.end).select(schema.names)
            elif len(rows):
                parts.append(rows)
                count += len(rows)
        if parts:
            yield table_of_rows(parts, schema)

    def _computed(self, query: ExportQuery, plan: Plan, stop: _Stop) -> Iterator[pa.Table]:
        """Yield bars that are made for this question, of some symbols at a time."""
        bars = query.bars
        symbols: Sequence[str] = plan.source.symbols() if bars.symbols is None else bars.symbols
        if bars.symbols is not None:
            _check_known(plan.source, bars.symbols, set())
        # About as many symbols as have the rows of a block, if all have as many.
        each = plan.source.weight(bars.start, bars.end) // max(1, len(self._reference.listing().table))
        step = min(max(1, self._block_rows // max(1, each)), _COMPUTED)
        for start in range(0, len(symbols), step):
            stop.check()
            block = symbols[start : start + step]
            yield plan.source.between(block, bars.start, bars.end).select(list(query.needed))


def _nothing() -> None:
    pass


def _is_at_hand(source: Stored, symbols: Sequence[str] | None) -> bool:
    # Bars of minutes are too many to be held symbol by symbol.
    if symbols is None or len(symbols) > _FEW or source.timeframe.is_intraday:
        return False
    return all(map(source.holds, symbols))


def _check_known(source: Source, asked: Sequence[str], found: set[Any]) -> None:
    """Raise Problem where a symbol has nothing in the lake, at any time."""
    missing = [name for name in asked if name not in found]
    if not missing:
        return
    held = source.held(missing)
    unknown = [name for name in missing if name not in held]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise Problem(
            404,
            f"the lake has no such bars of {', '.join(unknown[:_NAMED])}{more}: "
            "/v1/symbols lists what it has",
            "unknown_symbol",
            symbols=unknown[:1000],
        )


class _Stop:
    """Ends an export between two blocks."""

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise where it was asked for."""
        if self._asked:
            raise Cancelled


def exporter_of(app: FastAPI) -> Exporter:
    """Return the application's exporter; the first call makes it."""
    found: Exporter | None = getattr(app.state, "exporter", None)
    if found is None:
        shared: Services = app.state.services
        found = app.state.exporter = Exporter(
            shared.history, shared.reference, shared.clock, shared.settings.exports_at_once
        )
    return found


def close_exporter(app: FastAPI) -> None:
    """Close the application's exporter where there is one; the next call of ``exporter_of`` makes another."""
    found: Exporter | None = getattr(app.state, "exporter", None)
    if found is not None:
        found.close()
        del app.state.exporter
