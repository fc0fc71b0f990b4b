"""An outbox of the tests' own: events and deliveries as they are written, and what became of them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg2

from fibflow.tests.io.postgresql.databases import select

NOON = datetime(2024, 1, 2, 17, 0, tzinfo=UTC)


@dataclass
class Box:
    """Tables of alerts in a database."""

    url: str

    def destination(
        self, target: str = "https://example.com/hook", kind: str = "webhook", owner: str = "ann", **more: Any
    ) -> int:
        """Make a destination and return its id."""
        row = {"owner": owner, "kind": kind, "target": target, **more}
        return self._insert("alert_destinations", row)

    def event(
        self,
        name: str,
        *destinations: int,
        owner: str = "ann",
        created: datetime | None = None,
        due: datetime | None = None,
        symbol: str = "AAPL",
    ) -> list[int]:
        """Write an event and a delivery for each destination; return the ids of these."""
        row: dict[str, Any] = {
            "id": name,
            "alert": 7,
            "owner": owner,
            "version": 1,
            "symbol": symbol,
            "ts": NOON,
            "seq": 5,
            "price": 190.5,
            "previous": 189.75,
            "level": 190.0,
            "operator": "crosses_up",
            "note": "résumé ✓",
        }
        if created is not None:
            row["created"] = created
        self._insert("alert_events", row, returning="position")
        when = {} if due is None else {"due": due}
        return [
            self._insert("alert_deliveries", {"event": name, "destination": each, **when})
            for each in destinations
        ]

    def events(self, count: int, *destinations: int, prefix: str = "e") -> None:
        """Write many events, each for all destinations, and tell who listens."""
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO alert_events "
                "(id, alert, owner, version, symbol, ts, seq, price, level, operator) "
                "SELECT %s || n, n, 'ann', 1, 'S' || n, %s, n, 10 + n, 10, 'above' "
                "FROM generate_series(1, %s) AS n",
                (prefix, NOON, count),
            )
            cursor.execute(
                "INSERT INTO alert_deliveries (event, destination) SELECT %s || n, d "
                "FROM generate_series(1, %s) AS n, unnest(%s::bigint[]) AS d",
                (prefix, count, list(destinations)),
            )
            cursor.execute("NOTIFY fibflow_alert_events")

    def states(self) -> dict[int, str]:
        """The state of each delivery."""
        return dict(select(self.url, "SELECT id, state FROM alert_deliveries"))

    def count(self, state: str) -> int:
        """How many deliveries have a state."""
        return select(self.url, "SELECT count(*) FROM alert_deliveries WHERE state = %s", state)[0][0]

    def tries(self, delivery: int) -> list[tuple]:
        """The log of a delivery: status and error."""
        return select(
            self.url, "SELECT status, error FROM alert_tries WHERE delivery = %s ORDER BY id", delivery
        )

    def row(self, delivery: int, *columns: str) -> tuple:
        """Columns of a delivery."""
        found = select(self.url, f"SELECT {', '.join(columns)} FROM alert_deliveries WHERE id = %s", delivery)
        return found[0]

    def disabled(self, destination: int) -> str | None:
        """Why a destination is disabled."""
        found = select(
            self.url, "SELECT disabled IS NOT NULL, reason FROM alert_destinations WHERE id = %s", destination
        )
        return found[0][1] if found[0][0] else None

    def _insert(self, table: str, row: dict[str, Any], returning: str = "id") -> int:
        names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING {returning}", list(row.values())
            )
            return cursor.fetchone()[0]
