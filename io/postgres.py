"""The last rows of ``raw_ohlcv`` in PostgreSQL, for readers where nothing newer answers. No Beam.

The table: ``symbol`` text, ``timestamp`` timestamptz, ``interval`` text, ``open``, ``high``, ``low``,
``close``, ``volume``, ``vwap``, ``trade_count``; its primary key is (symbol, timestamp, interval).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock
from typing import Any

import pyarrow as pa

from fibflow.transforms.schemas import TIMESTAMP

_FIELDS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("ts", TIMESTAMP),
    pa.field("interval", pa.string()),
    pa.field("close", pa.float64()),
    pa.field("volume", pa.float64()),
]
#: What ``last_rows`` gives: the newest rows of each symbol, one an interval. ``ts`` is the row's timestamp.
LAST_ROWS = pa.schema(_FIELDS)

# Along the primary key from its end: a few rows are read of each symbol, whatever the table holds.
_LAST = """
SELECT asked.symbol, (extract(epoch FROM found.timestamp) * 1000000)::bigint, found.interval,
       found.close::float8, found.volume::float8
FROM unnest(%s::text[]) AS asked (symbol)
CROSS JOIN LATERAL (
    SELECT timestamp, interval, close, volume FROM raw_ohlcv
    WHERE symbol = asked.symbol AND close IS NOT NULL
    ORDER BY timestamp DESC FETCH FIRST 1 ROW WITH TIES
) AS found
ORDER BY asked.symbol, found.interval
"""

# Lines of libpq's that repeat parts of the URL, in which a password may be.
_REPEATS = ("invalid dsn", "translate host name", "invalid port", "invalid integer", "URI")


class PostgresError(Exception):
    """PostgreSQL does not answer, or refuses; one line that says what to do, without the URL."""


class NoTable(PostgresError):
    """PostgreSQL answers, but has no table ``raw_ohlcv``."""


@dataclass
class RawOhlcv:
    """Reads ``raw_ohlcv``. Safe to use from several threads; opens its connections at the first call.

    Attributes:
        url: ``postgresql://user@host/database``.
        timeout_s: of connecting and of one statement.
        connections: at most.

    Every method raises ``PostgresError`` when PostgreSQL does not answer or refuses.
    """

    url: str = field(repr=False)
    timeout_s: float = 1.0
    connections: int = 4
    _idle: list[Any] = field(init=False, repr=False, default_factory=list)
    _lock: Any = field(init=False, repr=False, default_factory=Lock)
    _slots: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._slots = BoundedSemaphore(self.connections)

    def last_rows(self, symbols: Sequence[str]) -> pa.Table:
        """Return the newest rows (``LAST_ROWS``) of symbols, sorted by symbol and interval.

        A symbol has a row for each interval that its newest timestamp has, and none where it is not there.

        Raises:
            NoTable: there is no such table.
            PostgresError: as ever.
        """
        # PostgreSQL's text holds no NUL, and refuses the whole list for one.
        asked = sorted({symbol for symbol in symbols if "\0" not in symbol})
        rows = self._ask(_LAST, (asked,))
        columns: list[Any] = []
        for place, field_ in enumerate(LAST_ROWS):
            plain: Any = pa.int64() if field_.type == TIMESTAMP else field_.type
            columns.append(pa.array([row[place] for row in rows], plain).cast(field_.type))
        return pa.table(columns, schema=LAST_ROWS)

    def check(self) -> None:
        """Return where PostgreSQL answers."""
        self._ask("SELECT 1", ())

    def close(self) -> None:
        """Close the connections that are idle; a later call opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, statement: str, arguments: Sequence[Any]) -> list[tuple]:
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            return cursor.fetchall()

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        import psycopg2

        if not self._slots.acquire(timeout=self.timeout_s):
            raise PostgresError("PostgreSQL is busy: all connections are in use")
        connection = None
        try:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._open()
            yield connection
            with self._lock:
                self._idle.append(connection)
        except psycopg2.Error as error:
            if connection is not None:
                connection.close()
            # The others of the pool are as dead, where the server was away.
            if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
                self.close()
            raise _explained(error) from None
        finally:
            self._slots.release()

    def _open(self) -> Any:
        import psycopg2

        connection = psycopg2.connect(
            self.url,
            connect_timeout=max(1, round(self.timeout_s)),
            options=f"-c statement_timeout={round(self.timeout_s * 1000)}",
            application_name="fibflow",
            keepalives_idle=10,
            tcp_user_timeout=round(self.timeout_s * 1000),
        )
        connection.set_session(readonly=True, autocommit=True)
        return connection


def _explained(error: Any) -> PostgresError:
    code, lines = error.pgcode, str(error).strip().splitlines()
    line = lines[0] if lines else code or type(error).__name__
    if code == "42P01":
        return NoTable("PostgreSQL has no table raw_ohlcv there")
    if code == "57014":
        return PostgresError("PostgreSQL takes too long: see that raw_ohlcv has its primary key")
    if code is not None:
        return PostgresError(f"PostgreSQL refuses: {line}")
    if any(word in line for word in _REPEATS):
        line = "the address cannot be used: write postgresql://user@host:5432/database"
        return PostgresError(f"PostgreSQL: {line}")
    return PostgresError(f"PostgreSQL does not answer ({line}): start it, or correct its address")
