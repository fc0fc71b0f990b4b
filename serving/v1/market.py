"""``/v1``: the calendar, what the market is now, splits."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from fibflow.io import tables
from fibflow.serving import market
from fibflow.serving.access import Scope, require
from fibflow.serving.caching import respond
from fibflow.serving.history.query import bad_cursor, instant_of, limit_of, pack, unpack
from fibflow.serving.problems import bad_request
from fibflow.serving.services import Services, services
from fibflow.serving.v1.symbols import SplitDocument
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import FIBONACCI, Anchor

router = APIRouter(prefix="/v1", tags=["market"])

#: How many days a calendar's page has at most, and by default.
MOST_DAYS, DAYS = 3_700, 31
MOST_SPLITS, SPLITS = 10_000, 1_000
_EPOCH = date(1970, 1, 1)
_LAST = (date.max - _EPOCH).days
_JSON = "application/json"


class SessionDocument(BaseModel):
    """A session. Instants are UTC milliseconds.

    ``begins`` and ``ends`` name the windows of several sessions that begin and end with it, where they are
    counted for all symbols alike.
    """

    date: date
    open: int
    close: int
    early_close: bool
    begins: list[str]
    ends: list[str]


class CalendarDocument(BaseModel):
    """The sessions of some days; a weekday that is not there is a holiday."""

    calendar: str
    zone: str
    start: date
    end: date
    count: int
    sessions: list[SessionDocument]


class HolidayDocument(BaseModel):
    """A day without a session, or one that closes early."""

    date: date
    status: str
    name: str | None
    open: int | None
    close: int | None


class StatusDocument(BaseModel):
    """What the market is. Instants are UTC milliseconds.

    ``market`` is ``open``, ``closed`` or ``extended-hours``; ``open`` and ``close`` are those of the session
    in whose day it is.
    """

    calendar: str
    zone: str
    time: int
    market: str
    early_hours: bool
    after_hours: bool
    session: date | None
    open: int | None
    close: int | None
    next_open: int | None
    holidays: list[HolidayDocument]


class SplitsDocument(BaseModel):
    """A page of splits. ``next_cursor`` is there where there are more."""

    count: int
    splits: list[SplitDocument]
    next_cursor: str | None = None


@router.get("/calendar", dependencies=[Depends(require(Scope.HISTORY))], response_model=CalendarDocument)
async def get_calendar(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    start: Annotated[str | None, Query(description="YYYY-MM-DD; today by default")] = None,
    end: Annotated[
        str | None, Query(description=f"YYYY-MM-DD, not included; {DAYS} days on by default")
    ] = None,
) -> Response:
    """The sessions of some days, from ``start`` to before ``end``."""
    calendar, anchored = await shared.run(_known, shared)
    first = _day(start, "start")
    first = _today(calendar, shared) if first is None else first
    stop = _day(end, "end")
    stop = min(first + DAYS, _LAST) if stop is None else stop
    if stop < first:
        raise bad_request("start is after end: swap them", "bad_range")
    if stop - first > MOST_DAYS:
        raise bad_request(f"{stop - first} days at once: ask for {MOST_DAYS} at most", "range_too_long")
    sessions = _sessions(calendar, first, stop, anchored)
    document = {
        "calendar": calendar.name,
        "zone": calendar.zone,
        "start": market.date_of(first),
        "end": market.date_of(stop),
        "count": len(sessions),
        "sessions": sessions,
    }
    return respond(request, orjson.dumps(document), _JSON, False, {})


@router.get("/market-status", dependencies=[Depends(require(Scope.HISTORY))], response_model=StatusDocument)
async def get_market_status(request: Request, shared: Annotated[Services, Depends(services)]) -> Response:
    """Whether the market is open now, when it opens next, and its holidays of the year to come.

    Extended hours, 4:00 to 20:00 in New York (17:00 on half days), are known for its stocks only.
    """
    calendar = await shared.run(lambda: shared.reference.calendar)
    now = int(shared.clock().timestamp() * 1_000_000)
    found = market.status(calendar, now)
    document = {
        "calendar": calendar.name,
        "zone": calendar.zone,
        "time": now // 1000,
        "market": found.market,
        "early_hours": found.early,
        "after_hours": found.after,
        "session": found.session,
        "open": _millis(found.opens),
        "close": _millis(found.closes),
        "next_open": _millis(found.next_open),
        "holidays": [
            {
                "date": holiday.date,
                "status": holiday.status,
                "name": holiday.name,
                "open": _millis(holiday.opens),
                "close": _millis(holiday.closes),
            }
            for holiday in market.upcoming(calendar, now)
        ],
    }
    return respond(request, orjson.dumps(document), _JSON, False, {})


@router.get("/splits", dependencies=[Depends(require(Scope.HISTORY))], response_model=SplitsDocument)
async def get_splits(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    symbol: Annotated[str | None, Query(description="of one symbol; of all by default")] = None,
    limit: Annotated[str | None, Query(description=f"1 to {MOST_SPLITS:,}; {SPLITS:,} by default")] = None,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before")] = None,
) -> Response:
    """Splits by symbol and day. A symbol without splits, or one that is not known, has none."""
    wanted = (symbol or "").strip() or None
    most = limit_of(limit, MOST_SPLITS, SPLITS)
    after = None if cursor is None or not cursor.strip() else _after(cursor, wanted)

    def answer() -> bytes:
        found = shared.reference.splits(wanted)
        place = 0
        if after is not None:
            # Python orders texts as Arrow does.
            names: list[Any] = found["symbol"].to_pylist()
            days: list[Any] = found["execution_date"].to_pylist()
            place = sum((name, day.isoformat()) <= after for name, day in zip(names, days, strict=True))
        rows = found.slice(place, most).to_pylist()
        document: dict[str, Any] = {"count": len(rows), "splits": rows}
        if place + most < len(found):
            last = rows[-1]
            document["next_cursor"] = pack([last["symbol"], last["execution_date"].isoformat(), wanted])
        return orjson.dumps(document)

    return respond(request, await shared.run(answer), _JSON, False, {})


def _known(shared: Services) -> tuple[TradingCalendar, bool]:
    """Return the calendar, and whether windows are counted for all symbols alike."""
    anchor = shared.reference.listing().properties.get(tables.ANCHOR, Anchor.EXCHANGE)
    return shared.reference.calendar, anchor == Anchor.EXCHANGE


def _after(cursor: str, name: str | None) -> tuple[str, str]:
    """Return behind which symbol and day a page goes on.

    Raises:
        Problem: 400 ``bad_cursor``.
    """
    found = unpack(cursor)
    if not (isinstance(found, list) and len(found) == 3 and found[2] == name):
        raise bad_cursor()
    symbol, day, _ = found
    if not (isinstance(symbol, str) and isinstance(day, str)):
        raise bad_cursor()
    return symbol, day


def _sessions(calendar: TradingCalendar, first: int, stop: int, anchored: bool) -> list[dict[str, Any]]:
    """Return the sessions on days of ``[first, stop)``, days since 1970."""
    low, high = np.searchsorted(calendar.days, [first, stop]).tolist()
    positions = np.arange(low, high)
    early = market.early_closes(calendar, positions)
    found = []
    for position, is_early in zip(positions.tolist(), early.tolist(), strict=True):
        number = position - calendar.origin
        windows = FIBONACCI if anchored else ()
        found.append(
            {
                "date": market.date_of(int(calendar.days[position])),
                "open": int(calendar.opens[position]) // 1000,
                "close": int(calendar.closes[position]) // 1000,
                "early_close": is_early,
                "begins": [window.name for window in windows if number % window.sessions == 0],
                "ends": [window.name for window in windows if (number + 1) % window.sessions == 0],
            }
        )
    return found


def _today(calendar: TradingCalendar, shared: Services) -> int:
    now = int(shared.clock().timestamp() * 1_000_000)
    return int(calendar.local_days(np.array([now], np.int64))[0])


def _day(text: str | None, name: str) -> int | None:
    """Read a date, days since 1970; None where there is none.

    Raises:
        Problem: it is no date.
    """
    if text is None or not text.strip():
        return None
    found = instant_of(text, name)
    if not isinstance(found, date):
        raise bad_request(f"{name}={text[:40]!r} is no date: write YYYY-MM-DD", f"bad_{name}")
    return (found - _EPOCH).days


def _millis(micros: int | None) -> int | None:
    return None if micros is None else micros // 1000
