"""A version of an alert as a row of an array, and what follows from a row.

``ROW`` is what state holds of a version. ``floor``: no price up to this instant counts for it, its ``since``
or what it is known to have fired at; ``end``: nor any later than this, its ``until`` or the ``since`` of a
later version; ``fired``: of the last price that it fired at; ``gen_ts, gen_seq``: of the price that armed it
again, ``gen_ts`` is ``NEVER`` before.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fibflow.transforms.alerts.schema import ALWAYS, NEVER, Frequency, Operator
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.timeframe import IntradayAnchor, Timeframe, intraday_windows

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]


class State(IntEnum):
    """Whether a version may fire, waits to be armed again, or never fires again."""

    ARMED = 0
    DISARMED = 1
    DONE = 2


ROW = np.dtype(
    [
        ("symbol", "<i4"),
        ("alert", "<i8"),
        ("version", "<i4"),
        ("operator", "i1"),
        ("reference", "i1"),
        ("extended", "i1"),
        ("frequency", "i1"),
        ("span", "<i4"),
        ("basis", "<i4"),
        ("value", "<f8"),
        ("reference_price", "<f8"),
        ("cooldown", "<i8"),
        ("rearm", "<f8"),
        ("since", "<i8"),
        ("floor", "<i8"),
        ("end", "<i8"),
        ("state", "i1"),
        ("fired", "<i8"),
        ("gen_ts", "<i8"),
        ("gen_seq", "<i8"),
    ]
)

#: What changes of a row when it fires or is armed.
MOVE = np.dtype([(name, ROW[name]) for name in ("alert", "version", "state", "fired", "gen_ts", "gen_seq")])


def slots_of(rows: Rows) -> Int64:
    """Return the path that each row follows: twice its symbol's place, and one more for extended hours."""
    return rows["symbol"].astype(np.int64) * 2 + rows["extended"]


def is_always_armed(rows: Rows) -> Bool:
    """Return which rows fire at every crossing: they need not come back before the next one."""
    return (
        (rows["operator"] == Operator.CROSSES)
        & (rows["frequency"] == Frequency.EVERY_TIME)
        & (rows["rearm"] == 0)
    )


def begin(rows: Rows) -> None:
    """Set how new rows begin, which have ``fired``: those that have fired go on from there."""
    rows["floor"] = np.maximum(rows["since"], rows["fired"])
    rows["gen_ts"], rows["gen_seq"] = NEVER, 0
    rows["state"] = State.ARMED
    fired = rows["fired"] != NEVER
    waits = fired & (rows["frequency"] == Frequency.EVERY_TIME) & ~is_always_armed(rows)
    rows["state"][waits] = State.DISARMED
    rows["state"][fired & (rows["frequency"] == Frequency.ONCE)] = State.DONE


def is_dead(rows: Rows, last_ts: Int64) -> Bool:
    """Return which rows no price can touch again.

    Args:
        rows: shape (n,).
        last_ts: of the last price of each row's symbol, ``NEVER`` for none.
    """
    over = rows["end"] < last_ts
    ended = (rows["operator"] == Operator.ENDED) & (rows["since"] < last_ts)
    return over | ended | (rows["state"] == State.DONE)


def end_by_later(rows: Rows) -> None:
    """End each row where a later version of its alert begins; rows of an alert in order of versions."""
    alert, since, end = rows["alert"], rows["since"], rows["end"]
    step = 1
    while step < len(rows):
        same = alert[step:] == alert[:-step]
        if not same.any():
            return
        end[:-step] = np.where(same, np.minimum(end[:-step], since[step:]), end[:-step])
        step += 1


def quiet_until(rows: Rows, calendar: TradingCalendar, anchor: IntradayAnchor) -> Int64:
    """Return the first instant at which a price may move each row, UTC microseconds; ``ALWAYS``: never."""
    quiet = rows["floor"] + 1
    held = np.flatnonzero((rows["state"] == State.ARMED) & (rows["fired"] != NEVER))
    if len(held):
        own = rows[held]
        after = np.maximum(own["fired"] + own["cooldown"], quiet[held])
        for frequency in (Frequency.BAR, Frequency.DAILY):
            of_kind = np.flatnonzero(own["frequency"] == frequency)
            if len(of_kind):
                after[of_kind] = np.maximum(after[of_kind], _next_period(own[of_kind], calendar, anchor))
        quiet[held] = after
    quiet[(rows["state"] == State.DONE) | (rows["operator"] == Operator.ENDED)] = ALWAYS
    return quiet


def _next_period(rows: Rows, calendar: TradingCalendar, anchor: IntradayAnchor) -> Int64:
    """Return the end of the bar, or the session, that each row fired in; ``NEVER`` outside all sessions."""
    fired = rows["fired"].copy()
    session = calendar.positions_at(fired)
    found = np.where(session == NO_SESSION, NEVER, calendar.day_ends[session])
    spans = np.where(session == NO_SESSION, 0, rows["span"])
    for span in np.unique(spans[spans != 0]).tolist():
        own = spans == span
        found[own] = intraday_windows(fired[own], Timeframe(0, span), calendar, anchor)[1]
    return found


def bar_starts(ts: Int64, spans: Int64, calendar: TradingCalendar, anchor: IntradayAnchor) -> Int64:
    """Return the start of each instant's bar of so many minutes; instants lie within sessions."""
    found = np.zeros(len(ts), np.int64)
    for span in np.unique(spans).tolist():
        own = spans == span
        found[own] = intraday_windows(ts[own], Timeframe(0, span), calendar, anchor)[0]
    return found
