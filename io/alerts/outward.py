"""What goes out of alerts, for the store: destinations, events and deliveries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from fibflow.io.alerts import destinations, events
from fibflow.io.alerts.model import MOST_DESTINATIONS, Delivery, Destination, Event
from fibflow.io.alerts.pool import Pool


class OutwardStore:
    """Destinations, events and deliveries of owners; part of ``AlertStore``.

    Args:
        pool: of connections.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _transaction(self) -> AbstractContextManager[Any]:
        """Return a context that gives a cursor, and commits at its end."""
        return self._pool.transaction()

    def check(self) -> None:
        """Return where PostgreSQL answers, and has these tables."""
        with self._transaction() as cursor:
            cursor.execute("SELECT revision FROM alert_feed")

    def close(self) -> None:
        """Close the connections that are idle; a later call opens new ones."""
        self._pool.close()

    def add_destination(
        self,
        owner: str,
        kind: str,
        target: str,
        now: datetime,
        *,
        secret: str | None = None,
        most: int = MOST_DESTINATIONS,
    ) -> Destination:
        """Make a destination.

        Args:
            owner: whose.
            kind: of ``KINDS``.
            target: checked by the caller.
            now: UTC.
            secret: of a webhook.
            most: as many may an owner have.

        Raises:
            DefinitionError: there is no such kind.
            LimitError: there would be more than ``most``.
        """
        with self._transaction() as cursor:
            return destinations.add(cursor, owner, kind, target, now, secret, most)

    def destination(self, owner: str, destination: int) -> Destination:
        """Return a destination.

        Raises:
            NotFound: there is none.
        """
        with self._transaction() as cursor:
            return destinations.get(cursor, owner, destination)

    def destinations(self, owner: str) -> list[Destination]:
        """Return an owner's destinations, by id."""
        with self._transaction() as cursor:
            return destinations.of_owner(cursor, owner)

    def update_destination(
        self,
        owner: str,
        destination: int,
        now: datetime,
        *,
        target: str | None = None,
        secret: str | None = None,
        enabled: bool | None = None,
    ) -> Destination:
        """Change of a destination what is given, and return it.

        Raises:
            NotFound: there is none.
            Conflict: a secret for what is no webhook.
        """
        with self._transaction() as cursor:
            return destinations.update(cursor, owner, destination, now, target, secret, enabled)

    def remove_destination(self, owner: str, destination: int, now: datetime) -> None:
        """Remove a destination, also from the owner's alerts; what waits for it is given up.

        Raises:
            NotFound: there is none.
        """
        with self._transaction() as cursor:
            destinations.remove(cursor, owner, destination, now)

    def events(
        self,
        owner: str,
        *,
        alert: int | None = None,
        after: int | None = None,
        limit: int = 100,
        newest: bool = False,
    ) -> list[Event]:
        """Return events by position.

        Args:
            owner: whose.
            alert: of this one only; it may have been deleted.
            after: a position, from which to go on.
            limit: at most so many.
            newest: from the newest to the oldest.

        Raises:
            NotFound: there is no such alert.
        """
        with self._transaction() as cursor:
            return events.of_owner(cursor, owner, alert, after, limit, newest)

    def event(self, owner: str, event: str) -> Event:
        """Return an event.

        Raises:
            NotFound: there is none.
        """
        with self._transaction() as cursor:
            return events.get(cursor, owner, event)

    def follow(self, after: int, limit: int = 1_000) -> list[Event]:
        """Return events of all owners after a position, in the order in which they were committed.

        Those of another system's past are left out.
        """
        with self._transaction() as cursor:
            return events.follow(cursor, after, limit)

    def last_position(self) -> int:
        """Return the position of the last event; 0 for none."""
        with self._transaction() as cursor:
            return events.last_position(cursor)

    def deliveries(
        self,
        owner: str,
        *,
        event: str | None = None,
        alert: int | None = None,
        behind: int | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """Return deliveries with their tries, those of the newest event first.

        Args:
            owner: whose.
            event: of this one only.
            alert: of this one only; it may have been deleted.
            behind: id of a delivery, from which to go on.
            limit: at most so many.

        Raises:
            NotFound: there is no such event or alert.
        """
        with self._transaction() as cursor:
            return events.deliveries(cursor, owner, event, alert, behind, limit)

    def test_fire(
        self,
        owner: str,
        now: datetime,
        randbytes: Callable[[int], bytes],
        *,
        alert: int | None = None,
        destination: int | None = None,
    ) -> Event:
        """Write an event that nothing fired, to be delivered as others are, and return it.

        Args:
            owner: whose.
            now: UTC.
            randbytes: so many bytes that nobody can foretell.
            alert: goes to its destinations.
            destination: goes there; one of the two is given.

        Raises:
            NotFound: there is no such alert or destination.
            Conflict: the destination is disabled.
        """
        with self._transaction() as cursor:
            return events.test_fire(cursor, owner, now, randbytes, alert, destination)
