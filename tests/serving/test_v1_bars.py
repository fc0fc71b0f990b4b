"""``/v1/bars`` and ``/v1/timeframes`` as a client sees them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.readbars import LakeReader
from fibflow.serving.app import create_app
from fibflow.serving.caching import OTHER_S, SETTLED_S, Page
from fibflow.serving.history.answer import Answer
from fibflow.serving.history.bars import History
from fibflow.serving.history.query import BarQuery
from fibflow.serving.settings import Settings
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars
from fibflow.tests.serving.conftest import NOW, now, small_lake
from fibflow.tests.serving.historylakes import commit_rows, splits_table
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe

MEMBERS = [name for name in BARS.names if name != "timeframe"]


def get(client, **parameters):
    answer = client.get("/v1/bars", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer


def rows_of(table: pa.Table) -> list[dict]:
    """Bars as JSON has to tell them."""
    found = []
    for row in table.to_pylist():
        row["ts"], row["end"] = (round(row[name].timestamp() * 1000) for name in ("ts", "end"))
        found.append({name: row[name] for name in MEMBERS})
    return found


def test_bars_are_those_of_the_lake(client, lake):
    answer = get(client, symbols="AAPL,BRK.B", timeframe="5d")
    found = answer.json()
    bars = LakeReader(lake).bars(["AAPL", "BRK.B"], "5d")
    assert found["bars"] == rows_of(bars)
    assert (found["timeframe"], found["count"], found["lake"]) == ("5d", len(bars), {"bars": 0, "live": -1})
    assert "next_cursor" not in found
    assert answer.headers["content-type"] == "application/json"
    last = get(client, symbols="AAPL", timeframe="5d", order="desc", limit=2).json()["bars"]
    assert last == rows_of(LakeReader(lake).last("AAPL", "5d", 2))[::-1]


def test_pages_by_cursor(client):
    whole = get(client, symbols="AAPL,MSFT,Z", timeframe="1d").json()["bars"]
    for order in ("asc", "desc"):
        found, cursor = [], None
        while True:
            more: dict[str, str] = {} if cursor is None else {"cursor": cursor}
            page = get(client, symbols="AAPL,MSFT,Z", timeframe="1d", limit=17, order=order, **more).json()
            found += page["bars"]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        assert sorted(found, key=lambda bar: (bar["symbol"], bar["ts"])) == whole
        assert len(found) == len(whole)


def test_pages_of_other_formats_by_link(client):
    expected = get(client, symbols="AAPL", timeframe="1d").json()["bars"]
    for format, read in (
        ("csv", lambda raw: pacsv.read_csv(io.BytesIO(raw))),
        ("parquet", lambda raw: pq.read_table(io.BytesIO(raw))),
        ("arrow", lambda raw: pa.ipc.open_stream(raw).read_all()),
    ):
        url: str | None = f"/v1/bars?symbols=AAPL&timeframe=1d&limit=30&format={format}"
        parts = []
        while url is not None:
            answer = client.get(url)
            parts.append(read(answer.content))
            link = answer.headers.get("link")
            assert (link is None) == ("x-next-cursor" not in answer.headers)
            (url,) = (None,) if link is None else re.findall(r'^<(/v1/bars\?.*)>; rel="next"$', link)
        assert [len(part) for part in parts] == [30, 30, 10]
        table = pa.concat_tables(parts, promote_options="permissive")
        assert table.column_names == BARS.names
        assert table["close"].to_pylist() == [bar["close"] for bar in expected]
        duckdb.register("told", table)
        stamps = [row[0] for row in duckdb.execute("SELECT epoch_ms(ts) FROM told ORDER BY ts").fetchall()]
        assert stamps == [bar["ts"] for bar in expected]


def test_the_link_to_the_next_page_does_not_name_the_key(keyed_client, keyed):
    url = f"/v1/bars?symbols=AAPL&timeframe=1d&limit=5&format=csv&apiKey={keyed.keys['all']}"
    link = keyed_client.get(url).headers["link"]
    assert "apiKey" not in link
    (url,) = re.findall("<(.*)>", link)
    assert keyed_client.get(url, headers=keyed.headers()).status_code == 200


def test_filled_bars_are_marked(client):
    plain = get(client, symbols="Z", timeframe="1d", start="2023-12-18", end="2024-01-05").json()["bars"]
    assert "filled" not in plain[0]
    found = get(
        client, symbols="Z", timeframe="1d", start="2023-12-18", end="2024-01-05", fill="prev"
    ).json()["bars"]
    assert [bar["filled"] for bar in found] == [False] * len(plain) + [True] * (len(found) - len(plain))
    assert (found[-1]["close"], found[-1]["volume"], found[-1]["vwap"]) == (plain[-1]["close"], 0.0, None)
    empty = get(client, symbols="Z", timeframe="1d", start="2024-01-02", fill="null", limit=1).json()["bars"][
        0
    ]
    assert (empty["open"], empty["volume"], empty["trade_count"], empty["filled"]) == (None, None, None, True)


def test_timeframes(client):
    found = client.get("/v1/timeframes").json()
    assert found == {
        "timeframes": ["1m", "5m", "15m", "1h", "1d", "2d", "3d", "5d", "8d", "13d", "21d"],
        "anchor": "exchange",
        "intraday_anchor": "midnight",
        "calendar": "XNYS",
        "price_basis": "raw",
        "lake": {"bars": 0, "live": -1},
    }


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({}, 400, "bad_symbols"),
        ({"symbols": "AAPL"}, 400, "bad_timeframe"),
        ({"symbols": "AAPL", "timeframe": "7m"}, 400, "bad_timeframe"),
        ({"symbols": "AAPL", "timeframe": "5d", "limit": "0"}, 400, "bad_limit"),
        ({"symbols": "AAPL", "timeframe": "5d", "start": "soon"}, 400, "bad_start"),
        ({"symbols": "AAPL", "timeframe": "5d", "format": "xml"}, 400, "bad_format"),
        ({"symbols": "AAPL", "timeframe": "5d", "cursor": "eyJ"}, 400, "bad_cursor"),
        ({"symbols": "'; DROP TABLE bars; --", "timeframe": "5d"}, 404, "unknown_symbol"),
        ({"symbols": "AAPL,NOPE", "timeframe": "5d"}, 404, "unknown_symbol"),
        ({"symbols": "AAPL", "timeframe": "5d", "as_of": "bars:77"}, 404, "unknown_version"),
    ],
)
def test_what_cannot_be_answered_is_a_problem(client, parameters, status, code):
    answer = client.get("/v1/bars", params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_prices_that_are_adjusted_cannot_be_had_raw(tmp_path):
    lake = Lake(str(tmp_path))
    rows = daily_rows({"A": ("2024-01-02", "2024-01-19")})
    commit_rows(lake, tables.DAILY, rows, "run", "split-adjusted")
    commit_bars(lake, make_bars(rows, "5d"), "bars", basis="split-adjusted")
    with TestClient(create_app(Settings(lake.uri, open_access=True, log_requests=False), now)) as client:
        answers = [
            client.get(f"/v1/bars?symbols=A&timeframe={timeframe}{more}")
            for timeframe in ("2d", "5d")
            for more in ("", "&adjusted=true", "&adjusted=false")
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 400] * 2
    assert answers[0].json()["bars"] == answers[1].json()["bars"]
    assert answers[2].json()["code"] == "bad_adjusted"


# Caches ----------------------------------------------------------------------------------------------------


def test_who_has_the_answer_is_told_so(client):
    url = "/v1/bars?symbols=AAPL&timeframe=1d&start=2023-10-20&end=2023-12-01"
    first = client.get(url)
    assert first.headers["cache-control"] == f"public, max-age={SETTLED_S}"
    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    newest = client.get("/v1/bars?symbols=AAPL&timeframe=1d&order=desc")
    assert newest.headers["cache-control"] == f"public, max-age={OTHER_S}"


def test_a_restatement_changes_the_tag(tmp_path):
    lake = small_lake(tmp_path / "lake")
    settings = Settings(lake.uri, open_access=True, log_requests=False, refresh_s=0)
    url = "/v1/bars?symbols=X&timeframe=1d&end=2024-01-10"
    rows = make_bars(daily_rows({"X": ("2024-01-02", "2024-01-19")}), "1d")
    commit_bars(lake, rows, "one")
    with TestClient(create_app(settings, now)) as client:
        before = client.get(url)
        old = lake.table(tables.BARS).snapshot()
        files = [file for file in old.select("X") if "one" in file.path]
        other = make_bars(daily_rows({"X": ("2024-01-02", "2024-01-19")}, seed=9), "1d")[0]
        replace_bars(lake, files, other)
        after = client.get(url, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.headers["etag"] != before.headers["etag"]


def replace_bars(lake, files, bars):
    table = lake.table(tables.BARS)
    part = bars.sort_by([("symbol", "ascending"), ("ts", "ascending")])
    made = table.writer().write(part, {"timeframe": "1d", "period": "all"}, "restated")
    table.commit([made], files, base_version=table.version, scope=Scope(), run="restated")


def test_kept_answers_are_those_that_are_made(open_settings, lake):
    """The second answer comes from memory."""
    settings = replace(open_settings, refresh_s=1_000.0)
    app = create_app(settings, now)
    with TestClient(app) as client:
        urls = [f"/v1/bars?symbols=AAPL&timeframe=5d&limit=5&order={order}" for order in ("asc", "desc")]
        first = [client.get(url) for url in urls]
        history = app.state.services.history
        assert len(history.pages) == 2
        second = [client.get(url) for url in urls]
        assert [answer.content for answer in second] == [answer.content for answer in first]
        assert [answer.headers["etag"] for answer in second] == [answer.headers["etag"] for answer in first]
        assert len(history.pages) == 2


def test_kept_answers_that_are_scaled_follow_the_splits(tmp_path):
    lake = small_lake(tmp_path / "lake")
    splits = [splits_table(("AAPL", "2024-01-02", 1.0, 2.0)), splits_table()]
    history = History(lake, 1_000.0, lambda symbol: splits[0], clock=lambda: NOW)
    query = BarQuery(("AAPL",), Timeframe.parse("1d"), adjusted=True, limit=1)

    def written(answer: Answer) -> Page:
        return Page(str(answer.table["open"][0]).encode(), "text/plain", False)

    def ask() -> float:
        page = history.at_hand(query, "k", written) or history.page(query, "k", written)
        return float(page.body)

    first = ask()
    assert history.at_hand(query, "k", written) is not None
    assert ask() == first
    splits.pop(0)
    history._splits_read = float("-inf")
    assert ask() == 2 * first


def test_bounds_as_dates_are_sessions(client):
    found = get(client, symbols="AAPL", timeframe="1d", start="2023-11-23", end="2023-11-27").json()["bars"]
    # Thanksgiving has no session, the day after has half of one, and the end is not included.
    assert [datetime.fromtimestamp(bar["ts"] / 1000).astimezone().date().isoformat() for bar in found] == [
        "2023-11-24"
    ]


def test_the_document_describes_both(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/bars"]["get"]
    assert {
        "symbols",
        "timeframe",
        "start",
        "end",
        "limit",
        "order",
        "fill",
        "adjusted",
        "as_of",
        "anchor",
        "complete",
    } <= {parameter["name"] for parameter in operation["parameters"]}
    assert all(parameter["description"] for parameter in operation["parameters"])
    assert {"200", "304", "400", "401", "403", "404", "410", "429", "503"} <= set(operation["responses"])
    assert set(operation["responses"]["200"]["content"]) == {
        "application/json",
        "text/csv; charset=utf-8",
        "application/vnd.apache.parquet",
        "application/vnd.apache.arrow.stream",
    }
    assert json.dumps(document["paths"]["/v1/timeframes"])
