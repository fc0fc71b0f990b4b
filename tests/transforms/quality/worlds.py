"""Full lakes of a few symbols, into which holes are punched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.tests.transforms.tables import calendar
from fibflow.transforms.quality.assess import Told, assess
from fibflow.transforms.quality.evidence import OFFICIAL, Evidence
from fibflow.transforms.quality.report import QualityReport
from fibflow.transforms.quality.span import Span
from fibflow.transforms.schemas import DAILY_ROWS, DEAD_LETTERS, MINUTE_ROWS, RENAMES, SYMBOLS

XNYS = calendar()
NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
QUIET = 3
MINUTE = 60_000_000

#: (symbol, place of the session), (symbol, place, minute of the session)
Cell = tuple[str, int]
MinuteCell = tuple[str, int, int]


def span_until(last: str, window: int = 5, before: int = 20) -> Span:
    """The span that ends with the session of a date."""
    day = np.datetime64(last, "D").astype(int)
    return Span.until(XNYS, XNYS.position_on_or_before(int(day)), window, before)


def date_of(span: Span, place: int) -> date:
    return span.days[place].astype("datetime64[D]").item()


def priced(columns: dict[str, Any], schema: pa.Schema, prices: Mapping[str, float] | None = None) -> pa.Table:
    """Rows of one price each, or as told."""
    rows = len(next(iter(columns.values())))
    values = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "volume": 100.0, **(prices or {})}
    columns = columns | {name: np.full(rows, value) for name, value in values.items()}
    arrays = [
        pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(rows, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def day_rows(span: Span, cells: Collection[Cell], prices: Mapping[str, float] | None = None) -> pa.Table:
    ordered = sorted(cells)
    columns = {
        "symbol": pa.array([symbol for symbol, _ in ordered], pa.string()),
        "session": pa.array([date_of(span, place) for _, place in ordered], pa.date32()),
    }
    return priced(columns, DAILY_ROWS, prices)


def minute_rows(span: Span, cells: Collection[MinuteCell], prices: Mapping[str, float] | None = None) -> Any:
    ordered = sorted(cells)
    ts = [int(span.opens[place]) + minute * MINUTE for _, place, minute in ordered]
    columns = {
        "symbol": pa.array([symbol for symbol, *_ in ordered], pa.string()),
        "ts": pa.array(ts, pa.int64()).cast(pa.timestamp("us", "UTC")),
    }
    return priced(columns, MINUTE_ROWS, prices)


@dataclass
class Lives:
    """From which place to which (included) symbols have something, and what is known of them."""

    span: Span
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    symbols: list[dict[str, Any]] = field(default_factory=list)
    renames: list[dict[str, Any]] = field(default_factory=list)

    def old(self, symbol: str) -> None:
        self._add(symbol, 0, len(self.span) - 1)

    def listed(self, symbol: str, place: int) -> None:
        self._add(symbol, place, len(self.span) - 1)
        self.symbols[-1]["listed"] = date_of(self.span, place)

    def delisted(self, symbol: str, place: int) -> None:
        """Its last session is the one before a place."""
        self._add(symbol, 0, place - 1)
        self.symbols[-1] |= {"active": False, "delisted": date_of(self.span, place)}

    def renamed(self, symbol: str, new: str, place: int) -> None:
        self._add(symbol, 0, place - 1)
        self.symbols.pop()
        self._add(new, place, len(self.span) - 1)
        self.renames.append({"symbol": new, "old_symbol": symbol, "date": date_of(self.span, place)})

    def _add(self, symbol: str, first: int, last: int) -> None:
        self.first[symbol], self.last[symbol] = first, last
        self.symbols.append({"symbol": symbol, "active": True})

    @property
    def cells(self) -> set[Cell]:
        return {
            (symbol, place)
            for symbol, first in self.first.items()
            for place in range(first, self.last[symbol] + 1)
        }

    def holes(self) -> list[Cell]:
        """Where a hole may be punched so that only this symbol's row is missing, and it is known to be."""
        end = len(self.span) - 1
        return sorted(
            (symbol, place)
            for symbol, place in self.cells
            if place >= self.span.judged
            and place > self.first[symbol]
            # Of a life that has ended nobody knows that a later row should be there.
            and (place < self.last[symbol] or self.last[symbol] == end)
        )

    def told(self) -> Told:
        differences = pa.table(
            {
                "session": pa.array([], pa.date32()),
                "timeframe": pa.array([], pa.string()),
                "why": pa.array([], pa.string()),
                "count": pa.array([], pa.int64()),
            }
        )
        return Told(
            rows(self.symbols, SYMBOLS),
            rows(self.renames, RENAMES),
            differences,
            DEAD_LETTERS.empty_table().select(["ts", "reason"]),
            differences.select(["why", "count"]).rename_columns(["reason", "count"]),
        )


def rows(given: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in given], schema)


def report_of(
    lives: Lives,
    days: Collection[Cell],
    minutes: Collection[MinuteCell] = (),
    before: int = 10,
    quiet: int = QUIET,
) -> QualityReport:
    """What is said of cells that are there; minutes of all of the span."""
    seen = Evidence(lives.span, before)
    early = {cell for cell in minutes if cell[1] < lives.span.judged}
    seen.see_keys(minute_rows(lives.span, early))
    seen.see_minutes(OFFICIAL, minute_rows(lives.span, set(minutes) - early, {"volume": 0.25}))
    seen.see_days(day_rows(lives.span, days))
    return assess(seen, lives.told(), quiet, has_days=True, now=NOW)
