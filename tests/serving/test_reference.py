"""Symbols, splits and the calendar of a lake, as a server knows them."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.reference import SPLITS, SYMBOLS, upsert
from fibflow.io.storage import LakeError
from fibflow.serving import tablesymbols
from fibflow.serving.reference import Reference, Symbol
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars, minute_rows
from fibflow.tests.serving.historylakes import Stream, commit_rows

DAYS = daily_rows(
    {"A": ("2024-01-02", "2024-01-31"), "B": ("2024-01-10", "2024-01-19"), "É": ("2024-01-02", "2024-01-31")}
)
MORE = daily_rows({"N": ("2024-01-02", "2024-01-31"), "O": ("2024-01-02", "2024-01-31")})


class Ages:
    """A clock of seconds."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def ages():
    return Ages()


@pytest.fixture
def reference(lake, ages):
    return Reference(lake, 5.0, ages)


@pytest.fixture
def opened(monkeypatch):
    """The files that were read for their symbols."""
    found: list[str] = []
    read = tablesymbols._distinct

    def counted(storage, table, path):
        found.append(f"{table}/{path}")
        return read(storage, table, path)

    monkeypatch.setattr(tablesymbols, read.__name__, counted)
    return found


def put_symbols(lake: Lake, *rows: dict[str, Any]) -> None:
    schema = pa.schema([SYMBOLS.schema.field(name) for name in rows[0]])
    upsert(lake.table(SYMBOLS), pa.Table.from_pylist(list(rows), schema), lake.new_id())


def put_splits(lake: Lake, *rows: tuple[str, str, float, float]) -> None:
    listed = [
        {"symbol": s, "execution_date": date.fromisoformat(d), "split_from": a, "split_to": b}
        for s, d, a, b in rows
    ]
    upsert(lake.table(SPLITS), pa.Table.from_pylist(listed, SPLITS.schema), lake.new_id())


def names(reference):
    return [symbol.symbol for symbol in reference.symbols()]


# Where symbols come from -----------------------------------------------------------------------------------


def test_an_empty_lake_has_no_symbols_and_a_calendar(reference):
    assert reference.symbols() == []
    assert reference.symbol("A") is None
    assert reference.search("A") == ([], None)
    assert len(reference.splits()) == len(reference.splits("A")) == 0
    assert reference.calendar.name == "XNYS"


def test_symbols_of_all_tables_with_bars_are_known_without_reference_tables(lake, reference):
    commit_bars(lake, make_bars(DAYS, "3d"))
    stream = minute_rows("S", ["2024-01-31T14:30"], 10)
    Stream(lake).commit(make_bars(stream, "5m")[0])
    commit_rows(lake, tables.DAILY, daily_rows({"D": ("2024-01-02", "2024-01-05")}), "daily")
    assert names(reference) == ["A", "B", "D", "S", "É"]
    assert reference.symbol("S") == Symbol("S", has_bars=True)
    assert reference.symbol("X") is None


def test_reference_data_and_bars_are_one_list(lake, reference):
    commit_bars(lake, make_bars(DAYS, "3d"))
    put_symbols(
        lake,
        {
            "symbol": "A",
            "name": "Alpha",
            "type": "CS",
            "exchange": "XNAS",
            "listed": date(2001, 2, 3),
            "active": True,
        },
        {"symbol": "OLD", "name": "Older", "type": "CS", "exchange": "XNYS", "listed": None, "active": False},
    )
    assert names(reference) == ["A", "B", "OLD", "É"]
    a = reference.symbol("A")
    assert (a.name, a.type, a.exchange, a.listed, a.active, a.has_bars) == (
        *("Alpha", "CS", "XNAS", date(2001, 2, 3)),
        True,
        True,
    )
    old = reference.symbol("OLD")
    assert (old.active, old.has_bars) == (False, False)
    assert reference.symbol("B") == Symbol("B", has_bars=True)


def test_splits_are_those_of_a_symbol_or_all(lake, reference):
    put_splits(lake, ("B", "2020-01-02", 1, 2), ("A", "2021-01-04", 1, 4), ("A", "2019-01-02", 3, 1))
    assert reference.splits()["symbol"].to_pylist() == ["A", "A", "B"]
    assert reference.splits("A")["split_to"].to_pylist() == [1.0, 4.0]
    assert reference.splits("B").column_names == ["symbol", "execution_date", "split_from", "split_to", "id"]
    assert len(reference.splits("C")) == 0


def test_the_calendar_is_that_of_the_tables(lake, reference):
    table = lake.table(tables.BARS)
    bars = make_bars(DAYS, "3d")[0]
    file = table.writer().write(
        bars.append_column("period", pa.array(["all"] * len(bars))), {"timeframe": "3d", "period": "all"}, "a"
    )
    table.commit([file], base_version=-1, scope=Scope(), run="a", properties={tables.CALENDAR: "24/7"})
    assert reference.calendar.name == "24/7"


# What a symbol has -----------------------------------------------------------------------------------------


def test_what_a_symbol_has(lake, reference):
    commit_bars(lake, make_bars(DAYS, "3d,5d"))
    minutes = minute_rows("B", ["2024-01-16T14:30", "2024-01-22T14:30"], 30)
    commit_bars(lake, make_bars(minutes, "5m"), "more")
    commit_rows(lake, tables.DAILY, DAYS, "daily")
    held = reference.held("B")
    # The minutes go on after the last official day.
    assert held.timeframes == ("5m", "3d", "5d")
    assert (held.first, held.last) == (date(2024, 1, 10), date(2024, 1, 22))
    held = reference.held("A")
    assert (held.timeframes, held.first, held.last) == (("3d", "5d"), date(2024, 1, 2), date(2024, 1, 31))
    none = reference.held("X")
    assert (none.timeframes, none.first, none.last) == ((), None, None)


def test_where_a_lake_has_windows_of_sessions_only_they_are_told(lake, reference):
    commit_bars(lake, make_bars(DAYS, "3d,5d"))
    windows = make_bars(DAYS, "3d")[0]
    mine = [row["ts"] for row in windows.to_pylist() if row["symbol"] == "B"]
    held = reference.held("B")
    assert (held.first, held.last) == (min(mine).date(), max(mine).date())


def test_spans_are_found_in_many_files(lake, reference):
    for number, day in enumerate(("2024-01-22", "2024-01-16", "2024-01-31")):
        commit_bars(lake, make_bars(minute_rows("M", [f"{day}T14:30"], 7), "5m"), f"run{number}")
    assert (reference.held("M").first, reference.held("M").last) == (date(2024, 1, 16), date(2024, 1, 31))


# Staying up to date ----------------------------------------------------------------------------------------


def test_the_tables_are_looked_at_only_when_it_is_time(lake, reference, ages, opened):
    commit_bars(lake, make_bars(DAYS, "3d"))
    assert names(reference) == ["A", "B", "É"]
    commit_bars(lake, make_bars(MORE, "3d"), "n")
    put_symbols(lake, {"symbol": "R", "name": "Ref"})
    put_splits(lake, ("A", "2021-01-04", 1, 4))
    ages.at = 4.9
    assert names(reference) == ["A", "B", "É"]
    ages.at = 30.0
    assert names(reference) == ["A", "B", "N", "O", "R", "É"]
    assert len(reference.splits("A")) == 1
    # Each file was read once, whatever the number of questions.
    ages.at = 60.0
    names(reference)
    assert len(opened) == len(set(opened)) == 2


def test_symbols_whose_files_go_are_gone(lake, reference, ages):
    commit_bars(lake, make_bars(DAYS, "3d"))
    assert names(reference) == ["A", "B", "É"]
    table = lake.table(tables.BARS)
    snapshot = table.snapshot()
    table.commit([], snapshot.select(), base_version=snapshot.version, scope=Scope(), run="away")
    ages.at = 30.0
    assert names(reference) == []


def test_what_was_known_stays_where_the_lake_cannot_be_read(lake, reference, ages, tmp_path, monkeypatch):
    commit_bars(lake, make_bars(DAYS, "3d"))
    names(reference)
    commit_bars(lake, make_bars(MORE, "3d"), "n")

    def broken(*_):
        raise LakeError("cannot read")

    with monkeypatch.context() as patched:
        patched.setattr(tablesymbols, "_distinct", broken)
        ages.at = 30.0
        assert names(reference) == ["A", "B", "É"]
        with pytest.raises(LakeError):
            Reference(lake, 5.0, ages).symbols()
    ages.at = 60.0
    assert names(reference) == ["A", "B", "N", "O", "É"]
    shutil.rmtree(lake.uri)
    ages.at = 90.0
    assert names(reference) == []


def test_nobody_waits_for_a_look_at_the_tables(lake, reference, ages, monkeypatch):
    commit_bars(lake, make_bars(DAYS, "3d"))
    names(reference)
    commit_bars(lake, make_bars(MORE, "3d"), "n")
    looking, go_on = threading.Event(), threading.Event()
    read = tablesymbols._distinct

    def slow(*args):
        looking.set()
        assert go_on.wait(30)
        return read(*args)

    monkeypatch.setattr(tablesymbols, read.__name__, slow)
    ages.at = 6.0
    assert names(reference) == ["A", "B", "É"]
    assert looking.wait(30)
    # Nor who comes meanwhile, however long it takes.
    ages.at = 600.0
    assert names(reference) == ["A", "B", "É"]
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "reference":
            thread.join(30)
    assert names(reference) == ["A", "B", "N", "O", "É"]


def test_without_an_age_each_question_looks(lake, ages):
    reference = Reference(lake, 0.0, ages)
    commit_bars(lake, make_bars(DAYS, "3d"))
    assert names(reference) == ["A", "B", "É"]
    commit_bars(lake, make_bars(MORE, "3d"), "n")
    assert names(reference) == ["A", "B", "N", "O", "É"]


def test_a_file_of_one_symbol_is_not_opened(lake, reference, opened):
    commit_bars(lake, make_bars(daily_rows({"ONE": ("2024-01-02", "2024-01-31")}), "3d"))
    assert names(reference) == ["ONE"]
    assert opened == []


# Search ----------------------------------------------------------------------------------------------------

LISTED = [
    ("A", "Agilent Technologies", "CS", "XNYS", True),
    ("AA", "Alcoa (the) Corp", "CS", "XNYS", True),
    ("AAPL", "Apple Inc.", "CS", "XNAS", True),
    ("APLE", "Apple Hospitality REIT", "CS", "XNYS", True),
    ("APPL", "Old Appliances", "CS", "XNYS", False),
    ("MLT", "Malt-Apple Brewery", "CS", "XNAS", True),
    ("SPY", "SPDR S&P 500 ETF Trust", "ETF", "ARCX", True),
]


@pytest.fixture
def listed(lake, reference):
    put_symbols(
        lake,
        *(
            {
                "symbol": s,
                "name": n,
                "type": t,
                "exchange": e,
                "active": a,
                "updated": datetime(2024, 1, 1, tzinfo=UTC),
            }
            for s, n, t, e, a in LISTED
        ),
    )
    return reference


def found(reference, text, **options):
    return [symbol.symbol for symbol in reference.search(text, **options)[0]]


def test_the_beginning_of_a_symbol_goes_before_words_of_names(listed):
    assert found(listed, "ap") == ["APLE", "APPL", "AAPL", "MLT"]
    assert found(listed, "aa") == ["AA", "AAPL"]
    assert found(listed, "apple") == ["AAPL", "APLE", "MLT"]
    assert found(listed, "  Reit APPLE ") == ["APLE"]
    assert found(listed, "s&p") == ["SPY"]
    assert found(listed, "the") == ["AA"]
    assert found(listed, "pple") == []
    assert found(listed, "&&") == []
    assert found(listed, "") == [row[0] for row in LISTED]


def test_conditions_are_exact(listed):
    assert found(listed, "", conditions={"type": "ETF"}) == ["SPY"]
    assert found(listed, "ap", conditions={"active": False}) == ["APPL"]
    assert found(listed, "", conditions={"exchange": "XNAS", "active": True}) == ["AAPL", "MLT"]
    assert found(listed, "", conditions={"exchange": "x"}) == []


@pytest.mark.parametrize("text", ["", "a", "ap"])
def test_pages_make_the_whole(listed, text):
    whole = found(listed, text)
    pages, after = [], None
    while True:
        page, after = listed.search(text, limit=2, after=after)
        pages += [symbol.symbol for symbol in page]
        if after is None:
            break
    assert pages == whole


@pytest.mark.parametrize("text", ["'; DROP TABLE x; --", "%", "_", ".*", "\\", "(", "[zz", "\x00", "é" * 80])
def test_any_text_is_a_text(listed, text):
    assert found(listed, text) == []
