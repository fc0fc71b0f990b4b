"""The predecessor's tables of alerts into ours: the configuration, and the history of what fired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from fibflow.io.alerts.model import Imported, Past
from fibflow.io.alerts.predecessor import Reading, Refused
from fibflow.io.alerts.predecessorwords import CONFIG, HISTORY
from fibflow.io.alerts.scan import Item
from fibflow.io.alerts.store import AlertStore

#: What refuses an item: the table, a name for the item, and why.
Refusal = Callable[[str, str, str], None]
_REPEATED = "another item has its owner and id"
_STRAY = "its alert was not imported, or several owners have one of this id"


@dataclass
class Done:
    """What became of a table.

    Attributes:
        read: its items.
        new: taken.
        known: taken before.
        refused: not taken.
    """

    read: int = 0
    new: int = 0
    known: int = 0
    refused: int = 0
    _ids: set[tuple[str | None, str]] = field(default_factory=set, repr=False)

    def is_new(self, owner: str | None, given: str) -> bool:
        """Return whether no item before had this owner and id."""
        key = owner, given
        if key in self._ids:
            return False
        self._ids.add(key)
        return True


def import_alerts(
    store: AlertStore | None,
    items: Iterable[list[Item]],
    reading: Reading,
    now: datetime,
    refuse: Refusal,
    *,
    counted: bool = True,
) -> Done:
    """Import the configuration; alerts that were imported before stay as they are.

    Args:
        store: where to; None to look only.
        items: of the table, some at a time.
        reading: how they are understood.
        now: UTC.
        refuse: told of each item that is not taken.
        counted: how often they have fired is taken from the items too; else the history tells it.

    Raises:
        DynamoError, PostgresError: it cannot be read or written. What was written stays; run again.
    """
    done = Done()

    def alerts() -> Iterator[Imported]:
        for item in _each(items, done):
            try:
                alert = reading.alert(item, now)
                if not done.is_new(alert.owner, alert.origin):
                    raise Refused(_REPEATED)
            except Refused as error:
                done.refused += 1
                refuse(CONFIG, reading.name(item), str(error))
                continue
            yield alert if counted else replace(alert, firings=0)

    done.new = sum(1 for _ in alerts()) if store is None else store.import_many(alerts(), now)
    done.known = done.read - done.refused - done.new
    return done


def import_history(
    store: AlertStore | None, items: Iterable[list[Item]], reading: Reading, refuse: Refusal
) -> Done:
    """Import what fired, of alerts that are imported; see ``import_alerts``."""
    done = Done()

    def events() -> Iterator[Past]:
        for item in _each(items, done):
            try:
                event = reading.event(item)
                if not done.is_new(None, event.id):
                    raise Refused("another item has its id")
            except Refused as error:
                done.refused += 1
                refuse(HISTORY, reading.name(item), str(error))
                continue
            yield event

    if store is None:
        done.new = sum(1 for _ in events())
        return done
    brought = store.import_events(events())
    for stray in brought.strays:
        refuse(HISTORY, stray, _STRAY)
    done.new, done.known = brought.new, brought.known
    done.refused += len(brought.strays)
    return done


def _each(pages: Iterable[list[Item]], done: Done) -> Iterator[Item]:
    for page in pages:
        for item in page:
            done.read += 1
            yield item
