"""``/v1/symbols`` over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from fibflow.io.reference import SPLITS, SYMBOLS, upsert
from fibflow.serving.app import create_app
from fibflow.serving.settings import Settings
from fibflow.tests.serving.conftest import now, small_lake

TOLD = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Asks an app over the small lake, with reference data."""
    folder: Path = tmp_path_factory.mktemp("symbols")
    lake = small_lake(folder / "lake")
    rows: list[dict[str, Any]] = [
        {
            "symbol": "AAPL",
            "name": "Apple Inc.",
            "type": "CS",
            "exchange": "XNAS",
            "listed": date(1980, 12, 12),
        },
        {"symbol": "APLE", "name": "Apple Hospitality", "type": "CS", "exchange": "XNYS", "active": False},
        {"symbol": "QQQ", "name": "Invesco QQQ", "type": "ETF", "exchange": "XNAS"},
    ]
    nothing: dict[str, Any] = dict.fromkeys(SYMBOLS.schema.names)
    full = [nothing | {"active": True, "updated": TOLD} | row for row in rows]
    upsert(lake.table(SYMBOLS), pa.Table.from_pylist(full, SYMBOLS.schema), "symbols")
    split = {
        "symbol": "AAPL",
        "execution_date": date(2020, 8, 31),
        "split_from": 1,
        "split_to": 4,
        "id": "E1",
    }
    upsert(lake.table(SPLITS), pa.Table.from_pylist([split], SPLITS.schema), "splits")
    with TestClient(create_app(Settings(lake.uri, open_access=True, log_requests=False), now)) as made:
        yield made


def names(client, **params):
    answer = client.get("/v1/symbols", params=params)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["count"] == len(document["symbols"])
    return [symbol["symbol"] for symbol in document["symbols"]]


def test_all_symbols_are_those_with_bars_and_those_of_reference_data(asking):
    assert names(asking) == ["AAPL", "APLE", "BRK.B", "MSFT", "QQQ", "Z"]
    document = asking.get("/v1/symbols", params={"limit": 1}).json()
    assert document["symbols"] == [
        {
            "symbol": "AAPL",
            "name": "Apple Inc.",
            "type": "CS",
            "exchange": "XNAS",
            "currency": None,
            "active": True,
            "listed": "1980-12-12",
            "delisted": None,
            "has_bars": True,
        }
    ]


def test_symbols_are_searched_and_filtered(asking):
    assert names(asking, search="ap") == ["APLE", "AAPL"]
    assert names(asking, search="apple") == ["AAPL", "APLE"]
    assert names(asking, search="apple", active="true") == ["AAPL"]
    assert names(asking, active="false") == ["APLE"]
    assert names(asking, type="etf") == ["QQQ"]
    assert names(asking, exchange="XNAS") == ["AAPL", "QQQ"]
    assert names(asking, search="nothing") == []


@pytest.mark.parametrize("search", ["", "a"])
def test_pages_make_the_whole(asking, search):
    params, pages = {"limit": "1", "search": search}, []
    while True:
        document = asking.get("/v1/symbols", params=params).json()
        pages += [symbol["symbol"] for symbol in document["symbols"]]
        if "next_cursor" not in document:
            break
        params["cursor"] = document["next_cursor"]
    assert pages == names(asking, search=search)


def test_a_cursor_belongs_to_its_question(asking):
    cursor = asking.get("/v1/symbols", params={"limit": 1}).json()["next_cursor"]
    for params in (
        {"search": "a", "cursor": cursor},
        {"active": "true", "cursor": cursor},
        {"cursor": "x"},
        {"cursor": "W10"},
    ):
        answer = asking.get("/v1/symbols", params=params)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"limit": "0"}, "bad_limit"),
        ({"limit": "10001"}, "bad_limit"),
        ({"active": "perhaps"}, "bad_active"),
        ({"search": "x" * 101}, "bad_search"),
        ({"type": "x" * 101}, "bad_type"),
    ],
)
def test_what_cannot_be_read_is_refused(asking, params, code):
    answer = asking.get("/v1/symbols", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize("name", ["search", "type", "exchange", "active", "limit", "cursor"])
@pytest.mark.parametrize("text", ["'; DROP TABLE x; --", "%", "\\", "(", "\U0001f600"])
def test_any_text_in_any_parameter_is_data(asking, name, text):
    answer = asking.get("/v1/symbols", params={name: text})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json()["symbols"] == []


def test_the_details_of_a_symbol(asking):
    document = asking.get("/v1/symbols/AAPL").json()
    assert document["timeframes"] == ["1m", "5m", "15m", "1h", "1d", "2d", "3d", "5d", "8d", "13d", "21d"]
    assert (document["first_session"], document["last_session"]) == ("2024-01-22", "2024-01-23")
    assert document["updated"] == int(TOLD.timestamp() * 1000)
    assert document["splits"] == [
        {"symbol": "AAPL", "execution_date": "2020-08-31", "split_from": 1.0, "split_to": 4.0, "id": "E1"}
    ]
    document = asking.get("/v1/symbols/BRK.B").json()
    assert (document["name"], document["active"], document["splits"]) == (None, True, [])
    assert (document["first_session"], document["last_session"]) == ("2023-10-25", "2024-01-23")
    document = asking.get("/v1/symbols/QQQ").json()
    assert (document["timeframes"], document["first_session"], document["has_bars"]) == ([], None, False)


@pytest.mark.parametrize("symbol", ["NONE", "aapl", "%27%3B--", "AAPL%20", "\U0001f600"])
def test_an_unknown_symbol_is_not_found(asking, symbol):
    answer = asking.get(f"/v1/symbols/{symbol}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_symbol")


def test_an_etag_saves_an_answer(asking):
    answer = asking.get("/v1/symbols")
    assert asking.get("/v1/symbols", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "path", ["/v1/symbols", "/v1/symbols/AAPL", "/v1/calendar", "/v1/market-status", "/v1/splits"]
)
def test_no_key_no_data(keyed_client, keyed, path):
    assert keyed_client.get(path).status_code == 401
    assert keyed_client.get(path, headers=keyed.headers("live")).status_code == 403
    assert keyed_client.get(path, headers=keyed.headers("history")).status_code == 200
