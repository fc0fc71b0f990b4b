"""A notifier's connection to the outbox: woken by new events, and patient where PostgreSQL is away."""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psycopg2

from fibflow.io.alerts.outbox import CHANNEL
from fibflow.io.notify.status import Status
from fibflow.io.postgresql.session import Connection, PostgresError, connect, told

T = TypeVar("T")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_LOCK_S, _STATEMENT_MS = 30.0, 120_000


class Wake:
    """Ends a wait, from any thread and from a signal's handler."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def set(self) -> None:
        """End the wait that is, or the next."""
        with suppress(BlockingIOError, OSError):  # it is set as it is, or nobody waits any more
            self._writer.send(b"w")

    def clear(self) -> None:
        """Take what was set."""
        with suppress(BlockingIOError):
            while self.reader.recv(4_096):
                pass

    def close(self) -> None:
        """Close it."""
        self.reader.close()
        self._writer.close()


class Outbox:
    """Does work on one connection, and opens it again where it was lost. For one thread.

    Args:
        url: of the database.
        status: is told whether PostgreSQL answers.
        say: is told what a person should read.
        clock: seconds that only grow.
        dice: parts workers that lost it together.
        patient: ask again where it is away; else that is an error.
    """

    def __init__(
        self,
        url: str,
        status: Status,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        dice: random.Random | None = None,
        patient: bool = True,
    ) -> None:
        self._url, self._status, self._say = url, status, say
        self._clock, self._dice, self._patient = clock, dice or random.Random(), patient
        self._connection: Connection = None
        self._failed = 0
        self._again_at = 0.0

    def open(self) -> None:
        """Connect, and listen for new events.

        Raises:
            PostgresError: PostgreSQL does not answer, or refuses.
        """
        made = connect(self._url, program="fibflow notify", lock_timeout_s=_LOCK_S)
        with told(self._url):
            try:
                with made, made.cursor() as cursor:
                    cursor.execute(f"SET statement_timeout = {_STATEMENT_MS}")
                    cursor.execute(f"LISTEN {CHANNEL}")
                    cursor.execute("SELECT FROM alert_deliveries LIMIT 0")
            except psycopg2.Error:
                made.close()
                raise
        self._connection = made

    def ask(self, work: Callable[[Connection], T]) -> T | None:
        """Return what work makes of the connection; None where PostgreSQL is away, which is said once.

        Raises:
            PostgresError: it is away, and this one is not patient.
        """
        if self._clock() < self._again_at:
            return None
        try:
            if self._connection is None:
                self.open()
            found = work(self._connection)
        except PostgresError as error:
            self.close()
            if not self._patient:
                raise
            self._failed += 1
            bound = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._failed - 1, 60))
            self._again_at = self._clock() + self._dice.uniform(bound / 2, bound)
            if self._status.postgresql_lost(str(error)):
                self._say(f"{error}: it is tried again until it does")
            return None
        self._failed, self._again_at = 0, 0.0
        if self._status.postgresql_up():
            self._say("PostgreSQL answers again")
        return found

    def wait(self, wake: Wake, most_s: float) -> None:
        """Wait until there are new events, ``wake`` is set, or so many seconds have passed."""
        with selectors.DefaultSelector() as selector:
            selector.register(wake.reader, selectors.EVENT_READ)
            if self._connection is not None:
                selector.register(self._connection.fileno(), selectors.EVENT_READ)
                # A notice may have come with the answer to a query: there is nothing left to read then.
                if self._connection.notifies:
                    most_s = 0.0
            else:
                most_s = max(0.0, min(most_s, self._again_at - self._clock()))
            selector.select(most_s)
        wake.clear()
        if self._connection is not None:
            self.ask(_take_notices)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None


def _take_notices(connection: Connection) -> None:
    with told():
        connection.poll()
    connection.notifies.clear()
