"""Which source gives the bars of a question: those that are stored, or those that are computed."""

from __future__ import annotations

from fibflow.serving.history.adjust import Factors, Scaled
from fibflow.serving.history.answer import Terms
from fibflow.serving.history.days import Days
from fibflow.serving.history.lakestate import Tables
from fibflow.serving.history.minutes import Minutes
from fibflow.serving.history.query import BarQuery
from fibflow.serving.history.sources import Source, Stored, timeframes_in
from fibflow.serving.problems import Problem, bad_request
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import DAY, Anchor

#: How many sources are kept of a version of the tables.
_MOST = 256


def source_for(
    query: BarQuery, found: Tables, terms: Terms, calendar: TradingCalendar, factors: Factors | None
) -> tuple[Source, Anchor]:
    """Return where the bars of a question come from, and the anchor of their windows.

    Args:
        query: the question.
        found: the tables that it reads.
        terms: of the tables.
        calendar: of the tables.
        factors: scale by splits; None for not.

    Raises:
        Problem: there are no such bars.
    """
    if factors is not None:
        return _made(query, found, terms, calendar, factors)
    # What a source has found of its tables is worth keeping; factors are others each time.
    key = query.timeframe, query.anchor, query.intraday_anchor, query.complete_only
    kept: tuple[Source, Anchor] | None = found.sources.get(key)
    if kept is None:
        if len(found.sources) >= _MOST:
            found.sources.clear()
        kept = found.sources[key] = _made(query, found, terms, calendar, None)
    return kept


def _made(
    query: BarQuery, found: Tables, terms: Terms, calendar: TradingCalendar, factors: Factors | None
) -> tuple[Source, Anchor]:
    timeframe, name = query.timeframe, query.timeframe.name
    anchor = query.anchor or terms.anchor
    intraday = query.intraday_anchor or terms.intraday_anchor
    if timeframe.is_intraday:
        anchored = intraday is terms.intraday_anchor
    else:
        anchored = timeframe == DAY or anchor is terms.anchor
    batch, stream = name in timeframes_in(found.bars), name in timeframes_in(found.live)
    history = found.minutes if timeframe.is_intraday else found.daily
    if anchored and (batch or (stream and history is None)):
        stored = Stored(found.view, timeframe, calendar, query.complete_only)
        if factors is None:
            return stored, anchor
        if timeframe.sessions <= 1 or history is None or anchor is Anchor.ROWS:
            return Scaled(stored, factors, calendar, timeframe.sessions or 1), anchor
    if timeframe.is_intraday:
        minutes = Minutes(
            found, timeframe, calendar, query.complete_only, factors, anchor=intraday, anchored=anchored
        )
        if minutes.history is None and not (minutes.streams and name != minutes.finer):
            raise _unknown(query, terms, "bronze.minutes, nor 1m bars,")
        return minutes, anchor
    days = Days(
        found,
        timeframe,
        calendar,
        query.complete_only,
        factors,
        anchor=anchor,
        anchored=anchored,
        listed=found.sources.setdefault("listed", {}),
    )
    if days.history is None and not days.streams:
        raise _unknown(query, terms, "bronze.daily, nor 1d bars,")
    if anchor is Anchor.ROWS and timeframe != DAY:
        raise bad_request(
            f"{timeframe} is not stored, and windows counted in rows cannot be computed for a question: "
            "ask for anchor=exchange or anchor=listing",
            "bad_anchor",
        )
    return days, anchor


def _unknown(query: BarQuery, terms: Terms, what: str) -> Problem:
    stored = ", ".join(terms.timeframes) or "none"
    wanted = query.anchor or query.intraday_anchor
    anchored = "" if wanted is None else f" with anchor={wanted}"
    return Problem(
        404,
        f"no {query.timeframe} bars{anchored}: the lake stores {stored}, and has no {what} to make them of",
        "unknown_timeframe",
    )
