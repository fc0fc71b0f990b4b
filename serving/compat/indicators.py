"""The vendor's technical indicators, computed from the lake's bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from fastapi import Depends, Path, Query, Request, Response

from fibflow.serving.access import Scope, require
from fibflow.serving.compat import formulas
from fibflow.serving.compat.bodies import answered, bar_rows
from fibflow.serving.compat.paging import Asked, address, asked, next_url
from fibflow.serving.compat.params import choice, compared, flag, ticker_of, whole
from fibflow.serving.compat.route import compat_router
from fibflow.serving.compat.source import Range, read
from fibflow.serving.compat.spans import Span, Unit, window_us
from fibflow.serving.formats import json_rows
from fibflow.serving.problems import bad_request
from fibflow.serving.services import Services, services
from fibflow.transforms.partials import as_arrow, numbers
from fibflow.transforms.schemas import BARS

router = compat_router()

DEFAULT, LARGEST = 10, 5_000
_MOST_WINDOW = 500
_SERIES = ("open", "high", "low", "close", "volume", "vwap")
_WINDOWS = {"sma": 50, "ema": 50, "rsi": 14}
_NAMES = (
    *compared("timestamp"),
    "timespan",
    "adjusted",
    "window",
    "short_window",
    "long_window",
    "signal_window",
    "series_type",
    "expand_underlying",
    "order",
    "limit",
)
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Indicator:
    """What to compute.

    Attributes:
        name: ``sma``, ``ema``, ``rsi`` or ``macd``.
        windows: one length; of ``macd`` short, long and signal.
    """

    name: str
    windows: tuple[int, ...]

    @classmethod
    def of(cls, name: str, params: Mapping[str, str]) -> Indicator:
        """Read the windows.

        Raises:
            Problem: one is none.
        """
        if name != "macd":
            return cls(name, (whole(params, "window", _WINDOWS[name], 1, _MOST_WINDOW),))
        short = whole(params, "short_window", 12, 1, _MOST_WINDOW)
        long = whole(params, "long_window", 26, 1, _MOST_WINDOW)
        if short >= long:
            raise bad_request(f"short_window={short} has to be shorter than long_window={long}")
        return cls(name, (short, long, whole(params, "signal_window", 9, 1, _MOST_WINDOW)))

    @property
    def least(self) -> int:
        """How many bars a value takes, its own with them."""
        if self.name == "macd":
            return self.windows[1] + self.windows[2] - 1
        return self.windows[0] + (1 if self.name == "rsi" else 0)

    @property
    def before(self) -> int:
        """How many bars before a value it is computed from, where there are so many."""
        return self.windows[0] - 1 if self.name == "sma" else formulas.needed(sum(self.windows[-2:]))

    def values(self, prices: Float64) -> dict[str, Float64]:
        """Return the members of the values, shape (n,) each; NaN where there are too few prices."""
        if self.name == "macd":
            found = formulas.macd(prices, *self.windows)
            return {"value": found.value, "signal": found.signal, "histogram": found.histogram}
        return {"value": getattr(formulas, self.name)(prices, self.windows[0])}


@router.get(
    "/v1/indicators/{indicator}/{ticker}",
    summary="An indicator of a ticker",
    dependencies=[Depends(require(Scope.HISTORY))],
)
async def indicator_values(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    indicator: Annotated[str, Path(description="sma, ema, rsi or macd.")],
    ticker: Annotated[str, Path(description="The symbol, as the source calls it.")],
    timestamp: Annotated[
        str | None, Query(description="`YYYY-MM-DD` or an epoch; also `.gt`, `.gte`, `.lt`, `.lte`.")
    ] = None,
    timespan: Annotated[str | None, Query(description="Of the bars. Default `day`.")] = None,
    adjusted: Annotated[str | None, Query(description="Default `true`.")] = None,
    window: Annotated[str | None, Query(description="Bars. Default 50, of rsi 14.")] = None,
    short_window: Annotated[str | None, Query(description="Of macd. Default 12.")] = None,
    long_window: Annotated[str | None, Query(description="Of macd. Default 26.")] = None,
    signal_window: Annotated[str | None, Query(description="Of macd. Default 9.")] = None,
    series_type: Annotated[str | None, Query(description="The price. Default `close`.")] = None,
    expand_underlying: Annotated[str | None, Query(description="`true`: with the bars.")] = None,
    order: Annotated[str | None, Query(description="`desc` (default) or `asc`, by time.")] = None,
    limit: Annotated[str | None, Query(description="Values a page, up to 5000. Default 10.")] = None,
    cursor: Annotated[str | None, Query(description="Of `next_url`.")] = None,
) -> Response:
    """Values by the standard formulas; each is the same whatever page or range it is on."""
    name = choice({"indicator": indicator}, "indicator", (*_WINDOWS, "macd"), "")
    return await shared.run(_values, request, shared, asked(request, _NAMES), name, ticker_of(ticker))


def _values(request: Request, shared: Services, question: Asked, name: str, ticker: str) -> Response:
    params, calendar = question.params, shared.reference.calendar
    what = Indicator.of(name, params)
    span = Span.of("1", params.get("timespan") or Unit.DAY)
    series = choice(params, "series_type", _SERIES, "close")
    limit = whole(params, "limit", DEFAULT, 1, LARGEST)
    descending = choice(params, "order", ("asc", "desc"), "desc") == "desc"
    start, end = window_us(params, "timestamp", calendar)
    after = question.place(int)
    if after is not None:
        start, end = (start, after[0]) if descending else (after[0] + 1, end)
    wanted = Range(ticker, span, flag(params, "adjusted", True), start, end, limit + 1, descending)
    seen = _with_before(shared, wanted, what, series)
    values = what.values(seen.prices)
    known = ~np.isnan(np.sum(list(values.values()), axis=0)) & seen.own
    at = np.flatnonzero(known)
    at = at[::-1] if descending else at
    bars, stamps = seen.bars, numbers(seen.bars, "ts")
    members: dict[str, Any] = {"status": "OK"}
    if len(at) > limit:
        at = at[:limit]
        members["next_url"] = next_url(request, params, [int(stamps[at[-1]])])
    elif seen.further is not None:
        members["next_url"] = next_url(request, params, [seen.further])
    columns = {"timestamp": bars["ts"], **{key: as_arrow(value) for key, value in values.items()}}
    table = pa.table(columns).take(as_arrow(at))
    rows = json_rows(table, {key: key for key in columns})
    used = bars.slice(*_used(at, what)) if flag(params, "expand_underlying", False) else None
    underlying = _underlying(request, wanted, bars, at, used)
    return answered(request, members, "results", b'{"values":' + rows + b',"underlying":' + underlying + b"}")


@dataclass(frozen=True)
class _Seen:
    """Bars, oldest first.

    Attributes:
        bars: those that values are computed from, without any that lacks its price.
        prices: of them, shape (n,).
        own: which are the question's, shape (n,).
        further: the ``ts`` behind which the question has more bars; None where it has none.
    """

    bars: pa.Table
    prices: Float64
    own: npt.NDArray[np.bool_]
    further: int | None


def _with_before(shared: Services, wanted: Range, what: Indicator, series: str) -> _Seen:
    """Return the bars of a range, with those before that their values are computed from."""
    # The first ones of a history have no value.
    limit = wanted.limit if wanted.descending else wanted.limit + what.least
    found = read(shared, replace(wanted, limit=limit))
    table = _oldest_first(found.table, wanted.descending)
    further = None
    if len(table):
        stamps = numbers(table, "ts")
        further = int(stamps[0 if wanted.descending else -1]) if found.more else None
        most = max(what.before, what.least)
        earlier = replace(wanted, start=None, end=int(stamps[0]), limit=most, descending=True)
        before = _oldest_first(read(shared, earlier).table, True)
        both = pa.concat_tables([part.select(BARS.names) for part in (before, table)]).combine_chunks()
    else:
        before = both = BARS.empty_table()
    own = np.arange(len(both)) >= len(before)
    column: Any = both[series]
    prices: Float64 = column.fill_null(float("nan")).to_numpy()
    held = ~np.isnan(prices)
    return _Seen(both.filter(as_arrow(held)), prices[held], own[held], further)


def _oldest_first(bars: pa.Table, descending: bool) -> pa.Table:
    return bars.take(as_arrow(np.arange(len(bars))[::-1])) if descending else bars


def _used(at: npt.NDArray[np.intp], what: Indicator) -> tuple[int, int]:
    """Return where the bars lie that values take, as (offset, length)."""
    if not len(at):
        return 0, 0
    first = max(int(at.min()) - what.least + 1, 0)
    return first, int(at.max()) + 1 - first


def _underlying(
    request: Request, wanted: Range, bars: pa.Table, at: npt.NDArray[np.intp], used: pa.Table | None
) -> bytes:
    """Return where the bars are had, and, where they are asked for, these."""
    stamps = numbers(bars, "ts")[at] // 1_000
    first, last = (int(stamps.min()), int(stamps.max())) if len(stamps) else (0, 0)
    path = f"/v2/aggs/ticker/{quote(wanted.symbol, safe='')}/range/{wanted.span.base}/{first}/{last}"
    query = {
        "adjusted": str(wanted.adjusted).lower(),
        "limit": "50000",
        "sort": "desc" if wanted.descending else "asc",
    }
    url = orjson.dumps({"url": address(request, path, query)})
    return url if used is None else url[:-1] + b',"aggregates":' + bar_rows(used) + b"}"
