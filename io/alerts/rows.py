"""Rows of ``alerts``: to and from ``Alert``, and many at once into the table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fibflow.io.alerts.model import IN_FORCE_AFTER, KEPT_BEFORE, KEPT_FROM, Alert
from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.definition import Definition, DefinitionError

#: Of ``alerts``; those from ``symbol`` to ``bars`` are the fields of ``Definition``.
COLUMNS = (
    *("id", "owner", "version", "revision", "state"),
    *("symbol", "operator", "value", "reference", "reference_price", "hours", "frequency", "timeframe"),
    *("cooldown_s", "rearm", "expires", "active_from", "note", "destinations", "bars"),
    *("basis", "since", "fired", "firings", "created", "updated", "origin"),
)
LISTED = ", ".join(COLUMNS)
#: Columns of a definition.
DEFINED = slice(COLUMNS.index("symbol"), COLUMNS.index("basis"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_COPY = f"COPY alerts ({LISTED}) FROM STDIN"
# Of COPY's text form.
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NULL = r"\N"


def micros(instant: datetime) -> int:
    """Return an instant as microseconds since 1970."""
    return (instant - _EPOCH) // _MICRO


def instant_of(us: int | None) -> datetime | None:
    """Return the instant of microseconds since 1970."""
    return None if us is None else _EPOCH + us * _MICRO


def alert_of(row: Sequence[Any]) -> Alert:
    """Return the alert in a row of ``COLUMNS``."""
    *fields, destinations, bars = row[DEFINED]
    fields += [tuple(destinations), None if bars is None else BarCondition.from_json(bars)]
    basis, since, fired, *rest = row[DEFINED.stop :]
    parts: list[Any] = [*row[: DEFINED.start], Definition(*fields)]
    parts += [_EPOCH + since * _MICRO, basis, instant_of(fired), *rest]
    return Alert(*parts)


def row_of(alert: Alert) -> tuple[Any, ...]:
    """Return the row of ``COLUMNS`` of an alert."""
    return (
        *(alert.id, alert.owner, alert.version, alert.revision, alert.state),
        *defined(alert.definition),
        *(alert.basis, micros(alert.since), None if alert.fired is None else micros(alert.fired)),
        *(alert.firings, alert.created, alert.updated, alert.origin),
    )


def defined(definition: Definition) -> tuple[Any, ...]:
    """Return a definition's part of a row."""
    *fields, destinations, bars = vars(definition).values()
    return (*fields, list(destinations), None if bars is None else json.dumps(bars.as_json()))


def in_force(definition: Definition, now: datetime) -> datetime:
    """Return from when on a version is in force that the feed gets now."""
    since = now + IN_FORCE_AFTER
    return since if definition.active_from is None else max(since, definition.active_from)


def day_of(now: datetime, zone: ZoneInfo) -> date:
    """Return the exchange's day of whose shares prices are that are given now."""
    return (now + IN_FORCE_AFTER).astimezone(zone).date()


def check(definition: Definition, now: datetime | None) -> None:
    """Refuse a definition that cannot be, or cannot be kept.

    Raises:
        DefinitionError: why.
    """
    definition.check(now)
    for name in ("expires", "active_from"):
        instant = getattr(definition, name)
        if instant is not None and not keepable(instant):
            years = f"{KEPT_FROM.year} to {KEPT_BEFORE.year - 1}"
            raise DefinitionError(name, f"give an instant of the years {years}, or none")
    if not storable(definition.note):
        raise DefinitionError("note", "it holds half a character: write it in whole ones")


def keepable(instant: datetime) -> bool:
    """Return whether an instant can be kept, and read again."""
    return KEPT_FROM <= instant < KEPT_BEFORE


def storable(text: str) -> bool:
    """Return whether PostgreSQL can hold a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def copy_in(cursor: Any, alerts: Iterable[Alert]) -> None:
    """Put new alerts into the table."""
    text = io.StringIO()
    for alert in alerts:
        cells = [_CELLS.get(value.__class__, str)(value) for value in row_of(alert)]
        text.write("\t".join(cells) + "\n")
    text.seek(0)
    cursor.copy_expert(_COPY, text)


def _text(value: str) -> str:
    return value if value.isalnum() else value.translate(_ESCAPED)


# Everything else, numbers, instants and dates, is as Python writes it.
_CELLS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: _NULL,
    str: _text,
    list: lambda values: "{" + ",".join(map(str, values)) + "}",
}
