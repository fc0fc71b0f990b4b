"""What users ask, whether answers are right, and what is counted."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fibflow.benchmarks.serving import questions
from fibflow.benchmarks.serving.answers import wrong
from fibflow.benchmarks.serving.errors import BenchmarkError
from fibflow.benchmarks.serving.questions import Book, Mix, Question, plan
from fibflow.benchmarks.serving.records import Record
from fibflow.benchmarks.serving.wire import Reader

NAMES = ["A", "B", "C", "D"]
DAY = 86_400_000


def catalogue(path: Path, without: str | None = None) -> Path:
    rows = []
    for frame in questions.TIMEFRAMES:
        for number, name in enumerate(NAMES):
            if (frame, name) == ("3d", without):
                continue
            count = 40_000 * (number + 1)
            rows.append((name, frame, count, min(count, 500), DAY * (number + 1), 7.0 * count, 2.5))
    columns = ("symbol", "timeframe", "rows", "last_rows", "last_ts", "total", "last_total")
    pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path)
    return path


@pytest.fixture
def book(tmp_path) -> Book:
    return Book(catalogue(tmp_path / "catalogue.parquet"), 1)


# What is asked ---------------------------------------------------------------------------------------------


def test_a_question_knows_what_its_answer_holds(book):
    asked = book.bars(1, "5d")
    assert asked.target == "/v1/bars?symbols=B&timeframe=5d&limit=500&order=desc"
    assert (asked.rows, asked.total, asked.last_ts) == (500, 2.5, 2 * DAY)
    assert book.aggregates(1, "13d").target.startswith("/v2/aggs/ticker/B/range/13/day/")
    assert book.price(2, True).total == book.price(2, False).total == book.prices[2]


def test_a_timeframe_that_the_catalogue_lacks_has_no_number_of_bars(book):
    assert book.bars(0, "10d").rows is None


def test_an_export_has_a_hundred_thousand_rows_at_least_and_no_symbol_too_many(book):
    rng = np.random.default_rng(0)
    for _ in range(30):
        asked = book.export(rng)
        sizes = sorted(40_000 * (NAMES.index(name) + 1) for name in asked.symbols)
        assert asked.rows == sum(sizes) >= 100_000
        assert asked.rows - sizes[-1] < 100_000
        assert asked.form in questions.FORMS
        assert list(asked.symbols) == sorted(asked.symbols)


def test_a_lake_that_lacks_symbols_in_a_timeframe_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="lacks symbols"):
        Book(catalogue(tmp_path / "catalogue.parquet", without="B"), 1)


def test_the_long_symbols_of_point_reads_come_again_where_there_are_too_few(book):
    rng = np.random.default_rng(0)
    assert sorted(book.longest(rng, "3d", 4)) == [0, 1, 2, 3]
    assert Counter(book.longest(rng, "3d", 8)) == dict.fromkeys(range(4), 2)


def test_each_user_asks_at_an_interval_at_a_phase_of_its_own(book):
    made = plan(book, 50, 4.0, 0.5, Mix(), 3)
    assert len(made.at) == 50 * 8
    assert (np.diff(made.at) >= 0).all()
    for user in range(50):
        own = made.at[made.user == user]
        assert np.allclose(np.diff(own), 0.5)
        assert 0 <= own[0] < 0.5
    assert len(np.unique(made.at[:50])) == 50


def test_the_same_seed_gives_the_same_plan_and_another_another(book):
    first, again, other = (plan(book, 20, 5.0, 1.0, Mix(), seed) for seed in (1, 1, 2))
    assert (first.at == again.at).all()
    assert first.questions == again.questions
    assert first.questions != other.questions


def test_the_kinds_come_as_often_as_the_mix_says(book):
    made = plan(book, 1_000, 20.0, 1.0, Mix(0.8, 0.19, 0.01), 1)
    shares = Counter(each.kind for each in made.questions)
    expected = dict(zip(questions.KINDS, (0.4, 0.4, 0.095, 0.095, 0.01), strict=True))
    assert all(abs(shares[kind] / 20_000 - share) < 0.01 for kind, share in expected.items())
    frames = Counter(each.timeframe for each in made.questions if each.kind in questions.HISTORY)
    assert set(frames) == set(questions.TIMEFRAMES)


# Whether it is right ---------------------------------------------------------------------------------------

ASKED = Question("bars", "/v1/bars", ("B",), "5d", rows=3, total=6.0, last_ts=3 * DAY)


def own(symbol="B", closes=(1.0, 2.0, 3.0), last=3 * DAY, frame="5d", step=-DAY) -> bytes:
    rows = [
        {"symbol": symbol, "ts": last + place * step, "close": close} for place, close in enumerate(closes)
    ]
    return orjson.dumps({"timeframe": frame, "count": len(rows), "bars": rows})


def compatible(ticker="B", closes=(1.0, 2.0, 3.0)) -> bytes:
    rows = [{"t": (3 - place) * DAY, "c": close} for place, close in enumerate(closes)]
    return orjson.dumps({"ticker": ticker, "resultsCount": len(rows), "results": rows})


def test_right_bars_are_right_in_either_coding():
    assert wrong(ASKED, "", own()) is None
    assert wrong(ASKED, "gzip", gzip.compress(own())) is None
    assert wrong(replace(ASKED, kind="aggregates"), "", compatible()) is None


def test_a_day_counts_by_its_date():
    daily = replace(ASKED, timeframe="1d")
    assert wrong(daily, "", own(frame="1d", last=3 * DAY + 5 * 3_600_000)) is None
    assert wrong(daily, "", own(frame="1d", last=4 * DAY)) is not None


@pytest.mark.parametrize(
    "answer",
    [
        own(symbol="C"),
        own(closes=(1.0, 2.0)),
        own(closes=(1.0, 2.0, 3.5)),
        own(last=4 * DAY),
        own(frame="3d"),
        own(step=DAY),
        b"{}",
        b"no JSON",
    ],
)
def test_wrong_bars_are_wrong(answer):
    assert "bars" in str(wrong(ASKED, "", answer))


@pytest.mark.parametrize("answer", [compatible(ticker="C"), compatible(closes=(6.0,)), own()])
def test_wrong_aggregates_are_wrong(answer):
    assert wrong(replace(ASKED, kind="aggregates"), "", answer) is not None


def test_of_bars_without_a_number_the_symbol_and_the_order_count():
    unknown = replace(ASKED, rows=None)
    assert wrong(unknown, "", own(closes=(9.0,))) is None
    assert wrong(unknown, "", own(symbol="C")) is not None
    assert wrong(unknown, "", own(step=DAY)) is not None


def test_prices_are_right_where_they_are_the_live_stores():
    asked = Question("price", "/v1/prices/B", ("B",), total=12.34)
    assert wrong(asked, "", b'{"symbol":"B","price":12.34}') is None
    assert wrong(asked, "", b'{"symbol":"B","price":12.35}') is not None
    last = replace(asked, kind="last trade")
    assert wrong(last, "", b'{"results":{"T":"B","p":12.34}}') is None
    assert wrong(last, "", b'{"results":{"T":"A","p":12.34}}') is not None


def exported(form: str, symbols: list[str], closes: list[float]) -> bytes:
    table, sink = pa.table({"symbol": symbols, "close": closes}), io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    elif form == "csv":
        pyarrow.csv.write_csv(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("form", questions.FORMS)
def test_exports_are_right_where_they_hold_all_rows_of_all_symbols(form):
    asked = Question("export", "/v1/exports", ("A", "B"), "3d", rows=3, total=6.0, form=form)
    right = exported(form, ["A", "B", "B"], [1.0, 2.0, 3.0])
    assert wrong(asked, "", right) is None
    assert wrong(asked, "", exported(form, ["A", "B"], [1.0, 5.0])) is not None
    assert wrong(asked, "", exported(form, ["A", "A", "A"], [1.0, 2.0, 3.0])) is not None
    assert wrong(asked, "", exported(form, ["A", "B", "B"], [1.0, 2.0, 4.0])) is not None
    assert wrong(asked, "", right[: len(right) // 2]) is not None


# What is counted -------------------------------------------------------------------------------------------


def answer(status: int = 200, body: bytes = b"", keep: bool = False) -> Reader:
    reader = Reader()
    reader.begin(keep)
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert reader.feed(head + body)
    return reader


def test_latencies_count_from_the_planned_time_and_the_warm_up_does_not():
    record = Record([ASKED] * 4, np.array([0.0, 10.0, 11.0, 12.0]))
    record.sent[:] = [0.0, 15.0, 11.5, 12.0]
    for ticket, at in enumerate([9.0, 16.0, 12.0, 12.5]):
        record.take(ticket, answer(body=b"xy"), at)
    found = record.plain(since=10.0)
    assert found["kinds"]["all"] == found["kinds"]["bars"]
    assert found["kinds"]["all"]["asked"] == found["kinds"]["all"]["answered"] == 3
    # The one that was sent five seconds late is six seconds late.
    assert found["kinds"]["all"]["seconds"] == {"p50": 1.0, "p90": 6.0, "p99": 6.0, "p100": 6.0}
    assert found["late"]["p100"] == 5.0
    assert found["kinds"]["all"]["bytes"] == 2.0


def test_a_question_without_an_answer_is_an_error_and_among_the_slowest():
    record = Record([ASKED] * 3, np.zeros(3))
    record.take(0, answer(), 1.0)
    record.take(1, answer(429, b'{"detail":"come again","request_id":"1"}'), 1.0)
    record.fail(2, "no answer in time")
    found = record.plain(since=0.0)
    assert found["failed"] == 2
    assert found["errors"] == {"bars: status 429: come again": 1, "bars: no answer in time": 1}
    assert found["kinds"]["all"]["answered"] == 1
    assert found["kinds"]["all"]["seconds"]["p50"] != found["kinds"]["all"]["seconds"]["p50"]


def test_kept_answers_are_checked():
    record = Record([ASKED] * 2, np.zeros(2))
    record.take(0, answer(body=own(), keep=True), 1.0)
    record.take(1, answer(body=own(symbol="C"), keep=True), 1.0)
    found = record.plain(since=0.0)
    assert (found["checked"], found["wrong"]) == (2, 1)
    assert "not what the lake holds" in found["wrong_shown"][0]
