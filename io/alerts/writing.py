"""What changes alerts, within a transaction: new ones, new versions, and those of another system.

Whoever changes alerts takes the row of ``alert_feed`` first and keeps it until the commit. So revisions are
committed in their order. What they ask for is in force from some time after that on, however long they waited
for the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from fibflow.io.alerts.model import (
    ACTIVE,
    DELETED,
    FIRED,
    IN_FORCE_AFTER,
    PAUSED,
    Alert,
    Conflict,
    Imported,
    LimitError,
    NotFound,
)
from fibflow.io.alerts.rows import LISTED, alert_of, check, copy_in, day_of, in_force, row_of
from fibflow.transforms.alerts.definition import Definition, DefinitionError

#: Tells what time it is, UTC.
Clock = Callable[[], datetime]
_LARGEST_ID = (1 << 63) - 1
_LOCK = 0x66696267
# The time is told where the row was had.
_TAKE = "SELECT clock_timestamp() FROM (SELECT FROM alert_feed FOR UPDATE) AS held"
_SEQUENCE = "SELECT nextval(pg_get_serial_sequence('alerts', 'id')) FROM generate_series(1, %s)"
_GET = f"SELECT {LISTED} FROM alerts WHERE id = %s AND owner = %s"
_KEEP = f"INSERT INTO alert_changes ({LISTED}, replaced) SELECT {LISTED}, %s FROM alerts WHERE id = %s"
_CHANGED = f"UPDATE alerts SET ({LISTED}) = ({', '.join(['%s'] * len(LISTED.split(',')))}) WHERE id = %s"
_KNOWN = """
SELECT asked.owner, asked.origin FROM unnest(%s::text[], %s::text[]) AS asked (owner, origin)
JOIN alerts ON alerts.owner = asked.owner AND alerts.origin = asked.origin
"""


def take_feed(cursor: Any) -> datetime:
    """Let nobody else change alerts until this transaction ends, and return what time it is then."""
    cursor.execute(_TAKE)
    taken: datetime = cursor.fetchone()[0]
    return taken


def _begin(cursor: Any, now: datetime, clock: Clock | None) -> datetime:
    """Take the feed, and return what time it is then: not before what was asked for."""
    taken = take_feed(cursor)
    return max(now, taken if clock is None else clock())


def revisions(cursor: Any, count: int) -> int:
    """Return the last of the next revisions, which are this transaction's now."""
    cursor.execute("UPDATE alert_feed SET revision = revision + %s RETURNING revision", (count,))
    return int(cursor.fetchone()[0])


def create(
    cursor: Any,
    owner: str,
    definitions: Sequence[Definition],
    now: datetime,
    most: int,
    zone: ZoneInfo,
    clock: Clock | None,
) -> list[Alert]:
    """Make alerts; see ``AlertStore.create``."""
    for definition in definitions:
        check(definition, now)
    if not definitions:
        return []
    _check_limit(cursor, owner, len(definitions), most)
    taken = _begin(cursor, now, clock)
    _check_destinations(cursor, owner, definitions)
    basis = day_of(now, zone)
    made = [
        Alert(
            id=given,
            owner=owner,
            version=1,
            revision=revision,
            state=ACTIVE,
            definition=definition,
            since=in_force(definition, taken),
            basis=basis,
            fired=None,
            firings=0,
            created=now,
            updated=now,
        )
        for definition, (given, revision) in zip(definitions, _numbers(cursor, len(definitions)), strict=True)
    ]
    copy_in(cursor, made)
    return made


def _check_limit(cursor: Any, owner: str, more: int, most: int) -> None:
    # One after the other for an owner, and nobody else waits while they are counted.
    cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, owner))
    cursor.execute("SELECT count(*) FROM alerts WHERE owner = %s AND state <> 'deleted'", (owner,))
    held = int(cursor.fetchone()[0])
    if held + more > most:
        raise LimitError(
            f"{held:,} alerts are there, and {more:,} more would be over the limit of {most:,}: "
            "delete some first"
        )


def _numbers(cursor: Any, count: int) -> list[tuple[int, int]]:
    """Return ids and revisions for new alerts."""
    last = revisions(cursor, count)
    cursor.execute(_SEQUENCE, (count,))
    return [(row[0], last - count + place) for place, row in enumerate(cursor.fetchall(), 1)]


def _check_destinations(cursor: Any, owner: str, definitions: Sequence[Definition]) -> None:
    named = sorted({each for definition in definitions for each in definition.destinations})
    if not named:
        return
    fitting = [each for each in named if 0 < each <= _LARGEST_ID]
    cursor.execute("SELECT id FROM alert_destinations WHERE owner = %s AND id = ANY (%s)", (owner, fitting))
    known = {row[0] for row in cursor.fetchall()}
    if strange := [each for each in named if each not in known]:
        raise DefinitionError("destinations", f"there is no destination {strange[0]} of yours: make it first")


def get(cursor: Any, owner: str, alert: int, *, lock: bool = False, ended: bool = False) -> Alert:
    """Return an owner's alert.

    Args:
        cursor: of the transaction.
        owner: whose.
        alert: its id.
        lock: it is going to be changed.
        ended: also one that was deleted.

    Raises:
        NotFound: there is none.
    """
    row = None
    if 0 < alert <= _LARGEST_ID:
        cursor.execute(f"{_GET} FOR UPDATE" if lock else _GET, (alert, owner))
        row = cursor.fetchone()
    found = None if row is None else alert_of(row)
    if found is None or (found.state == DELETED and not ended):
        raise NotFound(f"there is no alert {alert}")
    return found


#: What a change makes of an alert, at what time the feed gets it; None where nothing need change.
Change = Callable[[Alert, datetime], Alert | None]


def change(cursor: Any, owner: str, alert: int, now: datetime, make: Change, clock: Clock | None) -> Alert:
    """Put a new version in the place of the current one, which is kept in ``alert_changes``.

    Raises:
        NotFound: there is no such alert.
    """
    taken = _begin(cursor, now, clock)
    held = get(cursor, owner, alert, lock=True)
    made = make(held, taken)
    if made is None:
        return held
    revision = revisions(cursor, 1)
    made = replace(made, version=held.version + 1, revision=revision, fired=None, updated=now)
    cursor.execute(_KEEP, (revision, alert))
    cursor.execute(_CHANGED, (*row_of(made), alert))
    return made


def edited(
    cursor: Any, definition: Definition, now: datetime, zone: ZoneInfo, version: int | None, restated: bool
) -> Change:
    """Return the change to another definition; one that has fired waits again."""
    check(definition, now)

    def make(held: Alert, taken: datetime) -> Alert:
        if version is not None and version != held.version:
            raise Conflict(
                f"alert {held.id} is at version {held.version}, not {version}: read it again, then change it"
            )
        if (definition.bars is None) != (held.definition.bars is None):
            raise DefinitionError("bars", "one on prices stays on prices, one on bars on bars: make another")
        _check_destinations(cursor, held.owner, [definition])
        same = not restated and _prices(definition) == _prices(held.definition)
        return replace(
            held,
            definition=definition,
            state=PAUSED if held.state == PAUSED else ACTIVE,
            since=in_force(definition, taken),
            basis=held.basis if same else day_of(now, zone),
        )

    return make


def _prices(definition: Definition) -> tuple[Any, ...]:
    """Return what splits rescale, and of what."""
    prices = definition.reference_price if definition.is_percentage else definition.value
    return definition.symbol, definition.is_percentage, prices, definition.rearm, definition.bars


def paused(held: Alert, taken: datetime) -> Alert | None:
    """Return what lets an alert rest."""
    if held.state == FIRED:
        raise Conflict(f"alert {held.id} has fired, and waits for nothing: arm it again, or delete it")
    return None if held.state == PAUSED else replace(held, state=PAUSED, since=taken + IN_FORCE_AFTER)


def resumed(held: Alert, taken: datetime) -> Alert | None:
    """Return what ends an alert's pause."""
    if held.state == FIRED:
        raise Conflict(f"alert {held.id} has fired: arm it again")
    return None if held.state == ACTIVE else _begun(held, taken)


def rearmed(held: Alert, taken: datetime) -> Alert | None:
    """Return what lets an alert wait again that has fired."""
    if held.state == PAUSED:
        raise Conflict(f"alert {held.id} is paused: resume it")
    return None if held.state == ACTIVE else _begun(held, taken)


def _begun(held: Alert, taken: datetime) -> Alert:
    held.definition.check(taken)
    return replace(held, state=ACTIVE, since=in_force(held.definition, taken))


def deleted(held: Alert, taken: datetime) -> Alert:
    """Return what ends an alert."""
    return replace(held, state=DELETED, since=taken + IN_FORCE_AFTER)


def bring_in(
    cursor: Any, alerts: Sequence[Imported], now: datetime, zone: ZoneInfo, clock: Clock | None
) -> int:
    """Make alerts of another system that are not there yet, and return how many they were."""
    taken = _begin(cursor, now, clock)
    cursor.execute(_KNOWN, ([each.owner for each in alerts], [each.origin for each in alerts]))
    known = set(cursor.fetchall())
    new: dict[tuple[str, str], Imported] = {}
    for each in alerts:
        if (key := (each.owner, each.origin)) not in known:
            new.setdefault(key, each)
    named: dict[str, list[Definition]] = {}
    for each in new.values():
        check(each.definition, now if each.state == ACTIVE else None)
        if each.definition.destinations:
            named.setdefault(each.owner, []).append(each.definition)
    for owner, definitions in named.items():
        _check_destinations(cursor, owner, definitions)
    if new:
        basis = day_of(now, zone)
        numbered = zip(new.values(), _numbers(cursor, len(new)), strict=True)
        copy_in(cursor, (_imported(each, *numbers, now, taken, basis) for each, numbers in numbered))
    return len(new)


def _imported(
    given: Imported, number: int, revision: int, now: datetime, taken: datetime, basis: date
) -> Alert:
    # One that fired once, and was set to wait again, is as good as new.
    anew = given.state == ACTIVE and given.definition.frequency == "once"
    return Alert(
        id=number,
        owner=given.owner,
        version=1,
        revision=revision,
        state=given.state,
        definition=given.definition,
        since=in_force(given.definition, taken),
        basis=basis,
        fired=None if anew else given.fired,
        firings=given.firings,
        created=given.created or now,
        updated=now,
        origin=given.origin,
    )
