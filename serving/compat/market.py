"""The vendor's market: its status, holidays, exchanges and sale conditions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, Query, Request, Response

from fibflow.serving.access import Scope, require
from fibflow.serving.caching import respond
from fibflow.serving.compat.bodies import JSON, listed, without_nulls
from fibflow.serving.compat.codes import CONDITION_NAMES, EXCHANGES
from fibflow.serving.compat.paging import Asked, asked, next_url
from fibflow.serving.compat.params import choice, whole
from fibflow.serving.compat.route import compat_router
from fibflow.serving.compat.source import now_us
from fibflow.serving.market import status, upcoming
from fibflow.serving.services import Services, services
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.conditions import CONSOLIDATED, Rule

router = compat_router()

#: The markets that follow New York's calendar.
_NEW_YORK = ("nyse", "nasdaq", "otc")
_HOLIDAYS_OF = ("NYSE", "NASDAQ")
_CONDITIONS = ("asset_class", "data_type", "id", "sort", "order", "limit")
_SECOND_US = 1_000_000

Shared = Annotated[Services, Depends(services)]
Text = Annotated[str | None, Query()]
_HISTORY = [Depends(require(Scope.HISTORY))]


@router.get("/v1/marketstatus/now", summary="Whether the market is open", dependencies=_HISTORY)
async def market_status(request: Request, shared: Shared) -> Response:
    """The market by the lake's calendar and the server's clock."""
    return await shared.run(_status, request, shared)


def _status(request: Request, shared: Services) -> Response:
    calendar, now = shared.reference.calendar, now_us(shared)
    found = status(calendar, now)
    market = str(found.market)
    names = _NEW_YORK if calendar.zone == "America/New_York" else (calendar.name.lower(),)
    body = {
        "market": market,
        "afterHours": found.after,
        "earlyHours": found.early,
        "serverTime": _local(now // _SECOND_US * _SECOND_US, calendar),
        "exchanges": dict.fromkeys(names, market),
        # The client reads them; nothing is known of either.
        "currencies": {},
        "indicesGroups": {},
    }
    return respond(request, orjson.dumps(body), JSON, False)


@router.get("/v1/marketstatus/upcoming", summary="Holidays and half days to come", dependencies=_HISTORY)
async def market_holidays(request: Request, shared: Shared) -> Response:
    """An array: a row for each exchange and day on which it is closed, or closes early."""
    return await shared.run(_upcoming, request, shared)


def _upcoming(request: Request, shared: Services) -> Response:
    calendar = shared.reference.calendar
    names = _HOLIDAYS_OF if calendar.zone == "America/New_York" else (calendar.name,)
    rows = [
        {
            "date": day.date.isoformat(),
            "exchange": exchange,
            "name": day.name or ("Early close" if day.closes is not None else "Holiday"),
            "status": day.status,
            "open": None if day.opens is None else _utc(day.opens),
            "close": None if day.closes is None else _utc(day.closes),
        }
        for day in upcoming(calendar, now_us(shared))
        for exchange in names
    ]
    return respond(request, orjson.dumps(without_nulls(rows)), JSON, False)


def _utc(instant: int) -> str:
    return f"{datetime.fromtimestamp(instant / _SECOND_US, UTC):%Y-%m-%dT%H:%M:%S.000Z}"


def _local(instant: int, calendar: TradingCalendar) -> str:
    """Return UTC microseconds, whole seconds, on the exchange's clock: ISO 8601 with its offset."""
    offset = int(calendar.clock(np.array([instant], np.int64))[0][0]) // _SECOND_US
    local = datetime.fromtimestamp(instant // _SECOND_US + offset, UTC)
    sign, minutes = "-" if offset < 0 else "+", abs(offset) // 60
    return f"{local:%Y-%m-%dT%H:%M:%S}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


@router.get("/v3/reference/exchanges", summary="Exchanges", dependencies=_HISTORY)
async def list_exchanges(
    request: Request, shared: Shared, asset_class: Text = None, locale: Text = None
) -> Response:
    """The exchanges of the lake's symbols."""
    stocks = (asset_class or "stocks") == "stocks" and (locale or "us") == "us"
    symbols = await shared.run(shared.reference.symbols) if stocks else []
    found = sorted({symbol.exchange for symbol in symbols if symbol.exchange})
    rows = [_exchange(mic) for mic in found]
    return listed(request, rows, len(rows), None)


def _exchange(mic: str) -> dict[str, Any]:
    number, name, operating, letter = EXCHANGES.get(mic, (None, mic, None, None))
    return {
        "id": number,
        "type": "exchange",
        "asset_class": "stocks",
        "locale": "us",
        "name": name,
        "mic": mic,
        "operating_mic": operating,
        "participant_id": letter,
    }


@router.get("/v3/reference/conditions", summary="Sale conditions", dependencies=_HISTORY)
async def list_conditions(
    request: Request,
    asset_class: Text = None,
    data_type: Text = None,
    id: Annotated[str | None, Query(description="Of one condition.")] = None,
    order: Text = None,
    limit: Annotated[str | None, Query(description="Conditions a page, up to 1000. Default 10.")] = None,
    cursor: Text = None,
) -> Response:
    """What a trade with each condition counts towards: the rules that bars are made by."""
    return _conditions(request, asked(request, _CONDITIONS))


def _conditions(request: Request, question: Asked) -> Response:
    params = question.params
    fits = params.get("asset_class", "stocks") == "stocks" and params.get("data_type", "trade") == "trade"
    descending = choice(params, "order", ("asc", "desc"), "asc") == "desc"
    limit = whole(params, "limit", 10, 1, 1_000)
    wanted = whole(params, "id", -1, 0, 1_000_000)
    codes = [code for code in sorted(CONSOLIDATED, reverse=descending) if fits and wanted in (-1, code)]
    if after := question.place(int):
        codes = [code for code in codes if (code < after[0] if descending else code > after[0])]
    shown = codes[:limit]
    following = next_url(request, params, [shown[-1]]) if len(codes) > limit else None
    return listed(request, [_condition(code) for code in shown], len(shown), following, settled=True)


def _condition(code: int) -> dict[str, Any]:
    rule = CONSOLIDATED[code]
    return {
        "id": code,
        "type": "sale_condition",
        "name": CONDITION_NAMES.get(code, str(code)),
        "asset_class": "stocks",
        "data_types": ["trade"],
        "sip_mapping": {},
        "update_rules": {
            "consolidated": {
                "updates_high_low": bool(rule & Rule.HIGH_LOW),
                "updates_open_close": bool(rule & Rule.OPEN_CLOSE),
                "updates_volume": bool(rule & Rule.VOLUME),
            }
        },
    }
