"""Where events go: destinations of owners, within a transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fibflow.io.alerts.deliveries import give_up
from fibflow.io.alerts.model import KINDS, Conflict, Destination, LimitError, NotFound
from fibflow.io.alerts.writing import take_feed
from fibflow.transforms.alerts.definition import DefinitionError

_COLUMNS = "id, owner, kind, target, created, secret, disabled, reason"
_LARGEST_ID = (1 << 63) - 1
_LOCK = 0x66696266
_BY_OWNER = "disabled by its owner"
_HOLDERS = "SELECT id FROM alerts WHERE owner = %s AND %s = ANY (destinations) ORDER BY id FOR NO KEY UPDATE"
_TAKE_OUT = "UPDATE alerts SET destinations = array_remove(destinations, %s) WHERE id = ANY (%s)"


def add(
    cursor: Any, owner: str, kind: str, target: str, now: datetime, secret: str | None, most: int
) -> Destination:
    """Make a destination; see ``AlertStore.add_destination``."""
    if kind not in KINDS:
        raise DefinitionError("kind", f"choose one of {', '.join(KINDS)}")
    # One after the other for an owner, as they are counted.
    cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, owner))
    cursor.execute("SELECT count(*) FROM alert_destinations WHERE owner = %s", (owner,))
    if (held := int(cursor.fetchone()[0])) >= most:
        raise LimitError(f"{held:,} destinations are there, and {most:,} may be: remove one first")
    cursor.execute(
        "INSERT INTO alert_destinations (owner, kind, target, secret, created) VALUES (%s, %s, %s, %s, %s) "
        f"RETURNING {_COLUMNS}",
        (owner, kind, target, secret, now),
    )
    return Destination(*cursor.fetchone())


def get(cursor: Any, owner: str, destination: int, lock: bool = False) -> Destination:
    """Return an owner's destination.

    Raises:
        NotFound: there is none.
    """
    row = None
    if 0 < destination <= _LARGEST_ID:
        asked = f"SELECT {_COLUMNS} FROM alert_destinations WHERE id = %s AND owner = %s"
        cursor.execute(f"{asked} FOR UPDATE" if lock else asked, (destination, owner))
        row = cursor.fetchone()
    if row is None:
        raise NotFound(f"there is no destination {destination}")
    return Destination(*row)


def of_owner(cursor: Any, owner: str) -> list[Destination]:
    """Return an owner's destinations, by id."""
    cursor.execute(f"SELECT {_COLUMNS} FROM alert_destinations WHERE owner = %s ORDER BY id", (owner,))
    return [Destination(*row) for row in cursor.fetchall()]


def update(
    cursor: Any,
    owner: str,
    destination: int,
    now: datetime,
    target: str | None,
    secret: str | None,
    enabled: bool | None,
) -> Destination:
    """Change what is given; see ``AlertStore.update_destination``."""
    held = get(cursor, owner, destination, lock=True)
    if secret is not None and held.kind != "webhook":
        raise Conflict(f"destination {destination} signs nothing: only a webhook has a secret")
    disabled, reason = held.disabled, held.reason
    if enabled is not None:
        disabled, reason = (None, None) if enabled else (disabled or now, reason or _BY_OWNER)
    cursor.execute(
        "UPDATE alert_destinations SET target = coalesce(%s, target), secret = coalesce(%s, secret), "
        f"disabled = %s, reason = %s WHERE id = %s RETURNING {_COLUMNS}",
        (target, secret, disabled, reason, destination),
    )
    return Destination(*cursor.fetchone())


def remove(cursor: Any, owner: str, destination: int, now: datetime) -> None:
    """Remove a destination, also from alerts; what waits for it is given up."""
    take_feed(cursor)
    get(cursor, owner, destination, lock=True)
    cursor.execute(_HOLDERS, (owner, destination))
    holders = [row[0] for row in cursor.fetchall()]
    cursor.execute(_TAKE_OUT, (destination, holders))
    give_up(cursor, destination, "the destination was removed", now)
    cursor.execute("DELETE FROM alert_destinations WHERE id = %s", (destination,))
