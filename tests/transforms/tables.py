"""Rows as dicts to tables and back, and calendars, for the tests of the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import DAILY_ROWS, MINUTE_ROWS, RAW

RANK = pa.field("rank", pa.int32())


@cache
def calendar(name: str = "XNYS") -> TradingCalendar:
    return load_calendar(name)


def us(text: str, zone: str = "UTC") -> int:
    """The instant of an ISO date or time on a zone's clock, in UTC microseconds."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000


def ny(text: str) -> int:
    return us(text, "America/New_York")


def days(*dates: str) -> list[int]:
    """Days since 1970."""
    return [(date.fromisoformat(text) - date(1970, 1, 1)).days for text in dates]


def row(symbol: str | None, when: object, price: float = 10.0, **values: object) -> dict:
    """A row of one price, unless told otherwise; ``when`` is its ``ts`` or ``session``."""
    return {
        "symbol": symbol,
        "session" if isinstance(when, date) else "ts": when,
        **dict.fromkeys(("open", "high", "low", "close"), price),
        "volume": 100.0,
        **values,
    }


def table(rows: Sequence[dict], schema: pa.Schema, rank: bool = True) -> pa.Table:
    columns = schema.append(RANK) if rank else schema
    arrays = []
    for field in columns:
        values = pa.array([row.get(field.name) for row in rows], plain(field.type))
        arrays.append(values.dictionary_encode() if pa.types.is_dictionary(field.type) else values)
    return pa.table(arrays, names=columns.names).cast(columns)


def raw(rows: Sequence[dict], rank: bool = True) -> pa.Table:
    return table(rows, RAW, rank)


def daily(rows: Sequence[dict], rank: bool = True) -> pa.Table:
    return table(rows, DAILY_ROWS, rank)


def minutes(rows: Sequence[dict], rank: bool = True) -> pa.Table:
    return table(rows, MINUTE_ROWS, rank)


def plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def address(rows: pa.Table, name: str) -> int:
    """Where a column of one chunk lies in memory."""
    column: Any = rows[name].chunk(0)
    return column.buffers()[1].address


def dictionary(rows: pa.Table, name: str) -> list[str]:
    column: Any = rows[name].chunk(0)
    return column.dictionary.to_pylist()


def dicts(rows: pa.Table) -> list[dict]:
    """Rows as dicts, with instants as UTC microseconds."""
    for number, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            values: Any = rows[field.name].cast(pa.int64())
        elif pa.types.is_dictionary(field.type):
            values = rows[field.name].cast(plain(field.type))
        else:
            continue
        rows = rows.set_column(number, field.name, values)
    return rows.to_pylist()


def by_key(bars: Iterable[pa.Table]) -> dict[tuple[str, str, int], dict]:
    """Bars as dicts by (symbol, timeframe, ts); a key twice is an error."""
    found: dict[tuple[str, str, int], dict] = {}
    for part in bars:
        for bar in dicts(part):
            key = (bar["symbol"], bar["timeframe"], bar["ts"])
            assert key not in found, f"two bars of {key}"
            found[key] = bar
    return found
