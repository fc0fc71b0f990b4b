"""How the texts of a question are read, and that cursors belong to their question."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.history.query import (
    MOST,
    AsOf,
    BarQuery,
    Fill,
    Position,
    as_of_of,
    bar_query,
    bound_of,
    cursor_of,
    instant_of,
    pack,
    resumed,
    symbols_of,
    unpack,
)
from fibflow.serving.problems import Problem
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, Timeframe

XNYS = load_calendar()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(**given: str) -> BarQuery:
    return bar_query({"symbols": "A", "timeframe": "5d", **given}, lambda: XNYS)


def refused(**given: str) -> tuple[int, str]:
    with pytest.raises(Problem) as told:
        read(**given)
    assert "\n" not in told.value.detail
    return told.value.status, told.value.code


def outcome(question: Callable[[], Any]) -> Any:
    """What comes of a question: its answer, or the status and code of its problem."""
    try:
        return question()
    except Problem as problem:
        return problem.status, problem.code


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


# Times -----------------------------------------------------------------------------------------------------

INSTANTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


@given(INSTANTS, st.integers(-14 * 60, 14 * 60))
def test_iso_instants_are_read_in_any_zone(at, offset):
    expected = micros(at)
    texts = [at.isoformat(), at.isoformat().replace("+00:00", "Z"), at.replace(tzinfo=None).isoformat()]
    local = at.astimezone(tz=timezone(timedelta(minutes=offset)))
    texts += [local.isoformat(), local.isoformat().replace("+", " ")]
    assert [instant_of(text, "start") for text in texts] == [expected] * len(texts)


@given(INSTANTS)
def test_epochs_are_read_by_their_magnitude(at):
    seconds = int(at.timestamp())
    for text in (f"{seconds}", f"{seconds * 1000}", f"{seconds * 10**6}", f"{seconds * 10**9}"):
        # Milliseconds, microseconds and nanoseconds of early 1970 look like others: no bar is as old.
        if seconds > 10**8:
            assert instant_of(text, "start") == seconds * 10**6


@given(st.dates(date(1900, 1, 2), date(2030, 12, 1)))
def test_a_date_is_the_start_of_its_session_or_of_the_next_one(day):
    assert instant_of(day.isoformat(), "end") == day
    found = bound_of(day.isoformat(), "end", lambda: XNYS)
    sessions = [EPOCH.date() + timedelta(days=int(n)) for n in XNYS.days]
    expected = next(at for at, session in enumerate(sessions) if session >= day)
    assert found == XNYS.day_starts[expected]


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_told_what_to_write(text):
    found = outcome(lambda: instant_of(text, "start"))
    assert found == (400, "bad_start") or isinstance(found, date) or abs(found) < 2**62


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2024-13-01", "2024-02-30", "1e9", "--5", "9" * 21, "٣٣٣", "2024-1-1"]
)
def test_what_is_no_time(text):
    with pytest.raises(Problem, match="is no time: write YYYY-MM-DD"):
        instant_of(text, "end")


def test_as_of_is_an_instant_or_versions():
    noon = datetime(2024, 3, 11, 12, tzinfo=UTC)
    assert as_of_of("2024-03-11T12:00:00Z") == AsOf(noon)
    assert as_of_of(str(micros(noon) // 1000)) == AsOf(noon)
    assert as_of_of("2024-03-11") == AsOf(datetime(2024, 3, 11, tzinfo=UTC))
    assert as_of_of("bars:12,live:340") == AsOf(None, 12, 340)
    assert as_of_of("live:3, daily:4,minutes:-1") == AsOf(None, -1, 3, 4, -1)
    for text in (
        "bars:x",
        "bars:1,bars:2",
        "other:1",
        "bars:-2",
        "bars:99999999999999999",
        "noon",
        "bars:1,",
    ):
        with pytest.raises(Problem) as told:
            as_of_of(text)
        assert told.value.code == "bad_as_of"


# Parameters ------------------------------------------------------------------------------------------------


def test_all_parameters_are_read():
    found = read(
        symbols=" MSFT, AAPL,MSFT ,",
        timeframe="13D",
        start="2024-01-02",
        end="2024-02-01T15:30:00Z",
        limit="7",
        order="desc",
        fill="prev",
        adjusted="true",
        as_of="bars:3",
        anchor="listing",
        complete="true",
    )
    assert found == BarQuery(
        ("AAPL", "MSFT"),
        Timeframe(13, 0),
        int(XNYS.day_starts[XNYS.position_on_or_before((date(2024, 1, 2) - EPOCH.date()).days)]),
        micros(datetime(2024, 2, 1, 15, 30, tzinfo=UTC)),
        7,
        True,
        True,
        Fill.PREV,
        Anchor.LISTING,
        None,
        True,
        AsOf(None, 3, -1),
    )
    assert read(timeframe="60m", anchor="open").intraday_anchor is IntradayAnchor.OPEN
    assert read() == BarQuery(("A",), Timeframe(5, 0))
    assert read(limit=" ", order="", cursor="") == read()


def test_what_cannot_be_read_is_refused_with_a_reason():
    assert refused(symbols="") == (400, "bad_symbols")
    assert refused(symbols=",,") == (400, "bad_symbols")
    assert refused(symbols="A" * 65) == (400, "bad_symbols")
    assert refused(symbols=",".join(map(str, range(1001)))) == (400, "too_many_symbols")
    assert refused(timeframe="7m") == (400, "bad_timeframe")
    assert refused(timeframe="") == (400, "bad_timeframe")
    assert refused(timeframe="1001d") == (400, "bad_timeframe")
    for limit in ("0", "-1", "1.5", "x", str(MOST + 1), "1" * 30, "٣"):
        assert refused(limit=limit) == (400, "bad_limit")
    assert refused(order="up") == (400, "bad_order")
    assert refused(fill="zero") == (400, "bad_fill")
    assert refused(adjusted="maybe") == (400, "bad_adjusted")
    assert refused(complete="2") == (400, "bad_complete")
    assert refused(anchor="midnight") == (400, "bad_anchor")
    assert refused(anchor="listing", timeframe="1h") == (400, "bad_anchor")
    assert refused(start="2024-02-02", end="2024-02-01") == (400, "bad_range")
    assert refused(cursor="x") == (400, "bad_cursor")


def test_symbols_keep_their_spelling():
    assert symbols_of("brk.b,BRK.B,X:BTCUSD") == ("BRK.B", "X:BTCUSD", "brk.b")


# Cursors ---------------------------------------------------------------------------------------------------

POSITIONS = st.builds(
    Position,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.integers(-(2**50), 2**55),
    st.integers(-1, 10**9),
    st.integers(-1, 10**9),
    st.none() | st.integers(-1, 10**9),
    st.none() | st.integers(-1, 10**9),
)


@given(POSITIONS, POSITIONS, st.integers(1, MOST))
def test_a_cursor_says_where_to_go_on_and_from_which_versions(first, second, limit):
    asked = read(start="2024-01-02")
    page = resumed(replace(asked, limit=limit), cursor_of(asked, first))
    assert page.after == (first.symbol, first.ts)
    assert page.as_of == AsOf(None, first.bars, first.live, first.daily, first.minutes)
    assert replace(page, after=None, as_of=None, question="", limit=asked.limit) == asked
    # The third page is asked for with the same parameters as the second one.
    third = resumed(asked, cursor_of(page, second))
    assert third.after == (second.symbol, second.ts)


def test_a_cursor_of_another_question_is_refused():
    cursor = cursor_of(read(), Position("A", 1, 2, 3))
    for other in (
        {"symbols": "B"},
        {"timeframe": "8d"},
        {"start": "2024-01-02"},
        {"end": "2024-01-02"},
        {"order": "desc"},
        {"adjusted": "true"},
        {"fill": "prev"},
        {"anchor": "listing"},
        {"complete": "true"},
        {"as_of": "bars:1"},
    ):
        assert refused(cursor=cursor, **other) == (400, "bad_cursor")
    assert read(cursor=cursor, limit="9").limit == 9


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_text_is_a_cursor_or_refused(text):
    with pytest.raises(Problem) as told:
        resumed(read(), text)
    assert (told.value.status, told.value.code) == (400, "bad_cursor")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.lists(JSON, min_size=6, max_size=6))
def test_a_cursor_with_other_values_is_refused_or_read(values):
    digest = orjson.loads(base64.urlsafe_b64decode(cursor_of(read(), Position("A", 1, 2, 3)) + "=="))[0]
    text = pack([digest, *values])
    found = outcome(lambda: resumed(read(), text))
    if found != (400, "bad_cursor"):
        assert [*found.after, found.as_of.bars, found.as_of.live] == values[:4]


@given(JSON)
def test_what_is_packed_is_unpacked(document):
    assert unpack(pack(document)) == document
