"""Where a live job begins: in its stream, and in history."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from fibflow.io.history import HistoryStart
from fibflow.io.kinesis.address import LATEST, SESSION, KinesisAddress
from fibflow.io.kinesis.positions import Lane
from fibflow.pipelines.cli import UsageError
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import MINUTE_US

#: A stream whose first message comes so long after a session's open began within the session.
_SLACK_US = MINUTE_US


def resolve(address: KinesisAddress, calendar: TradingCalendar, now: int) -> KinesisAddress:
    """Return an address whose start is no ``SESSION`` any more.

    Args:
        address: as it was given.
        calendar: of the sessions.
        now: UTC microseconds.
    """
    if address.start != SESSION:
        return address
    at = int(np.searchsorted(calendar.day_starts, now, side="right")) - 1
    inside = at >= 0 and now < int(calendar.day_ends[at])
    return replace(address, start=int(calendar.day_starts[at]) if inside else LATEST)


def first_session(given: str | int, asked: date | None, calendar: TradingCalendar, now: int) -> int | None:
    """Return the first session (days since 1970) that a job's ticks make; None for the one after history's.

    Args:
        given: the address's start, as it was given.
        asked: ``--from-session``.
        calendar: of the sessions.
        now: UTC microseconds.

    Raises:
        UsageError: the stream is read from the middle of a session on.
    """
    if asked is not None:
        return int(np.datetime64(asked, "D").astype(int))
    if given not in (LATEST, SESSION):
        return None
    ended = int(np.searchsorted(calendar.day_ends, now, side="right"))
    running = now > int(calendar.day_starts[ended])
    if running and given == LATEST:
        day = calendar.days[ended].astype("datetime64[D]")
        raise UsageError(
            f"start=LATEST begins in the middle of session {day}, and bars of several sessions need all of "
            "it: say start=SESSION"
        )
    return int(calendar.days[ended])


def check_begins(start: HistoryStart, calendar: TradingCalendar, found: int | None) -> None:
    """Refuse a stream that begins within the first session that its ticks are to make.

    Args:
        start: what is known of history.
        calendar: of the job.
        found: the earliest event time of the stream from its start on; None where nobody can tell.

    Raises:
        UsageError: it begins too late.
    """
    position = int(calendar.positions(np.array([start.through]))[0]) + 1
    if found is None or found <= int(calendar.opens[position]) + _SLACK_US:
        return
    day, through = (np.datetime64(int(at), "D") for at in (calendar.days[position], start.through))
    raise UsageError(
        f"the stream begins at {_instant(found)}, after the open of session {day}, and history ends with "
        f"{through}: land {day} with pipelines.load, or name a later session with --from-session that the "
        "stream holds"
    )


def check_kept(written: int, keeps_us: int, calendar: TradingCalendar, now: int) -> None:
    """Refuse a savepoint after which the stream has dropped messages of a session.

    Args:
        written: when the savepoint was, UTC microseconds.
        keeps_us: for how long the stream keeps a message, microseconds.
        calendar: of the sessions. What is traded outside regular hours makes no difference here.
        now: UTC microseconds.

    Raises:
        UsageError: messages of a session are gone.
    """
    oldest = now - keeps_us
    lost = calendar.days[(calendar.opens < oldest) & (calendar.closes > written)]
    if oldest <= written or not len(lost):
        return
    first, last = (day.astype("datetime64[D]") for day in (lost[0], lost[-1]))
    hours = keeps_us // (60 * MINUTE_US)
    raise UsageError(
        f"the stream keeps messages for {hours} hours, and this savepoint is of {_instant(written)}: those "
        f"of {first} to {last} are gone. Land these days with pipelines.load, and start a job of another "
        "name without the savepoint: --job NAME --replaces THIS"
    )


def _instant(micros: int) -> str:
    return f"{np.datetime64(micros, 'us').astype('datetime64[s]')} UTC"


def begins(client: Any, lanes: Sequence[Lane]) -> int | None:
    """Return the earliest event time that lanes will read, UTC microseconds; None where nobody can tell.

    Raises:
        KinesisError: the stream cannot be read.
    """
    # They import Beam.
    from fibflow.io.kinesis.peek import earliest
    from fibflow.io.ticks import DecodeTicks

    return earliest(client, lanes, DecodeTicks(), time.time, time.sleep, random.Random().random)
