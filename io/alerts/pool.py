"""A few connections for many threads: broken ones are replaced, and a dead PostgreSQL holds nobody up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore, Lock
from typing import Any

import psycopg2
import psycopg2.extensions

from fibflow.io.postgresql.session import DRIVER, Connection, PostgresError, explained

_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError)
_IDLE = psycopg2.extensions.TRANSACTION_STATUS_IDLE


class Pool:
    """Connections to one database. Safe for threads; opens them as they are needed.

    Args:
        url: ``postgresql://user@host/database``.
        timeout_s: of connecting, of waiting for a connection, of one statement, waiting for locks
            included.
        connections: at most.
    """

    def __init__(self, url: str, timeout_s: float, connections: int) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._idle: list[Connection] = []
        self._lock = Lock()
        self._slots = BoundedSemaphore(connections)

    def __repr__(self) -> str:
        return "Pool()"

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Yield a cursor, and commit; where an error leaves it, nothing is kept.

        Raises:
            PostgresError: PostgreSQL does not answer, or refuses; or all connections stay in use.
        """
        if not self._slots.acquire(timeout=self._timeout_s):
            raise PostgresError("PostgreSQL is busy: all connections are in use; try again")
        connection = None
        try:
            connection = self._take()
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg2.Error as error:
            if isinstance(error, _LOST) and error.pgcode is None:
                # The others of the pool are as dead, where the server was away.
                self.close()
            raise explained(error, self._url) from None
        finally:
            self._give(connection)
            self._slots.release()

    def close(self) -> None:
        """Close the connections that are idle; a later transaction opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    def _take(self) -> Connection:
        """Return a connection that answers."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                with connection.cursor() as cursor:
                    # Begins the transaction too. What fails later may have been done already: it is not
                    # for us to do it again.
                    cursor.execute("SELECT 1")
                return connection
            except _LOST:
                _close(connection)
                self.close()
        return self._open()

    def _give(self, connection: Connection | None) -> None:
        if connection is None:
            return
        if connection.closed or connection.get_transaction_status() != _IDLE:
            _close(connection)
            return
        with self._lock:
            self._idle.append(connection)

    def _open(self) -> Connection:
        wait_ms = round(self._timeout_s * 1000)
        settings = {"TimeZone": "UTC", "DateStyle": "ISO", "statement_timeout": wait_ms}
        try:
            return psycopg2.connect(
                DRIVER.sub("postgresql://", self._url, count=1),
                connect_timeout=max(2, round(self._timeout_s)),
                options=" ".join(f"-c {name}={value}" for name, value in settings.items()),
                client_encoding="UTF8",
                application_name="fibflow alerts",
                keepalives_idle=10,
                tcp_user_timeout=wait_ms,
            )
        except (UnicodeError, ValueError):
            # A NUL, or half a character.
            raise PostgresError(
                "PostgreSQL: the address cannot be used: write postgresql://user@host:5432/database"
            ) from None


def _close(connection: Connection) -> None:
    with suppress(psycopg2.Error):
        connection.close()
