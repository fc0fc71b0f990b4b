"""The Arrow schemas of alerts: changes on their way into the job, facts beside them, prices, and events."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pyarrow as pa

from fibflow.transforms.schemas import SYMBOL

#: In the metadata of each table's schema, under which it says which it is.
KIND = b"fibflow.alerts"
#: Before, and after, any instant.
NEVER = -(1 << 63)
ALWAYS = (1 << 63) - 1


class Operator(IntEnum):
    """What a price is held against; ``ENDED``: nothing, the alert was deleted or paused."""

    ENDED = 0
    ABOVE = 1
    BELOW = 2
    CROSSES_UP = 3
    CROSSES_DOWN = 4
    CROSSES = 5
    PERCENT_UP = 6
    PERCENT_DOWN = 7
    PERCENT = 8


class Reference(IntEnum):
    """What a percentage is of."""

    NONE = 0
    PREVIOUS_CLOSE = 1
    CREATION_PRICE = 2


class Frequency(IntEnum):
    """How often an alert may fire."""

    ONCE = 1
    BAR = 2
    DAILY = 3
    EVERY_TIME = 4


class Fact(IntEnum):
    """What a row of ``FACTS`` says of a symbol."""

    CLOSE = 1
    SPLIT = 2


#: One version of an alert, in force from the first price later than ``since`` on, up to the next version's
#: ``since``. Instants are UTC microseconds; prices in the instrument's currency.
#:
#: - ``revision``: place in the feed of changes.
#: - ``value``: a price, or a percentage above 0.
#: - ``reference_price``: of ``CREATION_PRICE``, else NaN.
#: - ``extended``: prices outside regular hours count too.
#: - ``span``: minutes of a bar, for ``BAR``; else 0.
#: - ``cooldown``: microseconds.
#: - ``rearm``: by how much of price it must come back before ``EVERY_TIME`` fires again.
#: - ``until``: the last instant at which it may fire; ``ALWAYS``: no end.
#: - ``basis``: days since 1970: ``value``, ``rearm`` and ``reference_price`` are of that day's shares; splits
#:   executed later rescale them.
#: - ``fired``: the instant of the last price that this version is known to have fired at, ``NEVER`` for none:
#:   a job that begins without state goes on from there.
CHANGES = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("alert", pa.int64()),
        pa.field("version", pa.int32()),
        pa.field("revision", pa.int64()),
        pa.field("operator", pa.int8()),
        pa.field("value", pa.float64()),
        pa.field("reference", pa.int8()),
        pa.field("reference_price", pa.float64()),
        pa.field("extended", pa.bool_()),
        pa.field("frequency", pa.int8()),
        pa.field("span", pa.int32()),
        pa.field("cooldown", pa.int64()),
        pa.field("rearm", pa.float64()),
        pa.field("since", pa.int64()),
        pa.field("until", pa.int64()),
        pa.field("basis", pa.int32()),
        pa.field("fired", pa.int64()),
    ],
    metadata={KIND: b"changes"},
)

#: What alerts need to know of symbols. ``CLOSE``: ``value`` is the official close of session ``day`` (days
#: since 1970). ``SPLIT``: from the session ``day`` on a price is ``value`` times what it was (0.25 for four
#: shares out of one).
FACTS = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("kind", pa.int8()),
        pa.field("day", pa.int32()),
        pa.field("value", pa.float64()),
    ],
    metadata={KIND: b"facts"},
)

#: Prices that may move a last price, in the order in which they came. ``ts``: UTC microseconds; ``regular``:
#: within regular hours.
PRICES = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("ts", pa.int64()),
        pa.field("seq", pa.int64()),
        pa.field("price", pa.float64()),
        pa.field("regular", pa.bool_()),
    ],
    metadata={KIND: b"prices"},
)

#: What fired. ``id`` is the same whichever price fired it: the alert, its version, the arming generation
#: (``0`` for the version's own, else ``<ts>.<seq>`` of the price that armed it again), and the bar's start or
#: the session where the frequency says so. ``ts, seq, price``: of the price that fired it. ``previous``: the
#: price before it of the same hours, NaN for none. ``level``: the price that it was held against, after
#: splits.
_EVENTS: list[Any] = [
    pa.field("id", pa.string()),
    pa.field("alert", pa.int64()),
    pa.field("version", pa.int32()),
    pa.field("symbol", pa.string()),
    pa.field("ts", pa.int64()),
    pa.field("seq", pa.int64()),
    pa.field("price", pa.float64()),
    pa.field("previous", pa.float64()),
    pa.field("level", pa.float64()),
]
EVENTS = pa.schema(_EVENTS)


def kind_of(table: pa.Table) -> str:
    """Return which of the schemas of this module a table has: ``changes``, ``facts`` or ``prices``.

    Raises:
        ValueError: none of them.
    """
    told = (table.schema.metadata or {}).get(KIND)
    if told is None:
        raise ValueError("a table that is none of alert changes, facts or prices came to alerts")
    return told.decode()
