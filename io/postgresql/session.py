"""Connections for writers, and what PostgreSQL refuses as one line that holds no secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from fibflow.io.postgres import PostgresError

__all__ = ["Connection", "PostgresError", "Unmigrated", "connect", "explained", "retried", "session", "told"]

#: Of ``psycopg2``, which has no types.
Connection = Any
T = TypeVar("T")

_ATTEMPTS = 5
_CONNECT_S = 10
_DEAD_AFTER_MS = 60_000
#: Other programs' names of a driver: ``postgresql+psycopg2://``.
DRIVER = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
# Lines of libpq's that repeat parts of the URL, in which a password may be.
_REPEATS = ("dsn", "translate host name", "invalid port", "invalid integer", "URI", "connection option")
_ADDRESS = "the address cannot be used: write postgresql://user@host:5432/database"


class Unmigrated(PostgresError):
    """The database lacks a table or a column of this release: ``pipelines.database upgrade`` makes it."""


def connect(url: str, *, program: str = "fibflow", lock_timeout_s: float = 0) -> Connection:
    """Open a connection whose times are UTC and whose text is UTF-8.

    Args:
        url: ``postgresql://user@host/database``. The password may stand in it, in ``PGPASSWORD`` or in
            ``~/.pgpass``.
        program: what the server shows as the application's name.
        lock_timeout_s: how long a statement waits for a lock; 0 for as long as it takes.

    Raises:
        PostgresError: it cannot be opened.
    """
    try:
        return psycopg2.connect(
            DRIVER.sub("postgresql://", url, count=1),
            connect_timeout=_CONNECT_S,
            application_name=program,
            client_encoding="UTF8",
            options=f"-c TimeZone=UTC -c DateStyle=ISO -c lock_timeout={round(lock_timeout_s * 1000)}",
            keepalives_idle=10,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=_DEAD_AFTER_MS,
        )
    except psycopg2.Error as error:
        raise explained(error, url) from None
    except (UnicodeError, ValueError):
        # A NUL, or half a character.
        raise PostgresError(f"PostgreSQL: {_ADDRESS}") from None


@contextmanager
def session(where: str | Connection, *, program: str = "fibflow") -> Iterator[Connection]:
    """Yield a connection: of a URL one of its own, committed at the end; else the one given, left as it is.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses. Nothing of an own connection is kept then.
    """
    if not isinstance(where, str):
        with told():
            yield where
        return
    connection = connect(where, program=program)
    try:
        with told(where):
            yield connection
            connection.commit()
    finally:
        with suppress(psycopg2.Error):
            connection.close()


@contextmanager
def told(url: str = "") -> Iterator[None]:
    """Raise what psycopg2 raises as a ``PostgresError``."""
    try:
        yield
    except psycopg2.Error as error:
        raise explained(error, url) from None


def retried(where: str | Connection, work: Callable[[Connection], T]) -> T:
    """Return what ``work`` makes of a connection, in one transaction.

    With a URL it is done again where the server ended it in favour of another writer; so it must be safe to
    do twice. In a transaction of the caller's that is the caller's to decide.

    Raises:
        PostgresError: as ``session``.
    """
    last = _ATTEMPTS if isinstance(where, str) else 1
    for attempt in range(1, last + 1):
        try:
            with session(where) as connection:
                return work(connection)
        except PostgresError as error:
            if attempt == last or not isinstance(error, _GivenWay):
                raise
    raise AssertionError


class _GivenWay(PostgresError):
    """The server ended a transaction in favour of another one's."""


def explained(error: Any, url: str = "") -> PostgresError:
    """Return one line on an error of psycopg2's: what is wrong and what to do, without a password."""
    found = _explained(error)
    password = _password(url)
    if password and password in str(found):
        return PostgresError(f"PostgreSQL: {_ADDRESS}")
    return found


def _explained(error: Any) -> PostgresError:
    code = error.pgcode
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    line = lines[0] if lines else code or type(error).__name__
    if code is None:
        return PostgresError(_of_connection(line))
    if code in ("40P01", "40001"):
        return _GivenWay(f"PostgreSQL ended this in favour of another writer ({line}): run again")
    if code in ("42P01", "42703"):
        return Unmigrated(f"PostgreSQL refuses: {line}; run pipelines.database upgrade first")
    advice = _ADVICE.get(code) or _ADVICE.get(code[:2])
    return PostgresError(f"PostgreSQL refuses: {line}" + (f"; {advice}" if advice else ""))


_ADVICE = {
    "42501": "GRANT that to this user, or name another in the URL",
    "25006": "it is a replica or read-only: name the primary in the URL",
    "55P03": "another session holds the table: end it, or run again later",
    "57014": "a time limit of the server or the user ended it: raise statement_timeout",
    "2BP01": "something of yours hangs on it: drop that first",
    "53": "the server lacks disk, memory or connections: make room and run again",
    "57": "the server is being stopped or started: run again",
}


def _of_connection(line: str) -> str:
    """Return the line for a connection that cannot be opened, or was lost."""
    # libpq begins with the address that it tried, which holds no secret, and the server's own word.
    said = re.sub(r"^connection to server (?:at|on) .*? failed: ", "", line).removeprefix("FATAL:").strip()
    if "password authentication failed" in said or "no password supplied" in said or "SCRAM" in said:
        return (
            f"PostgreSQL refuses the password ({said}): correct it in the URL, PGPASSWORD or ~/.pgpass"
            if not any(word in line for word in _REPEATS)
            else f"PostgreSQL: {_ADDRESS}"
        )
    if re.search(r'(database|role) ".*" does not exist', said):
        return f"PostgreSQL: {said}: create it, or correct the URL"
    if any(word in line for word in _REPEATS):
        return f"PostgreSQL: {_ADDRESS}"
    if "no pg_hba.conf entry" in said:
        return f"PostgreSQL does not let this user in from here ({said}): see its pg_hba.conf"
    return f"PostgreSQL does not answer ({said}): start it, or correct its address, and run again"


def _password(url: str) -> str | None:
    try:
        return psycopg2.extensions.parse_dsn(DRIVER.sub("postgresql://", url, count=1)).get("password")
    except (psycopg2.Error, UnicodeError, ValueError):
        return None
