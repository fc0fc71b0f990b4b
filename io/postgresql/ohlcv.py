"""Bars into ``raw_ohlcv``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from fibflow.io.postgresql.session import Connection, PostgresError, retried
from fibflow.io.postgresql.upserts import Target, Upserted, upsert
from fibflow.transforms.schemas import TIMESTAMP
from fibflow.transforms.timeframe import Timeframe

__all__ = ["OHLCV", "RAW_OHLCV", "Upserted", "declare_basis", "upsert_ohlcv"]

_FIELDS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("timestamp", TIMESTAMP),
    *(pa.field(name, pa.float64()) for name in ("open", "high", "low", "close", "volume", "vwap")),
    pa.field("trade_count", pa.int64()),
]
#: What ``raw_ohlcv`` holds of a bar, beside its interval.
OHLCV = pa.schema(_FIELDS)
RAW_OHLCV = Target("raw_ohlcv", ("symbol", "timestamp"), OHLCV, fixed=("interval",), time="timestamp")
_BASIS = "raw_ohlcv.price_basis"


def upsert_ohlcv(
    where: str | Connection, rows: pa.Table, interval: str, *, known: datetime | None = None
) -> Upserted:
    """Bring the bars of one interval up to date; a second call does nothing.

    A bar is one piece: columns that ``rows`` lacks are null afterwards. Bars that it does not name stay.

    Args:
        where: ``postgresql://user@host/database``, for a transaction of its own; or a connection of psycopg2,
            for the transaction that it is in, which is not committed.
        rows: ``symbol``, ``ts`` or ``timestamp`` (the bar's start), ``open``, ``high``, ``low``, ``close``,
            ``volume``, and ``vwap``, ``trade_count`` where known; other columns are left aside. Of several
            rows of one key the last one counts.
        interval: its canonical name, such as ``1d`` or ``5m``.
        known: since when this is known (default: now). What is known later stays.

    Raises:
        TimeframeError: an unknown interval.
        PostgresError: PostgreSQL does not answer or refuses, or a row has no symbol or time; nothing is kept.
    """
    name = Timeframe.parse(interval).name
    at = known or datetime.now(UTC)
    bars = _bars(rows)
    return retried(where, lambda found: upsert(found, RAW_OHLCV, bars, at, {"interval": name}))


def _bars(rows: pa.Table) -> pa.Table:
    """Return rows with all columns of ``OHLCV``."""
    columns: list[Any] = []
    for field in OHLCV:
        given = "ts" if field.name == "timestamp" and "ts" in rows.column_names else field.name
        if given in rows.column_names:
            columns.append(rows[given].cast(field.type))
        elif field.name in ("symbol", "timestamp"):
            raise PostgresError(f"bars for raw_ohlcv have no column {field.name}")
        else:
            columns.append(pa.nulls(len(rows), field.type))
    return pa.table(columns, schema=OHLCV)


def declare_basis(where: str | Connection, basis: str) -> None:
    """Note the price basis of ``raw_ohlcv``; it is declared once, and bars of two never mix.

    Args:
        where: as for ``upsert_ohlcv``.
        basis: ``raw`` or ``split-adjusted``.

    Raises:
        PostgresError: the table's is another one.
    """
    held = retried(where, partial(_declared, basis=basis))
    if held != basis:
        raise PostgresError(
            f"raw_ohlcv holds {held} prices, and these are {basis}: use a database for each, or make "
            "raw_ohlcv anew (pipelines.database downgrade --to base, upgrade)"
        )


def _declared(connection: Connection, basis: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO fibflow_properties (name, value) VALUES (%s, %s) ON CONFLICT (name) DO NOTHING",
            (_BASIS, basis),
        )
        cursor.execute("SELECT value FROM fibflow_properties WHERE name = %s", (_BASIS,))
        return str(cursor.fetchone()[0])
