"""Keys in PostgreSQL: for several servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extras

from fibflow.serving.keys.sqlite import record_of, row_of
from fibflow.serving.keys.store import KeyRecord, KeysDown, KeysError

_WAIT_S = 2
_LOCK = 0x66696273
_TABLES = """
CREATE TABLE IF NOT EXISTS api_keys (
    id text PRIMARY KEY, digest bytea NOT NULL, owner text NOT NULL, scopes text NOT NULL,
    rate double precision NOT NULL, burst integer NOT NULL, created double precision NOT NULL,
    expires double precision, revoked double precision, last_used double precision);
CREATE TABLE IF NOT EXISTS api_keys_version (version bigint NOT NULL);
INSERT INTO api_keys_version SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM api_keys_version);
"""
# Where they are, nobody need have the right to make them: PostgreSQL asks for it before it looks.
_MISSING = "SELECT to_regclass('api_keys') IS NULL OR to_regclass('api_keys_version') IS NULL"
_CHANGED = "UPDATE api_keys_version SET version = version + 1"
_COLUMNS = "id, digest, owner, scopes, rate, burst, created, expires, revoked, last_used"

T = TypeVar("T")


class PostgresKeys:
    """A store of keys in the tables ``api_keys`` and ``api_keys_version`` of a database.

    One connection, opened at the first question, and again after it was lost.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._connection: Any = None

    def __repr__(self) -> str:
        return "PostgresKeys()"

    def version(self) -> int:
        """Return the number of changes; -1 where there are no tables."""

        def question(cursor: Any) -> int:
            cursor.execute("SELECT version FROM api_keys_version")
            return int(cursor.fetchone()[0])

        return self._ask(question, -1)

    def all(self) -> list[KeyRecord]:
        """Return all keys, the oldest first."""

        def question(cursor: Any) -> list[KeyRecord]:
            cursor.execute(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created, id")
            return [record_of(row) for row in cursor.fetchall()]

        return self._ask(question, [])

    def add(self, record: KeyRecord) -> None:
        """Keep a key.

        Raises:
            KeysError: there is one of this id.
        """

        def change(cursor: Any) -> None:
            # Two that make the tables at the same time would collide within PostgreSQL's catalogue.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            cursor.execute(_MISSING)
            if cursor.fetchone()[0]:
                cursor.execute(_TABLES)
            places = ", ".join(["%s"] * len(row))
            cursor.execute(f"INSERT INTO api_keys ({_COLUMNS}) VALUES ({places})", row)
            cursor.execute(_CHANGED)

        row = row_of(record)
        try:
            self._ask(change, None)
        except psycopg2.errors.UniqueViolation:
            raise KeysError(f"there is a key {record.id} already: make another") from None

    def revoke(self, key_id: str, at: datetime) -> bool:
        """Let a key be used no more from an instant on."""

        def change(cursor: Any) -> bool:
            cursor.execute(
                "UPDATE api_keys SET revoked = %(at)s "
                "WHERE id = %(id)s AND (revoked IS NULL OR revoked > %(at)s)",
                {"at": at.timestamp(), "id": key_id},
            )
            done = bool(cursor.rowcount)
            if done:
                cursor.execute(_CHANGED)
            return done

        return self._ask(change, False)

    def touch(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were used last."""
        rows = [(key_id, at.timestamp()) for key_id, at in used.items()]

        def change(cursor: Any) -> None:
            psycopg2.extras.execute_values(
                cursor,
                "UPDATE api_keys k SET last_used = greatest(coalesce(k.last_used, 0), v.at) "
                "FROM (VALUES %s) AS v (id, at) WHERE k.id = v.id",
                rows,
                "(%s::text, %s::double precision)",
            )

        if rows:
            self._ask(change, None)

    def close(self) -> None:
        """Close the connection; a later question opens another."""
        with self._lock:
            self._drop()

    def _ask(self, question: Callable[[Any], T], nothing: T) -> T:
        """Return an answer, asked again on a new connection where the one at hand was lost meanwhile."""
        with self._lock:
            fresh = self._connection is None
            try:
                return self._once(question, nothing)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                self._drop()
                if fresh:
                    raise _down(error) from None
            try:
                return self._once(question, nothing)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                self._drop()
                raise _down(error) from None

    def _once(self, question: Callable[[Any], T], nothing: T) -> T:
        if self._connection is None:
            self._connection = psycopg2.connect(
                self._url,
                connect_timeout=_WAIT_S,
                options=f"-c statement_timeout={_WAIT_S * 1000}",
                tcp_user_timeout=_WAIT_S * 1000,
                application_name="fibflow serving",
            )
        try:
            with self._connection, self._connection.cursor() as cursor:
                return question(cursor)
        except psycopg2.errors.UndefinedTable:
            return nothing
        except psycopg2.errors.UniqueViolation:
            raise
        except psycopg2.errors.InsufficientPrivilege as error:
            raise _down(error) from None

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None


def _down(error: Exception) -> KeysDown:
    # What psycopg2 says names the server and the user, never the password.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return KeysDown(f"PostgreSQL does not answer ({lines[0]}): start it, or set DATABASE_URL to where it is")
