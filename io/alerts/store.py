"""Alerts of owners in PostgreSQL: made, changed, found, and brought in from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from fibflow.io.alerts import idempotency, past, retention, writing
from fibflow.io.alerts.model import MOST_ALERTS, STATES, ZONE, Alert, Answer, Imported, Past
from fibflow.io.alerts.outward import OutwardStore
from fibflow.io.alerts.pool import Pool
from fibflow.io.alerts.rows import LISTED, alert_of, storable
from fibflow.transforms.alerts.definition import Definition

#: Alerts that an import makes in one transaction: while it runs, nobody else can change any.
_IMPORTED = 10_000
T = TypeVar("T")


class AlertStore(OutwardStore):
    """Alerts of owners. Safe for threads; opens its connections at the first call.

    An owner sees only what is his. Every method raises ``PostgresError`` where PostgreSQL does not answer or
    refuses, and nothing was done then, unless the answer to a commit was lost: ``once`` is for that.

    Args:
        url: ``postgresql://user@host/database``, migrated.
        timeout_s: of connecting, of waiting for a connection, of one statement, waiting for locks
            included.
        connections: at most.
        zone: of the exchange, whose days splits are of.
        clock: tells what time it is where a change has waited for others; PostgreSQL's by default.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        connections: int = 8,
        zone: str = ZONE,
        clock: writing.Clock | None = None,
    ) -> None:
        super().__init__(Pool(url, timeout_s, connections))
        self._zone, self._clock = ZoneInfo(zone), clock

    def create(
        self, owner: str, definitions: Sequence[Definition], now: datetime, *, most: int = MOST_ALERTS
    ) -> list[Alert]:
        """Make alerts, all or none, and return them in their order.

        Args:
            owner: whose.
            definitions: what they wait for.
            now: UTC.
            most: as many may an owner have, deleted ones left out.

        Raises:
            DefinitionError: one cannot be, or names a destination that is not there.
            LimitError: there would be more than ``most``.
        """
        with self._transaction() as cursor:
            return writing.create(cursor, owner, definitions, now, most, self._zone, self._clock)

    def get(self, owner: str, alert: int) -> Alert:
        """Return an alert.

        Raises:
            NotFound: there is none, or it was deleted.
        """
        with self._transaction() as cursor:
            return writing.get(cursor, owner, alert)

    def find(
        self,
        owner: str,
        *,
        symbol: str | None = None,
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> list[Alert]:
        """Return alerts by id.

        Args:
            owner: whose.
            symbol: of this one only.
            state: in this one only; None: all but ``deleted``.
            after: with greater ids than this.
            limit: at most so many.
        """
        if state not in (None, *STATES) or (symbol is not None and not storable(symbol)):
            return []
        where, values = ["owner = %s", "id > %s"], [owner, after]
        where.append("state <> 'deleted'" if state is None else "state = %s")
        values += [] if state is None else [state]
        if symbol is not None:
            where.append("symbol = %s")
            values.append(symbol)
        with self._transaction() as cursor:
            cursor.execute(
                f"SELECT {LISTED} FROM alerts WHERE {' AND '.join(where)} ORDER BY id LIMIT %s",
                (*values, limit),
            )
            return [alert_of(row) for row in cursor.fetchall()]

    def of_all(self, *, after: int = 0, limit: int = 100) -> list[Alert]:
        """Return alerts of all owners by id, with greater ids than ``after``; not for owners."""
        with self._transaction() as cursor:
            cursor.execute(
                f"SELECT {LISTED} FROM alerts WHERE state <> 'deleted' AND id > %s ORDER BY id LIMIT %s",
                (after, limit),
            )
            return [alert_of(row) for row in cursor.fetchall()]

    def versions(self, owner: str, alert: int) -> list[Alert]:
        """Return all versions that an alert has had, the oldest first; also of one that was deleted.

        Raises:
            NotFound: there is none.
        """
        with self._transaction() as cursor:
            current = writing.get(cursor, owner, alert, ended=True)
            cursor.execute(f"SELECT {LISTED} FROM alert_changes WHERE id = %s ORDER BY version", (alert,))
            return [*map(alert_of, cursor.fetchall()), current]

    def update(
        self,
        owner: str,
        alert: int,
        definition: Definition,
        now: datetime,
        *,
        version: int | None = None,
        restated: bool = False,
    ) -> Alert:
        """Give an alert another definition, in a new version, and return it.

        One that has fired is active again; one that is paused stays so. Prices that are the same as before
        are of the same day's shares as before, unless ``restated``.

        Args:
            owner: whose.
            alert: its id.
            definition: what it waits for now, whole.
            now: UTC.
            version: that it must be at; None for any.
            restated: the owner gave the prices anew, in today's shares, also where they are the same.

        Raises:
            NotFound: there is none.
            Conflict: it is at another version.
            DefinitionError: it cannot be, or names a destination that is not there.
        """
        with self._transaction() as cursor:
            change = writing.edited(cursor, definition, now, self._zone, version, restated)
            return writing.change(cursor, owner, alert, now, change, self._clock)

    def pause(self, owner: str, alert: int, now: datetime) -> Alert:
        """Let an alert rest, and return it; one that is paused stays as it is.

        Raises:
            NotFound: there is none.
            Conflict: it has fired.
        """
        with self._transaction() as cursor:
            return writing.change(cursor, owner, alert, now, writing.paused, self._clock)

    def resume(self, owner: str, alert: int, now: datetime) -> Alert:
        """End an alert's pause, and return it; one that is active stays as it is.

        Raises:
            NotFound: there is none.
            Conflict: it has fired.
            DefinitionError: it has expired.
        """
        with self._transaction() as cursor:
            return writing.change(cursor, owner, alert, now, writing.resumed, self._clock)

    def rearm(self, owner: str, alert: int, now: datetime) -> Alert:
        """Let an alert wait again that has fired, and return it; one that is active stays as it is.

        Raises:
            NotFound: there is none.
            Conflict: it is paused.
            DefinitionError: it has expired.
        """
        with self._transaction() as cursor:
            return writing.change(cursor, owner, alert, now, writing.rearmed, self._clock)

    def delete(self, owner: str, alert: int, now: datetime) -> None:
        """End an alert. Its events stay.

        Raises:
            NotFound: there is none.
        """
        with self._transaction() as cursor:
            writing.change(cursor, owner, alert, now, writing.deleted, self._clock)

    def import_many(self, alerts: Iterable[Imported], now: datetime) -> int:
        """Make alerts of another system, and return how many were new; some thousand a transaction.

        One is known by its owner and ``origin``; of those that are there already nothing is changed.

        Raises:
            DefinitionError: one cannot be. Those before may be there.
        """
        new = 0
        for part in _parts(alerts):
            with self._transaction() as cursor:
                new += writing.bring_in(cursor, part, now, self._zone, self._clock)
        return new

    def import_events(self, given: Iterable[Past]) -> past.Brought:
        """Keep events of alerts that were imported; see ``past.bring_in``."""
        done = past.Brought()
        for part in _parts(given):
            with self._transaction() as cursor:
                done += past.bring_in(cursor, part)
        return done

    def once(
        self, owner: str, key: str, digest: bytes, now: datetime, work: Callable[[AlertStore], Answer]
    ) -> Answer:
        """Return what a request is answered; one that comes again is answered as before, and not done again.

        Args:
            owner: whose.
            key: of the request, unique for an owner for a day.
            digest: of what is asked for.
            now: UTC.
            work: does it, with a store within the same transaction, and returns the answer. What it raises
                undoes all, and nothing is kept.

        Raises:
            Conflict: another request had this key.
        """
        with self._transaction() as cursor:
            held = idempotency.begin(cursor, owner, key, digest, now)
            if held is not None:
                return held
            answer = work(_Within(self, cursor))
            idempotency.keep(cursor, owner, key, answer)
            return answer

    def purge(self, before: datetime) -> retention.Purged:
        """Forget what is older than an instant; see ``retention.purge``."""
        return retention.purge(self._transaction, before)


class _Within(AlertStore):
    """A store within one transaction of another."""

    def __init__(self, store: AlertStore, cursor: Any) -> None:
        self._pool, self._zone, self._clock, self._cursor = store._pool, store._zone, store._clock, cursor

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        yield self._cursor


def _parts(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Yield items, some at a time."""
    rest = iter(items)
    while part := tuple(islice(rest, _IMPORTED)):
        yield part
