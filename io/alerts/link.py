"""A worker's connection to PostgreSQL: short of patience, for while it waits a bundle does."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg2
import psycopg2.extensions

from fibflow.io.postgresql.session import DRIVER, Connection, PostgresError, explained

T = TypeVar("T")
_MILLIS = 1_000
_ADDRESS = "the alerts' database has no such address: write postgresql://user@host:5432/database"


class Away(PostgresError):
    """PostgreSQL failed a moment ago, and was not asked again."""


@dataclass
class Circuit:
    """Whether PostgreSQL may be asked: not for a while after it failed. For all links of a process.

    Attributes:
        pause_s: for how long it is left alone.
        clock: seconds that only grow.
    """

    pause_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _until: float | None = field(default=None, init=False)

    @property
    def is_open(self) -> bool:
        """Whether it is left alone now."""
        return self._until is not None and self.clock() < self._until

    @property
    def has_failed(self) -> bool:
        """Whether the last question was not answered."""
        return self._until is not None

    def failed(self) -> None:
        """Leave it alone from now on."""
        self._until = self.clock() + self.pause_s

    def answered(self) -> None:
        """Take note that it answers."""
        self._until = None


@dataclass
class Link:
    """Asks PostgreSQL over one connection, opened with the first question. For one thread at a time.

    Attributes:
        url: ``postgresql://user@host/database``; the password comes from ``PGPASSWORD`` or ``~/.pgpass`` of
            the process that asks.
        circuit: shared with the others that ask the same server.
        connect_s: of connecting, whole seconds.
        answer_s: of one statement, waiting for locks included.
        autocommit: each statement is a transaction.
    """

    url: str = field(repr=False)
    circuit: Circuit = field(default_factory=Circuit)
    connect_s: int = 2
    answer_s: float = 5.0
    autocommit: bool = False
    _connection: Connection = field(default=None, init=False, repr=False)

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Return what a question makes of the connection; it begins and ends its transactions itself.

        Raises:
            Away: the circuit is open.
            PostgresError: PostgreSQL does not answer, or refuses. The next question opens a new connection.
        """
        if self.circuit.is_open:
            raise Away("PostgreSQL failed a moment ago")
        try:
            found = question(self._open())
        except (psycopg2.Error, PostgresError) as error:
            self.close()
            told = error if isinstance(error, PostgresError) else explained(error, self.url)
            self.circuit.failed()
            raise told from None
        self.circuit.answered()
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._connection is None:
            answer_ms = round(self.answer_s * _MILLIS)
            made = psycopg2.connect(
                DRIVER.sub("postgresql://", self.url, count=1),
                connect_timeout=self.connect_s,
                application_name="fibflow alerts",
                client_encoding="UTF8",
                options=f"-c TimeZone=UTC -c DateStyle=ISO -c statement_timeout={answer_ms}",
                keepalives_idle=10,
                # Longer than a statement may take: it is for servers that are gone.
                tcp_user_timeout=2 * answer_ms,
            )
            made.autocommit = self.autocommit
            self._connection = made
        return self._connection


def check(url: str) -> None:
    """Look whether a database is there that has alerts.

    Args:
        url: as of ``Link``.

    Raises:
        ValueError: it is no such address, or a password stands in it; one line that says what to do.
        PostgresError: PostgreSQL does not answer or refuses, or the database is not migrated.
    """
    from fibflow.io.alerts import feed

    if password(url) is not None:
        raise ValueError(
            "the address of the alerts' database is kept with the job, and holds a password: leave it out, "
            "and give it in PGPASSWORD or ~/.pgpass, here and where the workers run"
        )
    link = Link(url, connect_s=10, answer_s=10.0, autocommit=True)
    try:
        link.ask(feed.last_revision)
    finally:
        link.close()


def password(url: str) -> Any:
    """Return the password that stands in an address, or None.

    Raises:
        ValueError: it is none of PostgreSQL's.
    """
    if not DRIVER.match(url):
        raise ValueError(_ADDRESS)
    try:
        return psycopg2.extensions.parse_dsn(DRIVER.sub("postgresql://", url, count=1)).get("password")
    except (psycopg2.Error, UnicodeError, ValueError):
        raise ValueError(_ADDRESS) from None
