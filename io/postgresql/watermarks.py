"""How far jobs have come: ``data_ingestion_watermark``. A watermark moves forward only.

A trigger keeps each step in ``data_ingestion_watermark_history``, also one that was made by hand.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import NamedTuple

from fibflow.io.postgresql.session import Connection, retried, session

__all__ = ["Step", "Watermark", "advance", "history", "read", "read_all"]

_ADVANCE = """
INSERT INTO data_ingestion_watermark AS stored (job, key, watermark, position, run, updated)
VALUES (%(job)s, %(key)s, %(to)s, %(position)s, %(run)s, now())
ON CONFLICT (job, key) DO UPDATE SET watermark = excluded.watermark, position = excluded.position,
    run = excluded.run, updated = excluded.updated
WHERE stored.watermark < excluded.watermark
"""
_COLUMNS = "job, key, watermark, position, run, updated"


class Watermark(NamedTuple):
    """How far a job has come with one of its keys.

    Attributes:
        job: such as ``export``.
        key: what of, such as a table or a symbol.
        watermark: up to when, UTC.
        position: where in its source, in the job's own words; None where it has none.
        run: the run that moved it last.
        updated: when that was.
    """

    job: str
    key: str
    watermark: datetime
    position: str | None
    run: str | None
    updated: datetime


class Step(NamedTuple):
    """A change of a watermark: from ``before`` (None: there was none) to ``after`` (None: it was removed)."""

    before: datetime | None
    after: datetime | None
    position: str | None
    run: str | None
    changed: datetime


def advance(
    where: str | Connection,
    job: str,
    key: str,
    to: datetime | date,
    run: str,
    *,
    position: str | None = None,
) -> bool:
    """Move a watermark forward, and return whether it moved: it does not where it is there or further.

    Args:
        where: ``postgresql://user@host/database``, for a transaction of its own; or a connection of psycopg2,
            so that the watermark moves with the rows that the transaction writes, or not at all.
        job: the job's name.
        key: what of.
        to: an instant with a zone; a date is its midnight in UTC.
        run: the run's id.
        position: where in the source that is, for the job's next run.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    asked = {"job": job, "key": key, "to": _instant(to), "run": run, "position": position}

    def moved(connection: Connection) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(_ADVANCE, asked)
            return bool(cursor.rowcount)

    return retried(where, moved)


def read(where: str | Connection, job: str, key: str) -> Watermark | None:
    """Return a watermark, None where there is none. Raises PostgresError."""
    found = _rows(
        where, f"SELECT {_COLUMNS} FROM data_ingestion_watermark WHERE job = %s AND key = %s", job, key
    )
    return Watermark(*found[0]) if found else None


def read_all(where: str | Connection, job: str) -> list[Watermark]:
    """Return a job's watermarks, sorted by key. Raises PostgresError."""
    statement = f"SELECT {_COLUMNS} FROM data_ingestion_watermark WHERE job = %s"
    return sorted(Watermark(*row) for row in _rows(where, statement, job))


def history(where: str | Connection, job: str, key: str) -> list[Step]:
    """Return each step of a watermark, the oldest first. Raises PostgresError."""
    statement = (
        "SELECT before, after, position, run, changed FROM data_ingestion_watermark_history "
        "WHERE job = %s AND key = %s ORDER BY id"
    )
    return [Step(*row) for row in _rows(where, statement, job, key)]


def _rows(where: str | Connection, statement: str, *arguments: str) -> list[tuple]:
    with session(where) as connection, connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        return list(cursor.fetchall())


def _instant(to: datetime | date) -> datetime:
    if not isinstance(to, datetime):
        return datetime(to.year, to.month, to.day, tzinfo=UTC)
    if to.tzinfo is None:
        raise ValueError(f"{to.isoformat()} has no zone")
    return to
