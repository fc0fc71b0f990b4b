"""``/v1/exports`` over HTTP."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fibflow.io import maintenance, tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.readbars import LakeReader
from fibflow.serving.app import create_app
from fibflow.serving.exports.export import Exporter
from fibflow.serving.settings import Settings
from fibflow.tests.serving.conftest import now
from fibflow.tests.serving.exports import biglakes
from fibflow.tests.serving.servers import running

PATH = "/v1/exports"
_WAIT_S = 30


def get(client, symbols="AAPL", timeframe="5d", **parameters):
    return client.get(PATH, params={"symbols": symbols, "timeframe": timeframe, **parameters})


# What comes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", ["AAPL", "AAPL,Z", "all"])
def test_parquet_is_row_for_row_what_the_reader_reads(client, lake, symbols):
    answer = get(client, symbols, "3d")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    names = None if symbols == "all" else symbols.split(",")
    expected = LakeReader(lake).bars(names, "3d")
    assert pq.read_table(io.BytesIO(answer.content)).equals(expected.combine_chunks())


def test_arrow_and_csv_are_the_same_rows(client, lake):
    expected = LakeReader(lake).bars(["AAPL", "MSFT"], "1h").combine_chunks()
    answer = get(client, "MSFT,AAPL", "1h", format="arrow")
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert pa.ipc.open_stream(answer.content).read_all().combine_chunks().equals(expected)
    answer = get(client, "MSFT,AAPL", "1h", format="csv", columns="symbol,ts,close,volume")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = pacsv.read_csv(io.BytesIO(answer.content))
    assert rows["close"].to_pylist() == expected["close"].to_pylist()
    read: list[Any] = rows["ts"].to_pylist()
    stamps = [stamp.replace(tzinfo=UTC) for stamp in read]
    assert stamps == expected["ts"].to_pylist()


def test_a_range_and_complete_windows(client, lake):
    answer = get(client, "all", "3d", start="2023-12-01", end="2024-01-23", complete="true")
    day = date(2023, 12, 1), date(2024, 1, 23)
    expected = LakeReader(lake).bars(None, "3d", *day, complete_only=True)
    assert pq.read_table(io.BytesIO(answer.content)).equals(expected.combine_chunks())


def test_the_file_has_a_name_and_the_versions_it_was_read_from(client, lake):
    answer = get(client, "BRK.B", "5d", format="csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="BRK.B-5d.csv"'
    versions = answer.headers["x-lake-versions"]
    assert versions == f"bars:{lake.table(tables.BARS).version},live:-1,daily:-1,minutes:-1"
    again = get(client, "BRK.B", "5d", format="csv", as_of=versions)
    assert again.content == answer.content
    assert (
        get(client, "AAPL,Z", format="backtesting")
        .headers["content-disposition"]
        .endswith('"2-symbols-5d.zip"')
    )


def test_an_etag_saves_the_export(client):
    answer = get(client)
    etag = answer.headers["etag"]
    params = {"symbols": "AAPL", "timeframe": "5d"}
    again = client.get(PATH, params=params, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get(PATH, params={**params, "format": "arrow"}, headers={"If-None-Match": etag})
    assert other.status_code == 200


def test_a_head_has_the_headers_and_leaves_nothing(client, open_app):
    answer = client.head(PATH, params={"symbols": "AAPL", "timeframe": "5d"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == get(client).headers["etag"]
    wait_until_free(open_app)


def test_post_takes_long_lists(client, lake):
    names = [*(f"NO{number}" for number in range(3)), "AAPL"]
    answer = client.post(PATH, json={"symbols": names, "timeframe": "5d"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_symbol")
    body = {
        "symbols": ["Z", "AAPL"],
        "timeframe": "3d",
        "format": "arrow",
        "complete": True,
        "columns": ["ts", "close"],
    }
    answer = client.post(PATH, json=body)
    expected = LakeReader(lake).bars(["AAPL", "Z"], "3d", complete_only=True, columns=["ts", "close"])
    assert pa.ipc.open_stream(answer.content).read_all().combine_chunks().equals(expected.combine_chunks())
    everything = client.post(PATH, json={"symbols": "all", "timeframe": "3d", "start": 1_701_400_000_000})
    assert pq.read_table(io.BytesIO(everything.content))["symbol"].unique().to_pylist() == [
        "AAPL",
        "BRK.B",
        "MSFT",
        "Z",
    ]


# backtesting.py --------------------------------------------------------------------------------------------


def frame_of(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), index_col=0, parse_dates=True)


@pytest.mark.filterwarnings("ignore")  # of backtesting.py and what it imports
@pytest.mark.parametrize("timeframe", ["3d", "15m"])
def test_a_backtest_runs_on_it(client, lake, timeframe):
    from backtesting import Backtest, Strategy

    frame = frame_of(get(client, "AAPL", timeframe, format="backtesting").content)
    seen: list[tuple[pd.Timestamp, float]] = []

    class Watching(Strategy):
        def init(self) -> None:
            pass

        def next(self) -> None:
            seen.append((self.data.index[-1], float(self.data.Close[-1])))
            if len(seen) % 4 == 0:
                self.position.close() if self.position else self.buy()

    result = Backtest(frame, Watching, cash=1_000_000, finalize_trades=True).run()
    bars = LakeReader(lake).bars("AAPL", timeframe, complete_only=True)
    closes = bars["close"].to_pylist()
    # The first bar is there before the first step.
    assert [close for _, close in seen] == closes[1:]
    local = pd.DatetimeIndex(bars["ts"].to_pylist()).tz_convert("America/New_York").tz_localize(None)
    assert [at for at, _ in seen] == local[1:].tolist()
    assert (result["Start"], result["End"]) == (local[0], local[-1])
    assert result["# Trades"] > 0


def test_several_symbols_are_a_zip_of_files(client, lake):
    answer = get(client, "all", "5d", format="backtesting")
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["AAPL.csv", "BRK.B.csv", "MSFT.csv", "Z.csv"]
    for name in archive.namelist():
        assert archive.read(name) == get(client, name[:-4], "5d", format="backtesting").content


# Who may, and how much -------------------------------------------------------------------------------------


def test_it_takes_a_key_with_the_scope(keyed_client, keyed):
    params = {"symbols": "AAPL", "timeframe": "5d"}
    assert keyed_client.get(PATH, params=params).status_code == 401
    assert keyed_client.get(PATH, params=params, headers=keyed.headers("history")).status_code == 403
    assert keyed_client.get(PATH, params=params, headers=keyed.headers("export")).status_code == 200
    body = {"symbols": ["AAPL"], "timeframe": "5d"}
    assert keyed_client.post(PATH, json=body).status_code == 401
    assert keyed_client.post(PATH, json=body, headers=keyed.headers("export")).status_code == 200


HOSTILE = ["'; DROP TABLE x; --", "1 OR 1=1", "$first", "../../etc/passwd", "*", "%00", "\U0001f600", "0x41"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "name",
    ["symbols", "timeframe", "start", "end", "format", "adjusted", "complete", "columns", "anchor", "as_of"],
)
def test_any_text_in_any_parameter_is_refused_with_a_reason(client, name, text):
    params = {"symbols": "AAPL", "timeframe": "5d", name: text}
    for answer in (client.get(PATH, params=params), client.post(PATH, json=params)):
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


def test_lists_that_are_too_long_cost_nothing(client, monkeypatch):
    monkeypatch.setattr(Exporter, "plan", lambda *_: pytest.fail("the lake was asked"))
    many = [f"S{number}" for number in range(20_001)]
    answer = client.post(PATH, json={"symbols": many, "timeframe": "5d"})
    assert answer.status_code == 422
    answer = client.post(
        PATH, json={"symbols": [f"S{number}" for number in range(1_000_000)], "timeframe": "5d"}
    )
    assert answer.status_code == 413
    answer = get(client, ",".join(many[:5_000]))
    assert answer.status_code == 414


def test_bodies_that_are_no_question_are_refused(client):
    bodies: list[dict[str, Any]] = [
        {},
        {"symbols": []},
        {"symbols": ["A"], "timeframe": "5d", "more": 1},
        {"symbols": [1], "timeframe": "5d"},
    ]
    for body in bodies:
        answer = client.post(PATH, json=body)
        assert answer.status_code == 422, body
    assert client.post(PATH, content=b"{").status_code == 422


# Streams ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wide:
    """A server over a lake whose export is far larger than what a connection holds."""

    lake: Lake
    app: FastAPI
    url: str

    @property
    def exporter(self) -> Exporter:
        found: Exporter = self.app.state.exporter
        return found

    def stream(self, **parameters: Any):
        """A running export, compressed by nobody."""
        params = {"symbols": "all", "timeframe": "1m", "format": "arrow", **parameters}
        headers = {"Accept-Encoding": "identity"}
        return httpx2.stream("GET", f"{self.url}{PATH}", params=params, headers=headers, timeout=60)

    def wait_until_free(self) -> None:
        """Wait until no export runs."""
        wait_until_free(self.app)


def wait_until_free(app: FastAPI) -> None:
    waited = threading.Event()
    for _ in range(_WAIT_S * 100):
        if not app.state.exporter.slots.taken:
            return
        waited.wait(0.01)
    raise AssertionError("an export goes on")


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Wide]:
    """400,000 bars: 40 MB as Arrow; blocks of 10,000."""
    lake = biglakes.make(str(tmp_path / "lake"), 40, 10_000, files=8)
    app = create_app(Settings(lake.uri, open_access=True, log_requests=False, refresh_s=0.0), now)
    with running(app) as url:
        shared = app.state.services
        app.state.exporter = Exporter(
            shared.history, shared.reference, shared.clock, 2, block_rows=10_000, wait_s=0.0
        )
        yield Wide(lake, app, url)


def test_a_client_that_goes_away_ends_its_export(wide):
    with wide.stream() as answer:
        pieces = answer.iter_raw()
        assert next(pieces)
        assert wide.exporter.slots.taken == 1
    wide.wait_until_free()


def test_more_exports_than_there_is_room_for_are_told_to_come_again(wide):
    with wide.stream() as first, wide.stream() as second:
        # A generator that nobody holds would end its answer.
        held = [answer.iter_raw() for answer in (first, second)]
        assert all(next(pieces) for pieces in held)
        with wide.stream() as third:
            third.read()
            assert (third.status_code, third.headers["retry-after"]) == (429, "5")
            assert third.json()["code"] == "too_many_exports"
        # What costs nothing is answered.
        known = httpx2.get(f"{wide.url}/v1/symbols", params={"limit": 1})
        assert known.status_code == 200
    wide.wait_until_free()
    with wide.stream(symbols="S00001") as answer:
        assert pa.ipc.open_stream(answer.read()).read_all().num_rows == 10_000


def test_commits_compaction_and_vacuum_leave_a_running_export_whole(wide):
    expected = LakeReader(wide.lake).bars(None, "1m").combine_chunks()
    with wide.stream() as answer:
        pieces = answer.iter_raw()
        begin = next(pieces)
        table = wide.lake.table(tables.BARS)
        files = table.snapshot().select()
        # Half of the bars go, the rest is merged, and vacuum deletes what nobody can need any more.
        rows, _ = table.snapshot().read(None)
        few = rows.slice(0, 1_000).drop_columns(["timeframe", "period"])
        added = table.writer().write(few, {"timeframe": "1m", "period": "all"}, "again")
        table.commit([added], files[:4], base_version=0, scope=Scope(), run="again")
        maintenance.compact(table, 10_000_000, "compact")
        maintenance.vacuum(table, datetime.now(UTC), 1.0, dry_run=False)
        whole = b"".join([begin, *pieces])
    assert pa.ipc.open_stream(whole).read_all().combine_chunks().equals(expected)
    with wide.stream() as answer:
        assert answer.headers["x-lake-versions"].startswith(f"bars:{table.version},")
        assert pa.ipc.open_stream(answer.read()).read_all().num_rows == 1_000 + 200_000


@pytest.mark.parametrize("form", ["arrow", "csv", "parquet", "backtesting"])
def test_an_error_in_the_middle_breaks_the_connection(wide, form):
    broken = pytest.raises(httpx2.RemoteProtocolError, match="peer closed connection")
    with broken, wide.stream(format=form) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        assert next(pieces)
        for path in Path(wide.lake.uri).rglob("*.parquet"):
            path.unlink()
        for _ in pieces:
            pass
    wide.wait_until_free()


def test_files_that_went_before_it_began_are_read_from_the_newest_version(wide):
    with wide.stream(symbols="S00000") as answer:
        answer.read()
    table = wide.lake.table(tables.BARS)
    maintenance.compact(table, 10_000_000, "compact")
    shared = wide.app.state.services
    # The server has not looked since.
    shared.history.state._refresh_s = 1e9
    maintenance.vacuum(table, datetime.now(UTC) + timedelta(hours=1), 0.0, dry_run=False)
    with wide.stream(symbols="S00000") as answer:
        answer.read()
        assert answer.status_code == 200
        assert answer.headers["x-lake-versions"].startswith("bars:1,")


@pytest.mark.parametrize("timeframe", ["1m", "2m"])
def test_versions_whose_files_vacuum_has_taken_are_gone(wide, timeframe):
    table = wide.lake.table(tables.BARS)
    maintenance.compact(table, 10_000_000, "compact")
    maintenance.vacuum(table, datetime.now(UTC) + timedelta(hours=1), 0.0, dry_run=False)
    with wide.stream(symbols="S00000", timeframe=timeframe, as_of="bars:0") as answer:
        answer.read()
    assert (answer.status_code, answer.json()["code"]) == (410, "version_gone")
    with wide.stream(symbols="S00000", timeframe=timeframe, as_of="bars:1") as answer:
        assert pa.ipc.open_stream(answer.read()).read_all().num_rows > 0


def test_a_client_that_takes_nothing_is_given_up(wide, monkeypatch):
    monkeypatch.setattr("fibflow.serving.exports.stream.STALLED_S", 0.5)
    with wide.stream() as answer:
        pieces = answer.iter_raw()
        assert next(pieces)
        wide.wait_until_free()
        with pytest.raises(httpx2.HTTPError):
            for _ in pieces:
                pass


def test_nothing_is_left_when_the_application_stops(open_app):
    for _ in range(2):
        with TestClient(open_app) as client:
            assert get(client).status_code == 200
            pool = open_app.state.exporter.slots.pool
        assert not hasattr(open_app.state, "exporter")
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(print)
