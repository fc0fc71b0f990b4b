"""``/v1/calendar``, ``/v1/market-status`` and ``/v1/splits`` over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.io.reference import SPLITS, upsert
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars
from fibflow.tests.serving.conftest import NOW, now
from fibflow.transforms.timeframe import Anchor


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def ask(client, path, **params):
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


# The calendar ----------------------------------------------------------------------------------------------


def test_sessions_with_a_holiday_a_half_day_and_both_clocks(client):
    document = ask(client, "/v1/calendar", start="2023-11-20", end="2023-11-25")
    assert (document["calendar"], document["zone"], document["count"]) == ("XNYS", "America/New_York", 4)
    assert (document["start"], document["end"]) == ("2023-11-20", "2023-11-25")
    rows = document["sessions"]
    assert [row["date"] for row in rows] == ["2023-11-20", "2023-11-21", "2023-11-22", "2023-11-24"]
    assert [row["early_close"] for row in rows] == [False, False, False, True]
    assert (rows[3]["open"], rows[3]["close"]) == (ms("2023-11-24T14:30"), ms("2023-11-24T18:00"))
    summer = ask(client, "/v1/calendar", start="2024-03-11", end="2024-03-12")["sessions"]
    assert summer[0]["open"] == ms("2024-03-11T13:30")


def test_the_end_is_not_included_and_a_range_may_be_empty(client):
    assert ask(client, "/v1/calendar", start="2024-01-03", end="2024-01-03")["sessions"] == []
    days = [
        row["date"] for row in ask(client, "/v1/calendar", start="2024-01-03", end="2024-01-05")["sessions"]
    ]
    assert days == ["2024-01-03", "2024-01-04"]
    assert ask(client, "/v1/calendar", start="1800-01-01")["count"] == 0
    assert ask(client, "/v1/calendar", start="9999-12-31")["count"] == 0


def test_without_bounds_it_is_the_month_to_come(client):
    document = ask(client, "/v1/calendar")
    assert (document["start"], document["end"]) == ("2024-01-24", "2024-02-24")
    assert document["sessions"][0]["date"] == "2024-01-24"


def test_windows_begin_and_end_where_the_bars_do(client, lake):
    rows = ask(client, "/v1/calendar", start="2023-10-12", end="2024-03-01")["sessions"]
    for timeframe in ("3d", "5d", "13d"):
        bars = LakeReader(lake).bars("AAPL", timeframe, complete_only=True).to_pylist()
        begins = {bar["ts"].date().isoformat() for bar in bars[1:]}
        told = {row["date"] for row in rows if timeframe in row["begins"]}
        assert begins <= told
        last = bars[-1]["end"].date() - timedelta(days=1)
        ends = [date.fromisoformat(row["date"]) for row in rows if timeframe in row["ends"]]
        assert last in ends


def test_windows_that_each_symbol_counts_for_itself_are_not_told(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    days = daily_rows({"A": ("2023-10-12", "2024-01-23")})
    commit_bars(lake, make_bars(days, "3d", Anchor.LISTING), anchor=Anchor.LISTING)
    with TestClient(create_app(Settings(lake.uri, open_access=True, log_requests=False), now)) as client:
        rows = ask(client, "/v1/calendar", start="2024-01-02", end="2024-02-01")["sessions"]
        assert all(row["begins"] == row["ends"] == [] for row in rows)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"start": "2024-13-01"}, "bad_start"),
        ({"start": "2024-01-02T10:00"}, "bad_start"),
        ({"end": "x"}, "bad_end"),
        ({"start": "2024-02-01", "end": "2024-01-02"}, "bad_range"),
        ({"start": "1900-01-01", "end": "2024-01-02"}, "range_too_long"),
    ],
)
def test_ranges_that_are_none_are_refused(client, params, code):
    answer = client.get("/v1/calendar", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


# The status ------------------------------------------------------------------------------------------------


def test_the_status_of_the_market(client):
    document = ask(client, "/v1/market-status")
    holidays = document.pop("holidays")
    assert document == {
        "calendar": "XNYS",
        "zone": "America/New_York",
        "time": int(NOW.timestamp() * 1000),
        "market": "open",
        "early_hours": False,
        "after_hours": False,
        "session": "2024-01-24",
        "open": ms("2024-01-24T14:30"),
        "close": ms("2024-01-24T21:00"),
        "next_open": ms("2024-01-25T14:30"),
    }
    assert holidays[0] == {
        "date": "2024-02-19",
        "status": "closed",
        "name": "Washington's Birthday",
        "open": None,
        "close": None,
    }
    half = next(holiday for holiday in holidays if holiday["status"] == "early-close")
    assert (half["date"], half["close"]) == ("2024-07-03", ms("2024-07-03T17:00"))


def test_the_status_follows_the_clock(open_settings):
    at = datetime(2024, 1, 27, 12, tzinfo=UTC)
    with TestClient(create_app(open_settings, lambda: at)) as client:
        document = ask(client, "/v1/market-status")
        assert (document["market"], document["session"], document["open"]) == ("closed", None, None)


# Splits ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Asks an app over a lake of splits alone."""
    lake = Lake(str(tmp_path_factory.mktemp("splits") / "lake"))
    rows = [
        {"symbol": symbol, "execution_date": date(2020, month, 3), "split_from": 1, "split_to": month}
        for symbol in ("A", "B", "C")
        for month in (2, 3, 4)
    ]
    upsert(lake.table(SPLITS), pa.Table.from_pylist(rows, SPLITS.schema), "splits")
    with TestClient(create_app(Settings(lake.uri, open_access=True, log_requests=False), now)) as made:
        yield made


def test_splits_of_a_symbol_and_of_all(split):
    document = ask(split, "/v1/splits", symbol="B")
    assert document["count"] == 3
    assert document["splits"][0] == {
        "symbol": "B",
        "execution_date": "2020-02-03",
        "split_from": 1.0,
        "split_to": 2.0,
        "id": None,
    }
    assert [row["symbol"] for row in ask(split, "/v1/splits")["splits"]] == list("AAABBBCCC")
    assert ask(split, "/v1/splits", symbol="X") == {"count": 0, "splits": []}


@pytest.mark.parametrize("symbol", ["", "B"])
def test_pages_of_splits_make_the_whole(split, symbol):
    params, pages = {"limit": "2", "symbol": symbol}, []
    while True:
        document = ask(split, "/v1/splits", **params)
        pages += document["splits"]
        if "next_cursor" not in document:
            break
        params["cursor"] = document["next_cursor"]
    assert pages == ask(split, "/v1/splits", symbol=symbol)["splits"]


def test_a_cursor_of_splits_belongs_to_its_question(split):
    cursor = ask(split, "/v1/splits", limit="1")["next_cursor"]
    for params in (
        {"symbol": "B", "cursor": cursor},
        {"cursor": "x"},
        {"cursor": "W10"},
        {"cursor": "WzEsMixudWxsXQ"},
    ):
        answer = split.get("/v1/splits", params=params)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


def test_a_lake_without_splits_has_none(client):
    assert ask(client, "/v1/splits") == {"count": 0, "splits": []}


@pytest.mark.parametrize("name", ["symbol", "limit", "cursor"])
def test_any_text_is_data(split, name):
    answer = split.get("/v1/splits", params={name: "'; DROP TABLE x; --"})
    assert answer.status_code == (200 if name == "symbol" else 400)
