"""A question for bars, and how its texts are read."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, TypeVar

import orjson

from fibflow.io.bars import session_start
from fibflow.serving.problems import Problem, bad_request
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe, TimeframeError

#: How many bars a page has at most, and by default.
MOST, DEFAULT = 50_000, 500
#: How many symbols a question names at most; exports take more.
MOST_SYMBOLS = 1_000
#: How long a symbol may be.
_LONGEST_SYMBOL = 64
_LONGEST_CURSOR = 2_000
#: Positions of cursors lie within: far outside of all times, and safe to add to.
_FAR = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = datetime.resolution
#: The tables whose versions ``as_of`` may name.
_TABLES = ("bars", "live", "daily", "minutes")

Choice = TypeVar("Choice", bound=StrEnum)


class Fill(StrEnum):
    """What stands where a symbol has no bar: nothing, the close before with volume 0, or nulls."""

    NONE = "none"
    PREV = "prev"
    NULL = "null"


@dataclass(frozen=True)
class AsOf:
    """Read the lake as it was: at an instant, or at versions of its tables; -1 for a table not there.

    Attributes:
        instant: all tables as they were then.
        bars, live: versions of ``silver.bars`` and ``silver.live``.
        daily, minutes: versions of ``bronze.daily`` and ``bronze.minutes``, for bars that are computed; None
            for the newest.
    """

    instant: datetime | None = None
    bars: int | None = None
    live: int | None = None
    daily: int | None = None
    minutes: int | None = None


@dataclass(frozen=True)
class BarQuery:
    """A question for bars.

    Attributes:
        symbols: sorted, each once; None for all.
        timeframe: any.
        start, end: bars whose ``ts`` lies in ``[start, end)``, UTC microseconds; None for no bound.
        limit: how many rows at most.
        descending: of each symbol the newest first. Then, without ``start``, the answer is the last bars.
        adjusted: scale to the splits up to now, where prices are raw.
        fill: what stands where there is no bar.
        anchor: of ``<N>d``; None for that of the lake.
        intraday_anchor: of minutes and hours; None for that of the lake.
        complete_only: without windows that have not ended.
        as_of: None for the newest.
        after: go on behind this (symbol, ts) of the order: by symbol, then by ts up or down.
        question: of a page behind a cursor, the hash of what was asked for the first one.
    """

    symbols: tuple[str, ...] | None
    timeframe: Timeframe
    start: int | None = None
    end: int | None = None
    limit: int = DEFAULT
    descending: bool = False
    adjusted: bool = False
    fill: Fill = Fill.NONE
    anchor: Anchor | None = None
    intraday_anchor: IntradayAnchor | None = None
    complete_only: bool = False
    as_of: AsOf | None = None
    after: tuple[str, int] | None = None
    question: str = ""


# Reading parameters ----------------------------------------------------------------------------------------


def bar_query(parameters: Mapping[str, str | None], calendar: Callable[[], TradingCalendar]) -> BarQuery:
    """Read the parameters of ``/v1/bars``, the cursor included.

    Args:
        parameters: ``symbols``, ``timeframe``, ``start``, ``end``, ``limit``, ``order``, ``fill``,
            ``adjusted``, ``as_of``, ``anchor``, ``complete``, ``cursor``; None, or absent, for what was not
            given.
        calendar: of the lake; asked only where a bound is a date.

    Raises:
        Problem: one of them cannot be read, or two contradict each other.
    """

    def given(name: str) -> str | None:
        text = parameters.get(name)
        return text if text is not None and text.strip() else None

    symbols, timeframe = given("symbols"), given("timeframe")
    if symbols is None:
        raise bad_request("symbols is missing: write symbols=AAPL,MSFT", "bad_symbols")
    if timeframe is None:
        raise bad_request("timeframe is missing: write timeframe=5d, 1d, 1h or 5m", "bad_timeframe")
    length = timeframe_of(timeframe)
    anchor, intraday_anchor = anchors_of(given("anchor"), length)
    as_of = given("as_of")
    query = BarQuery(
        symbols=symbols_of(symbols),
        timeframe=length,
        start=bound_of(given("start"), "start", calendar),
        end=bound_of(given("end"), "end", calendar),
        limit=limit_of(given("limit")),
        descending=order_of(given("order")),
        adjusted=boolean_of(given("adjusted"), "adjusted"),
        fill=choice_of(given("fill"), Fill, "fill", Fill.NONE),
        anchor=anchor,
        intraday_anchor=intraday_anchor,
        complete_only=boolean_of(given("complete"), "complete"),
        as_of=None if as_of is None else as_of_of(as_of),
    )
    if query.start is not None and query.end is not None and query.start > query.end:
        raise bad_request(
            "start is after end: swap them, and use order=desc for the newest first", "bad_range"
        )
    cursor = given("cursor")
    return query if cursor is None else resumed(query, cursor)


def timeframe_of(text: str) -> Timeframe:
    """Read a timeframe.

    Raises:
        Problem: it is none.
    """
    try:
        return Timeframe.parse(text[:40])
    except TimeframeError as error:
        raise bad_request(str(error), "bad_timeframe") from None


def symbols_of(text: str, most: int = MOST_SYMBOLS) -> tuple[str, ...]:
    """Read a list with commas; sorted, each once.

    Raises:
        Problem: it names none, or too many.
    """
    found = sorted({name for part in text.split(",") if (name := part.strip())})
    if not found:
        raise bad_request("symbols names none: write symbols=AAPL,MSFT", "bad_symbols")
    if len(found) > most:
        raise bad_request(
            f"{len(found)} symbols at once: ask for {most} at most, or use /v1/exports", "too_many_symbols"
        )
    if long := next((name for name in found if len(name) > _LONGEST_SYMBOL), None):
        raise bad_request(f"{long[:20]!r}... is no symbol: it has {len(long)} characters", "bad_symbols")
    return tuple(found)


def anchors_of(text: str | None, timeframe: Timeframe) -> tuple[Anchor | None, IntradayAnchor | None]:
    """Read an anchor; of ``<N>d`` it is another thing than of minutes and hours.

    Raises:
        Problem: it is none, or not one of such a timeframe.
    """
    if text is None:
        return None, None
    if timeframe.is_intraday:
        return None, choice_of(text, IntradayAnchor, f"anchor of {timeframe}")
    return choice_of(text, Anchor, f"anchor of {timeframe}"), None


def limit_of(text: str | None, most: int = MOST, default: int = DEFAULT) -> int:
    """Read how many rows to give at most.

    Raises:
        Problem: it is no number from 1 to ``most``.
    """
    if text is None:
        return default
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and 1 <= int(digits) <= most):
        raise bad_request(f"limit={text[:20]!r}: write a number from 1 to {most}", "bad_limit")
    return int(digits)


def order_of(text: str | None) -> bool:
    """Read an order; True for the newest first.

    Raises:
        Problem: it is neither ``asc`` nor ``desc``.
    """
    return choice_of(text, Order, "order", Order.ASC) is Order.DESC


class Order(StrEnum):
    """Of the bars of a symbol, by time."""

    ASC = "asc"
    DESC = "desc"


class Flag(StrEnum):
    """Whether."""

    TRUE = "true"
    FALSE = "false"


def boolean_of(text: str | None, name: str, default: bool = False) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        Problem: it is neither.
    """
    if text is None:
        return default
    found = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    if found is None:
        raise bad_request(f"{name}={text[:20]!r}: write true or false", f"bad_{name}")
    return found


def choice_of(text: str | None, kind: type[Choice], name: str, default: Choice | None = None) -> Choice:
    """Read one of some words.

    Raises:
        Problem: it is none of them.
    """
    if text is None and default is not None:
        return default
    try:
        return kind((text or "").strip().lower())
    except ValueError:
        words = ", ".join(kind)
        raise bad_request(
            f"{name} {(text or '')[:20]!r} is not known: write one of {words}",
            f"bad_{name.partition(' ')[0]}",
        ) from None


def bound_of(text: str | None, name: str, calendar: Callable[[], TradingCalendar]) -> int | None:
    """Read a bound of a range, UTC microseconds; a date is the start of its session, or of the next one.

    Raises:
        Problem: it is no time.
    """
    if text is None:
        return None
    found = instant_of(text, name)
    if isinstance(found, int):
        return found
    start: Any = session_start(found, calendar)
    return int(start)


def instant_of(text: str, name: str) -> int | date:
    """Read an instant: ``YYYY-MM-DD`` is a session's date, else ISO 8601 or an epoch by its magnitude.

    Returns:
        UTC microseconds, or a date.

    Raises:
        Problem: it is none.
    """
    text = text.strip()
    if text.isascii() and len(text) <= 20 and text.removeprefix("-").isdecimal():
        return _by_magnitude(int(text))
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
        # A plus sign that was not encoded arrives as a space.
        found = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return (found - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise bad_request(
            f"{name}={text[:40]!r} is no time: write YYYY-MM-DD, ISO 8601, or an epoch in ms, us or ns",
            f"bad_{name}",
        ) from None


def _by_magnitude(number: int) -> int:
    size = abs(number)
    if size < 10**11:
        return number * 1_000_000
    if size < 10**14:
        return number * 1_000
    return number if size < 10**17 else number // 1_000


def as_of_of(text: str) -> AsOf:
    """Read a time of the lake: an instant, or versions of its tables such as ``bars:12,live:340``.

    A date is its midnight, UTC. Where versions are given, a table of bars that is not named is not read.

    Raises:
        Problem: it is neither.
    """
    if ":" in text and text.lstrip()[:1].isalpha():
        return _versions(text)
    found = instant_of(text, "as_of")
    if isinstance(found, int):
        try:
            return AsOf(_EPOCH + _MICROSECOND * found)
        except OverflowError:
            raise bad_request(f"as_of={text[:40]!r} is no time that a lake can have", "bad_as_of") from None
    return AsOf(datetime(found.year, found.month, found.day, tzinfo=UTC))


def _versions(text: str) -> AsOf:
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        digits = number.removeprefix("-")
        fits = number == "-1" or (
            digits == number and digits.isascii() and digits.isdecimal() and len(digits) < 16
        )
        if name not in _TABLES or name in found or not fits:
            raise bad_request(
                f"as_of={text[:40]!r}: write an instant, or versions such as bars:12,live:340", "bad_as_of"
            )
        found[name] = int(number)
    return AsOf(None, found.get("bars", -1), found.get("live", -1), found.get("daily"), found.get("minutes"))


# Cursors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Where an answer ended, and the versions that it was read from.

    Attributes:
        symbol, ts: of its last row.
        bars, live, daily, minutes: versions; -1 for a table that was not there, None for one that was not
            read.
    """

    symbol: str
    ts: int
    bars: int
    live: int
    daily: int | None = None
    minutes: int | None = None


def digest_of(query: BarQuery) -> str:
    """Return a short hash of what a question asks, apart from how many rows and where it goes on."""
    if query.question:
        return query.question
    asked = replace(query, after=None, limit=DEFAULT)
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]


def pack(document: Any) -> str:
    """Return a JSON document as base64url without padding."""
    return base64.urlsafe_b64encode(orjson.dumps(document)).rstrip(b"=").decode()


def unpack(text: str) -> Any:
    """Read what ``pack`` made.

    Raises:
        Problem: 400 ``bad_cursor``.
    """
    try:
        if len(text) > _LONGEST_CURSOR:
            raise ValueError
        raw = text.encode("ascii")
        # Without validation, characters that are none of the alphabet would be skipped.
        decoded = base64.b64decode(raw + b"=" * (-len(raw) % 4), b"-_", validate=True)
        return orjson.loads(decoded)
    except (ValueError, binascii.Error):
        raise bad_cursor() from None


def bad_cursor() -> Problem:
    """Return what a cursor that is none of this question's is told."""
    return bad_request(
        "the cursor does not belong to this question: repeat the parameters of the page that gave it, or "
        "begin without cursor",
        "bad_cursor",
    )


def cursor_of(query: BarQuery, position: Position) -> str:
    """Return the cursor with which the next page of a question is asked for."""
    p = position
    return pack([digest_of(query), p.symbol, p.ts, p.bars, p.live, p.daily, p.minutes])


def resumed(query: BarQuery, cursor: str) -> BarQuery:
    """Return the question for the next page: behind the cursor's row, from the same versions.

    Raises:
        Problem: 400 ``bad_cursor``, for one that cannot be read or belongs to another question.
    """
    found, question = unpack(cursor), digest_of(query)
    if not isinstance(found, list) or len(found) != 7 or found[0] != question:
        raise bad_cursor()
    _, symbol, ts, bars, live, daily, minutes = found
    versions = (bars, live, *(version for version in (daily, minutes) if version is not None))
    if not isinstance(symbol, str) or not symbol or not all(_is_version(version) for version in versions):
        raise bad_cursor()
    if type(ts) is not int or abs(ts) > _FAR:
        raise bad_cursor()
    as_of = AsOf(None, bars, live, daily, minutes)
    return replace(query, as_of=as_of, after=(symbol, ts), question=question)


def _is_version(value: Any) -> bool:
    return type(value) is int and -1 <= value < 10**15
