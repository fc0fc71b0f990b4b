"""Bars as the vendor's own clients read them, against rows that were written down and DuckDB."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.compat.answers import NEW_YORK, ask, get, ms, refused
from fibflow.tests.serving.compat.conftest import settings_of
from fibflow.tests.serving.compat.lakes import SPLIT
from fibflow.tests.serving.servers import running

DAYS = "/v2/aggs/ticker/{}/range/1/day/2023-11-20/2024-04-05"


def bars_of(aggregates: list[Any]) -> list[tuple]:
    return [
        (a.timestamp, a.open, a.high, a.low, a.close, a.volume, a.vwap, a.transactions) for a in aggregates
    ]


def expected(rows: list[dict[str, Any]]) -> list[tuple]:
    return [
        (
            ms(row["session"]),
            *(row[name] for name in ("open", "high", "low", "close", "volume", "vwap", "trade_count")),
        )
        for row in rows
    ]


def days(made: Any, symbol: str, first: str, last: str, table: str = "adjusted") -> list[dict[str, Any]]:
    return made.rows(
        f"SELECT * FROM {table} WHERE symbol = '{symbol}' AND session BETWEEN '{first}' AND '{last}'"
        " ORDER BY session"
    )


# A range of days -------------------------------------------------------------------------------------------


def test_days_are_the_rows_labelled_by_midnight_in_new_york(raw, client):
    found = client.get_aggs("AAPL", 1, "day", "2024-03-07", "2024-03-13")
    assert bars_of(found) == expected(days(raw, "AAPL", "2024-03-07", "2024-03-13"))
    # Both sides of the change to daylight saving.
    assert [a.timestamp for a in found][1:3] == [1709874000000, 1710129600000]


@pytest.mark.parametrize("limit", [1, 7, 23, 40, 94])
def test_pages_of_all_sizes_make_the_same_list(raw, client, limit):
    rows = days(raw, "AAPL", "2023-11-20", "2024-04-05")
    for sort in ("asc", "desc"):
        found = list(client.list_aggs("AAPL", 1, "day", "2023-11-20", "2024-04-05", limit=limit, sort=sort))
        assert bars_of(found) == expected(rows if sort == "asc" else rows[::-1])


def test_the_next_page_is_there_while_there_are_bars_and_no_longer(raw, raw_url):
    count = len(days(raw, "AAPL", "2023-11-20", "2024-04-05"))
    path, lengths = DAYS.format("AAPL") + "?limit=31&apiKey=secret-key", []
    while path:
        document = get(raw_url, path)
        lengths.append(document["resultsCount"])
        assert document["count"] == document["queryCount"] == len(document["results"])
        following = document.get("next_url", "")
        assert "secret-key" not in following
        assert not following or following.startswith(raw_url + "/v2/aggs/ticker/AAPL/range/1/day/")
        path = following.removeprefix(raw_url)
    assert lengths == [31] * (count // 31) + [count % 31]
    # A limit that is met exactly leaves nothing to ask for.
    assert "next_url" not in get(raw_url, DAYS.format("AAPL") + f"?limit={count}")


def test_get_aggs_gives_one_page(client):
    assert len(client.get_aggs("AAPL", 1, "day", "2023-11-20", "2024-04-05", limit=5)) == 5


@pytest.mark.parametrize("wish", [True, False, None])
def test_splits_on_a_raw_lake(raw, raw_url, client, wish):
    found = client.get_aggs("SPLT", 1, "day", "2024-03-11", "2024-03-14", adjusted=wish)
    rows = days(raw, "SPLT", "2024-03-11", "2024-03-14", "days" if wish is False else "adjusted")
    assert bars_of(found) == expected(rows)
    told = "" if wish is None else f"?adjusted={str(wish).lower()}"
    assert get(raw_url, DAYS.format("SPLT") + told)["adjusted"] is (wish is not False)


def test_a_split_moves_prices_and_volume_by_its_ratio(client):
    before = date(2024, 3, 12)
    plain, scaled = (
        client.get_aggs("SPLT", 1, "day", before, before, adjusted=wish)[0] for wish in (False, True)
    )
    assert (scaled.close, scaled.volume) == (plain.close / 4, plain.volume * 4)
    after = [client.get_aggs("SPLT", 1, "day", SPLIT, SPLIT, adjusted=wish)[0] for wish in (False, True)]
    assert bars_of(after[:1]) == bars_of(after[1:])


@pytest.mark.parametrize("wish", [True, False])
def test_split_adjusted_prices_are_as_they_are_and_said_to_be(adjusted, adjusted_url, make_client, wish):
    found = make_client(adjusted_url).get_aggs("SPLT", 1, "day", "2024-03-11", "2024-03-14", adjusted=wish)
    assert bars_of(found) == expected(days(adjusted, "SPLT", "2024-03-11", "2024-03-14", "days"))
    assert get(adjusted_url, DAYS.format("SPLT") + f"?adjusted={str(wish).lower()}")["adjusted"] is True


def test_our_own_members_are_there_and_harmless(raw_url):
    bar = get(raw_url, "/v2/aggs/ticker/AAPL/range/1/day/2024-04-01/2024-04-01")["results"][0]
    assert (bar["final"], bar["rev"]) == (True, 0)


# Several days ----------------------------------------------------------------------------------------------


def windows(made: Any, symbol: str, length: int) -> list[tuple[list[date], float, float]]:
    """The sessions of each window of so many, with its first open and its volume, by hand."""
    sessions = [row["session"] for row in made.rows("SELECT DISTINCT session FROM days ORDER BY 1")]
    by_day = {row["session"]: row for row in days(made, symbol, "2023-11-20", "2024-04-05")}
    # 2024-01-02 is session 6037 of those counted from 2000-01-03.
    at = {day: 6037 + number - sessions.index(date(2024, 1, 2)) for number, day in enumerate(sessions)}
    found: dict[int, list[date]] = {}
    for day in sessions:
        if day in by_day:
            found.setdefault(at[day] // length, []).append(day)
    return [
        (held, by_day[held[0]]["open"], sum(by_day[d]["volume"] for d in held)) for held in found.values()
    ]


def test_2024_begins_with_session_6037():
    # New York's sessions of each year from 2000 on, as its own lists of holidays leave them.
    to_2011 = [252, 248, 252, 252, 252, 252, 251, 251, 253, 252, 252, 252]
    to_2023 = [250, 252, 252, 252, 252, 251, 251, 252, 253, 252, 251, 250]
    assert sum(to_2011) + sum(to_2023) == 6037


@pytest.mark.parametrize("length", [5, 7])
def test_several_days_are_sessions_counted_as_the_lake_does(raw, client, length):
    found = client.get_aggs("AAPL", length, "day", "2023-12-01", "2024-03-01")
    first = date(2023, 12, 1)
    last = date(2024, 3, 1)
    # From snaps down to the window that holds it.
    rows = [w for w in windows(raw, "AAPL", length) if w[0][-1] >= first and w[0][0] <= last]
    assert [(a.open, a.volume) for a in found] == [
        (opened, pytest.approx(volume)) for _, opened, volume in rows
    ]
    pages = list(client.list_aggs("AAPL", length, "day", "2023-12-01", "2024-03-01", limit=2))
    assert bars_of(pages) == bars_of(found)


def test_a_window_with_a_split_inside_is_made_of_scaled_days(raw, client):
    found = client.get_aggs("SPLT", 5, "day", SPLIT, SPLIT)[0]
    [(held, opened, volume)] = [w for w in windows(raw, "SPLT", 5) if SPLIT in w[0]]
    assert held[0] < SPLIT
    assert (found.open, found.volume) == (opened, volume)


# The calendar ----------------------------------------------------------------------------------------------

PERIODS = {
    "week": "date_trunc('week', session + INTERVAL 1 DAY) - INTERVAL 1 DAY",
    "month": "date_trunc('month', session)",
    "quarter": "date_trunc('quarter', session)",
    "year": "date_trunc('year', session)",
}


def periods(made: Any, symbol: str, unit: str) -> list[tuple]:
    rows = made.rows(
        f"""SELECT CAST({PERIODS[unit]} AS DATE) AS label, arg_min(open, session) AS open, max(high) AS high,
        min(low) AS low, arg_max(close, session) AS close, sum(volume) AS volume,
        sum(vwap * volume) / sum(volume) AS vwap,
        sum(trade_count) AS n FROM adjusted WHERE symbol = '{symbol}' GROUP BY 1 ORDER BY 1"""
    )
    return [
        (
            ms(row["label"]),
            row["open"],
            row["high"],
            row["low"],
            row["close"],
            pytest.approx(row["volume"]),
            pytest.approx(row["vwap"]),
            int(row["n"]),
        )
        for row in rows
    ]


@pytest.mark.parametrize("unit", sorted(PERIODS))
@pytest.mark.parametrize("symbol", ["AAPL", "SPLT", "GONE"])
def test_periods_of_the_calendar(raw, client, unit, symbol):
    rows = periods(raw, symbol, unit)
    found = client.get_aggs(symbol, 1, unit, "2023-11-20", "2024-04-05")
    assert bars_of(found) == rows
    for sort in ("asc", "desc"):
        pages = list(client.list_aggs(symbol, 1, unit, "2023-11-20", "2024-04-05", limit=2, sort=sort))
        assert bars_of(pages) == (rows if sort == "asc" else rows[::-1])


def test_a_week_begins_on_sunday_and_a_range_takes_it_whole(raw, client):
    found = client.get_aggs("AAPL", 1, "week", "2024-03-13", "2024-03-13")
    assert [a.timestamp for a in found] == [ms(date(2024, 3, 10))]
    assert bars_of(found)[0][5] == pytest.approx(
        sum(row["volume"] for row in days(raw, "AAPL", "2024-03-11", "2024-03-15"))
    )


def test_several_months_are_counted_from_january(raw, client):
    found = client.get_aggs("AAPL", 2, "month", "2023-11-01", "2024-04-05")
    assert [datetime.fromtimestamp(a.timestamp / 1000, NEW_YORK).date() for a in found] == [
        date(2023, 11, 1),
        date(2024, 1, 1),
        date(2024, 3, 1),
    ]


def test_a_period_is_final_once_it_has_ended(raw_url):
    found = get(raw_url, "/v2/aggs/ticker/AAPL/range/1/month/2024-03-01/2024-04-05")["results"]
    assert [bar["final"] for bar in found] == [True, False]


# Minutes and hours -----------------------------------------------------------------------------------------


def folded(made: Any, symbol: str, minutes: int, first: datetime, last: datetime) -> list[tuple]:
    rows = made.rows(
        f"""SELECT time_bucket(INTERVAL '{minutes} minutes', ts, TIMESTAMPTZ '2024-01-01 05:00:00Z') AS label,
        arg_min(open, ts) AS open, max(high) AS high, min(low) AS low, arg_max(close, ts) AS close,
        sum(volume) AS volume,
        sum(vwap * volume) / sum(volume) AS vwap, sum(trade_count) AS n FROM minutes
        WHERE symbol = '{symbol}' AND ts >= '{first.isoformat()}' AND ts <= '{last.isoformat()}'
        GROUP BY 1 ORDER BY 1"""
    )
    return [
        (
            round(row["label"].timestamp() * 1000),
            row["open"],
            row["high"],
            row["low"],
            row["close"],
            row["volume"],
            pytest.approx(row["vwap"], abs=1e-6),
            int(row["n"]),
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    ("count", "unit", "minutes"),
    [(1, "minute", 1), (5, "minute", 5), (10, "minute", 10), (1, "hour", 60), (2, "hour", 120)],
)
def test_minutes_and_hours_stored_or_not(raw, client, count, unit, minutes):
    rows = folded(
        raw,
        "AAPL",
        minutes,
        datetime(2024, 3, 8, 5, tzinfo=UTC),
        datetime(2024, 4, 5, 23, tzinfo=UTC),
    )
    found = client.get_aggs("AAPL", count, unit, "2024-03-08", "2024-04-05", limit=50_000)
    # The fold in SQL counts hours from a winter midnight: of two hours those of summer lie between.
    if minutes <= 60:
        assert bars_of(found) == rows
    starts = [datetime.fromtimestamp(a.timestamp / 1000, NEW_YORK) for a in found]
    assert all((start.hour * 60 + start.minute) % minutes == 0 for start in starts)
    assert sum(a.volume for a in found) == pytest.approx(sum(row[5] for row in rows))


def test_hours_begin_at_the_full_hour(client):
    found = client.get_aggs("AAPL", 1, "hour", "2024-04-05", "2024-04-05")
    assert found[0].timestamp == ms(date(2024, 4, 5), time(8))
    assert ms(date(2024, 4, 5), time(9)) in [a.timestamp for a in found]


@pytest.mark.parametrize("unit", [timedelta(milliseconds=1), timedelta(microseconds=1)])
def test_a_range_of_instants_snaps_out_to_whole_bars(client, unit):
    begin = datetime(2024, 4, 5, 13, 37, tzinfo=UTC)
    for first in (begin, begin + unit, begin + timedelta(minutes=2)):
        found = client.get_aggs("AAPL", 5, "minute", first, begin + timedelta(minutes=10))
        assert [a.timestamp for a in found] == [
            ms(date(2024, 4, 5), time(9, minute)) for minute in (35, 40, 45)
        ]


def test_epochs_are_read_by_their_magnitude(raw_url):
    first = ms(date(2024, 4, 1))
    counts = set()
    for scale in (1, 1_000, 1_000_000):
        path = f"/v2/aggs/ticker/AAPL/range/1/day/{first * scale}/{(first + 86_400_000 * 3) * scale}"
        counts.add(get(raw_url, path)["resultsCount"])
    assert counts == {4}


def test_minutes_of_before_a_split_are_scaled(client):
    plain, scaled = (
        client.get_aggs("SPLT", 1, "minute", "2024-03-08", "2024-03-08", adjusted=wish)[0]
        for wish in (False, True)
    )
    assert (scaled.close, scaled.volume) == (plain.close / 4, plain.volume * 4)


# Nothing, and what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("ticker", ["NOSUCH", "aapl", "NOBARS", "X:BTCUSD"])
def test_an_unknown_ticker_has_no_bars_and_that_is_no_error(raw_url, client, ticker):
    assert client.get_aggs(ticker, 1, "day", "2024-03-07", "2024-03-13") == []
    document = get(raw_url, DAYS.format(ticker))
    assert (document["resultsCount"], document["queryCount"], document["status"]) == (0, 0, "OK")
    assert "results" not in document


def test_a_weekend_has_no_bars(client):
    assert client.get_aggs("AAPL", 1, "day", "2024-03-09", "2024-03-10") == []


def test_names_with_a_blank_and_a_dot(raw, client):
    for ticker in ("BRK A", "BRK.B"):
        found = list(client.list_aggs(ticker, 1, "day", "2024-02-01", "2024-04-05", limit=13))
        assert bars_of(found) == expected(days(raw, ticker, "2024-02-01", "2024-04-05"))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("1/second/2024-04-01/2024-04-02", "shortest are 1/minute"),
        ("7/minute/2024-04-01/2024-04-02", "does not divide a day"),
        ("24/hour/2024-04-01/2024-04-02", "does not divide a day"),
        ("1/fortnight/2024-04-01/2024-04-02", "choose minute, hour"),
        ("0/day/2024-04-01/2024-04-02", "whole number"),
        ("x/day/2024-04-01/2024-04-02", "whole number"),
        ("99999999999999999999999/day/2024-04-01/2024-04-02", "whole number"),
        ("5000/day/2024-04-01/2024-04-02", "at most 1000"),
        ("5000/week/2024-04-01/2024-04-02", "at most 1000"),
        ("1/day/2024-04-02/2024-04-01", "before 'from'"),
        ("1/day/2024-13-02/2024-04-01", "no time"),
        ("1/day/yesterday/2024-04-01", "no time"),
        ("1/day/2024-04-01/300000000000000000000", "beyond the years"),
        ("1/day/2024-04-01/2024-04-02?limit=0", "whole number from 1 to 50000"),
        ("1/day/2024-04-01/2024-04-02?limit=50001", "whole number from 1 to 50000"),
        ("1/day/2024-04-01/2024-04-02?limit=many", "whole number from 1 to 50000"),
        ("1/day/2024-04-01/2024-04-02?sort=up", "choose asc, desc"),
        ("1/day/2024-04-01/2024-04-02?adjusted=maybe", "neither true nor false"),
        ("1/day/2024-04-01/2024-04-02?cursor=abc", "follow next_url"),
        ("1/day/2024-04-01/2024-04-02?cursor=%F0%9F%90%8D", "follow next_url"),
        ("1/day/2024-04-01/2024-04-02?cursor=" + "A" * 30_000, ""),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(raw_url, path, says):
    status, document, _ = ask(raw_url, f"/v2/aggs/ticker/AAPL/range/{path}")
    assert 400 <= status < 500
    assert says in str(document)


def test_a_huge_range_is_a_range(raw, raw_url):
    found = get(raw_url, "/v2/aggs/ticker/AAPL/range/1/day/0001-01-01/9999-12-31")
    assert found["resultsCount"] == len(days(raw, "AAPL", "2023-11-20", "2024-04-05"))


def test_a_cursor_fits_its_own_question_only(raw_url):
    following = get(raw_url, DAYS.format("AAPL") + "?limit=5")["next_url"]
    cursor = following.partition("cursor=")[2]
    assert refused(raw_url, DAYS.format("MSFT") + f"?cursor={cursor}")[0] == 400
    assert refused(raw_url, DAYS.format("AAPL") + f"?cursor={cursor[:-6]}")[0] == 400


# The day before, all tickers, one day ----------------------------------------------------------------------


def test_the_day_before_is_labelled_by_its_close(raw, client):
    [found] = client.get_previous_close_agg("AAPL")
    [row] = days(raw, "AAPL", "2024-04-05", "2024-04-05")
    assert found.timestamp == ms(date(2024, 4, 5), time(16))
    assert (found.ticker, found.close, found.volume, found.vwap) == (
        "AAPL",
        row["close"],
        row["volume"],
        row["vwap"],
    )


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (datetime(2024, 4, 5, 3, 59, tzinfo=UTC), date(2024, 4, 3)),
        (datetime(2024, 4, 5, 4, tzinfo=UTC), date(2024, 4, 4)),
        (datetime(2024, 4, 5, 23, tzinfo=UTC), date(2024, 4, 4)),
        (datetime(2024, 4, 6, 12, tzinfo=UTC), date(2024, 4, 5)),
        (datetime(2024, 3, 31, 12, tzinfo=UTC), date(2024, 3, 28)),
    ],
)
def test_today_is_not_the_day_before(raw, make_client, now, day):
    with running(create_app(settings_of(raw), lambda: now)) as url:
        [found] = make_client(url).get_previous_close_agg("AAPL")
    assert found.timestamp == ms(day, time(16))


def test_the_day_before_of_a_ticker_that_is_gone_is_its_last(client):
    [found] = client.get_previous_close_agg("GONE")
    assert found.timestamp == ms(date(2024, 2, 29), time(16))
    assert client.get_previous_close_agg("NOSUCH") == []


@pytest.mark.parametrize("wish", [True, False])
def test_all_tickers_of_a_day(raw, client, wish):
    day = date(2024, 3, 12)
    found = client.get_grouped_daily_aggs(day, adjusted=wish)
    rows = raw.rows(f"SELECT * FROM {'adjusted' if wish else 'days'} WHERE session = '{day}' ORDER BY symbol")
    assert [(a.ticker, a.open, a.close, a.volume, a.timestamp) for a in found] == [
        (row["symbol"], row["open"], row["close"], row["volume"], ms(day, time(16))) for row in rows
    ]


def test_a_half_day_closes_early(client):
    found = client.get_grouped_daily_aggs("2023-11-24")
    assert {a.timestamp for a in found} == {ms(date(2023, 11, 24), time(13))}


def test_a_day_without_session_has_no_tickers(raw_url, client):
    assert client.get_grouped_daily_aggs("2023-11-23") == []
    assert "results" not in get(raw_url, "/v2/aggs/grouped/locale/us/market/stocks/2023-11-23")


def test_prices_of_a_day_with_those_before_and_after_hours(raw, client):
    found = client.get_daily_open_close_agg("AAPL", "2024-04-05")
    [row] = days(raw, "AAPL", "2024-04-05", "2024-04-05")
    assert (found.open, found.high, found.low, found.close, found.volume) == tuple(
        row[name] for name in ("open", "high", "low", "close", "volume")
    )
    early = raw.rows("SELECT open FROM minutes WHERE symbol = 'AAPL' AND ts = '2024-04-05T12:00Z'")
    late = raw.rows("SELECT close FROM minutes WHERE symbol = 'AAPL' AND ts = '2024-04-05T21:29Z'")
    assert (found.pre_market, found.after_hours) == (early[0]["open"], late[0]["close"])
    assert (found.symbol, found.from_) == ("AAPL", "2024-04-05")


def test_a_day_without_minutes_has_no_prices_outside_its_hours(raw_url):
    found = get(raw_url, "/v1/open-close/MSFT/2024-04-05")
    assert not {"preMarket", "afterHours"} & found.keys()


@pytest.mark.parametrize("path", ["AAPL/2024-03-09", "NOSUCH/2024-03-08", "GONE/2024-03-08"])
def test_a_day_that_is_not_there_is_not_found(raw_url, path):
    assert refused(raw_url, f"/v1/open-close/{path}")[0] == 404


# Caches ----------------------------------------------------------------------------------------------------


def test_an_answer_has_one_etag_and_old_ones_may_be_kept(raw_url):
    path = "/v2/aggs/ticker/AAPL/range/1/day/2024-03-07/2024-03-13?adjusted=false"
    (_, one, first), (_, two, second) = ask(raw_url, path), ask(raw_url, path)
    assert first["etag"] == second["etag"]
    assert one == two
    assert ask(raw_url, path + "&sort=desc")[2]["etag"] != first["etag"]
    assert int(first["cache-control"].partition("max-age=")[2]) >= 3600
    newest = ask(raw_url, "/v2/aggs/ticker/AAPL/range/1/day/2024-04-01/2024-04-08")[2]
    assert int(newest["cache-control"].partition("max-age=")[2]) < 60


def test_where_nothing_is_scaled_old_answers_may_be_kept_whatever_is_asked(adjusted_url):
    for wish in ("", "?adjusted=true", "?adjusted=false"):
        path = f"/v2/aggs/ticker/AAPL/range/5/day/2024-01-02/2024-02-13{wish}"
        assert "max-age=14400" in ask(adjusted_url, path)[2]["cache-control"]


def test_a_lake_without_bars_says_so(tmp_path):
    with running(create_app(Settings(str(tmp_path / "none"), open_access=True, log_requests=False))) as url:
        status, says = refused(url, DAYS.format("AAPL"))
        assert (status, "no bars yet" in says) == (404, True)
        assert get(url, "/v3/reference/tickers")["results"] == []
        assert get(url, "/v2/snapshot/locale/us/markets/stocks/tickers")["tickers"] == []
        assert get(url, "/v1/marketstatus/now")["market"] in ("open", "closed", "extended-hours")
        for path in ("/v2/aggs/ticker/A/prev", "/v1/open-close/A/2024-03-08", "/v1/indicators/sma/A"):
            assert refused(url, path)[0] == 404
