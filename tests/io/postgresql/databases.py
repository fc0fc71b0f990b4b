"""A PostgreSQL of the tests' own: a database each, empty or migrated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa

from fibflow.io.postgresql import migrate
from fibflow.runners.services.stack import Stack
from fibflow.transforms.schemas import TIMESTAMP

DAY = 86_400_000_000
#: 2 January 2024.
T0 = 1_704_153_600_000_000
#: Of users whose password is asked for.
GUARDED, PASSWORD = "guarded", "hush-hush"


class Databases:
    """Makes databases. ``GUARDED`` is a user whose password is asked for, and who may do nothing."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._base, _, self.first = stack.env["DATABASE_URL"].rpartition("/")
        self._numbers = itertools.count()
        rules = stack.folder / "postgres" / "data" / "pg_hba.conf"
        rules.write_text(f"host all {GUARDED} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        execute(
            self.url(self.first),
            "SELECT pg_reload_conf()",
            f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'",
            "CREATE DATABASE migrated",
        )
        migrate.upgrade(self.url("migrated"))

    def url(self, name: str, user: str | None = None, password: str | None = None) -> str:
        """The address of a database, for its owner or another user."""
        if user is None:
            return f"{self._base}/{name}"
        secret = "" if password is None else f":{password}"
        return f"postgresql://{user}{secret}@{self._base.rpartition('@')[2]}/{name}"

    def make(self, template: str = "template1") -> str:
        """Make a database and return its address."""
        name = f"t{next(self._numbers)}"
        execute(self.url(self.first), f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@contextmanager
def databases(folder: Path) -> Iterator[Databases]:
    """Start a server."""
    with Stack(["postgres"], folder=folder) as stack:
        yield Databases(stack)


def execute(url: str, *statements: str) -> None:
    """Run statements, each on its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def select(url: str, statement: str, *arguments: Any) -> list[tuple]:
    """Return the rows of a query."""
    with (
        closing(psycopg2.connect(url, options="-c TimeZone=UTC")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement, arguments)
        return list(cursor.fetchall())


def bars(*rows: tuple[str | None, int, float | None]) -> pa.Table:
    """Bars of (symbol, day from ``T0``, close)."""
    closes = pa.array([close for _, _, close in rows], pa.float64())
    columns: dict[str, Any] = {
        "symbol": pa.array([symbol for symbol, _, _ in rows], pa.string()),
        "ts": pa.array([T0 + day * DAY for _, day, _ in rows], pa.int64()).cast(TIMESTAMP),
        **dict.fromkeys(("open", "high", "low", "close"), closes),
        "volume": pa.array([100.0] * len(rows), pa.float64()),
    }
    return pa.table(columns)


_CLOSES = """
SELECT symbol, (extract(epoch FROM timestamp)::bigint - %s) / 86400, close FROM raw_ohlcv WHERE interval = %s
"""


def closes(url: str, interval: str = "1d") -> dict[tuple[str, int], float]:
    """The close of each bar, by symbol and day from ``T0``."""
    found = select(url, _CLOSES, T0 // 1_000_000, interval)
    return {(symbol, int(day)): close for symbol, day, close in found}


_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def waits(url: str, most: int = 1) -> bool:
    """Whether so many sessions of a database wait for a lock."""
    return select(url, _WAITING)[0][0] >= most


def rows(schema: pa.Schema, *given: dict[str, Any]) -> pa.Table:
    """Rows with those columns of a schema that the first one has."""
    return pa.Table.from_pylist(list(given), pa.schema([schema.field(name) for name in given[0]]))
