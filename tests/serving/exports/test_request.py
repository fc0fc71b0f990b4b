"""How the texts of an export's question are read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fibflow.serving.exports.request import MOST_SYMBOLS, export_query
from fibflow.serving.exports.writers import ExportFormat
from fibflow.serving.history.query import AsOf
from fibflow.serving.problems import Problem
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Anchor, IntradayAnchor

XNYS = load_calendar()


def read(symbols="A", **parameters):
    return export_query({"timeframe": "5d", **parameters}, symbols, lambda: XNYS)


def refused(symbols="A", **parameters):
    with pytest.raises(Problem) as told:
        read(symbols, **parameters)
    assert told.value.status == 400
    assert "\n" not in told.value.detail
    return told.value.code


def test_what_is_not_said_has_a_default():
    query = read()
    assert (query.bars.symbols, query.bars.timeframe.name) == (("A",), "5d")
    assert (query.bars.start, query.bars.end, query.bars.adjusted, query.bars.complete_only) == (
        None,
        None,
        False,
        False,
    )
    assert (query.columns, query.form, query.declined) == (tuple(BARS.names), ExportFormat.PARQUET, False)
    assert query.alone


def test_all_that_can_be_said():
    query = read(
        "B, A,B",
        start="2024-01-06",
        end="2024-02-01T00:00Z",
        format="CSV",
        adjusted="true",
        complete="true",
        columns="close, ts",
        anchor="listing",
        as_of="bars:3,live:-1",
    )
    assert query.bars.symbols == ("A", "B")
    # A date is the start of its session, or of the next one.
    assert query.bars.start == round(datetime(2024, 1, 8, 5, tzinfo=UTC).timestamp()) * 1_000_000
    assert query.bars.end == round(datetime(2024, 2, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert (query.bars.adjusted, query.bars.complete_only, query.bars.anchor) == (True, True, Anchor.LISTING)
    assert query.bars.as_of == AsOf(None, 3, -1)
    assert (query.columns, query.needed, query.form, query.alone) == (
        ("close", "ts"),
        ("close", "ts"),
        "csv",
        False,
    )
    assert read(timeframe="1h", anchor="open").bars.intraday_anchor is IntradayAnchor.OPEN


def test_all_stands_for_all_and_ALL_is_a_symbol():
    assert read("all").bars.symbols is None
    assert not read("all").alone
    assert read("ALL").bars.symbols == ("ALL",)
    assert read(["all"]).bars.symbols == ("all",)


def test_a_backtest_sees_only_windows_that_have_ended_unless_it_is_said():
    assert read(format="backtesting").bars.complete_only
    assert not read(format="backtesting", complete="false").bars.complete_only


def test_declining_adjustment_is_remembered():
    assert read(adjusted="false").declined
    assert not read(adjusted="true").declined


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"timeframe": None}, "bad_timeframe"),
        ({"timeframe": "7m"}, "bad_timeframe"),
        ({"start": "yesterday"}, "bad_start"),
        ({"start": "2024-02-01", "end": "2024-01-02"}, "bad_range"),
        ({"format": "xlsx"}, "bad_format"),
        ({"adjusted": "maybe"}, "bad_adjusted"),
        ({"complete": "2"}, "bad_complete"),
        ({"columns": "close,nope"}, "bad_columns"),
        ({"columns": "close,close"}, "bad_columns"),
        ({"columns": ","}, "bad_columns"),
        ({"columns": "close", "format": "backtesting"}, "bad_columns"),
        ({"anchor": "open"}, "bad_anchor"),
        ({"as_of": "then"}, "bad_as_of"),
    ],
)
def test_what_cannot_be_read_is_refused(parameters, code):
    assert refused(**parameters) == code


@pytest.mark.parametrize("symbols", [None, "", " ", ",", [], [" "], ["A,B"], "x" * 65])
def test_lists_of_symbols_that_are_none_are_refused(symbols):
    assert refused(symbols) == "bad_symbols"


def test_too_many_symbols_are_refused():
    most = [f"S{number}" for number in range(MOST_SYMBOLS)]
    assert len(read(most).bars.symbols) == MOST_SYMBOLS
    assert refused([*most, "one more"]) == "too_many_symbols"


def test_names_of_files_are_plain():
    assert read("BRK.B").filename(".csv") == "BRK.B-5d.csv"
    assert read('../x"\r\nSet-Cookie: a').filename(".csv") == ".._x_Set-Cookie_a-5d.csv"
    assert read("A,B").filename(".zip") == "2-symbols-5d.zip"
    assert read("all", timeframe="1h").filename(".parquet") == "all-1h.parquet"


def test_another_question_or_version_has_another_etag():
    tags = {
        read().etag((1, 2)),
        read().etag((1, 3)),
        read("B").etag((1, 2)),
        read(format="csv").etag((1, 2)),
        read(columns="close").etag((1, 2)),
        read(timeframe="3d").etag((1, 2)),
    }
    assert len(tags) == 6
    assert read().etag((1, 2)) == read().etag((1, 2))
