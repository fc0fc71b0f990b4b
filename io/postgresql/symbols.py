"""Reference data into PostgreSQL: ``symbol_metadata``, splits, dividends and renames.

Each change of a row is kept in the table's history by a trigger, whoever makes it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.postgresql.session import Connection, retried
from fibflow.io.postgresql.upserts import Target, Upserted, upsert
from fibflow.transforms import schemas

__all__ = ["DIVIDENDS", "RENAMES", "SPLITS", "SYMBOLS", "upsert_reference", "upsert_symbols"]

SYMBOLS = Target("symbol_metadata", ("symbol",), schemas.SYMBOLS, aside=("updated",))
SPLITS = Target("symbol_splits", ("symbol", "execution_date"), schemas.SPLITS)
DIVIDENDS = Target("symbol_dividends", ("symbol", "ex_dividend_date", "id"), schemas.DIVIDENDS)
RENAMES = Target("symbol_renames", ("symbol", "date"), schemas.RENAMES)


def upsert_symbols(
    where: str | Connection, rows: pa.Table, *, run: str = "", known: datetime | None = None
) -> Upserted:
    """Bring ``symbol_metadata`` up to date; arguments and errors are those of ``upsert_reference``.

    A new symbol of which nothing else is said is active where it has no day of delisting.
    """
    return upsert_reference(where, SYMBOLS, rows, run=run, known=known)


def upsert_reference(
    where: str | Connection,
    target: Target,
    rows: pa.Table,
    *,
    run: str = "",
    known: datetime | None = None,
    whole: bool = False,
) -> Upserted:
    """Bring a table of reference data up to date; a second call does nothing.

    Args:
        where: ``postgresql://user@host/database``, for a transaction of its own; or a connection of psycopg2,
            for the transaction that it is in, which is not committed.
        target: one of this module's.
        rows: the key and some other columns of the lake's table; others are left aside. A column that is not
            there keeps its stored values. Of several rows of one key the last one counts.
        run: the run's id, for the history.
        known: since when this is known (default: now). What is known later stays.
        whole: ``rows`` are all there are; others are removed.

    Raises:
        PostgresError: PostgreSQL does not answer or refuses, or a row has no key; nothing is kept.
    """
    at = known or datetime.now(UTC)
    return retried(
        where, partial(_upsert, target=target, rows=_activity(rows, target), run=run, at=at, whole=whole)
    )


def _upsert(
    connection: Connection, *, target: Target, rows: pa.Table, run: str, at: datetime, whole: bool
) -> Upserted:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('fibflow.run', %s, true)", (run,))
    return upsert(connection, target, rows, at, whole=whole)


def _activity(rows: pa.Table, target: Target) -> pa.Table:
    """Return rows that say of each symbol whether it is active, where they say it of any."""
    if target is not SYMBOLS or not {"active", "delisted"} & set(rows.column_names):
        return rows
    count = len(rows)
    listed: Any = rows["delisted"].is_null() if "delisted" in rows.column_names else True
    given: Any = rows["active"] if "active" in rows.column_names else pa.nulls(count, pa.bool_())
    active = pc.coalesce(given, listed)
    if "active" in rows.column_names:
        return rows.set_column(rows.column_names.index("active"), "active", active)
    return rows.append_column("active", active)
