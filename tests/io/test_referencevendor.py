"""What the vendor's answers make of reference data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.reference import DIVIDENDS, RENAMES, SPLITS, SYMBOLS, read_reference, upsert
from fibflow.io.referenceupdates import update
from fibflow.io.referencevendor import OVERLAP, Question, today_of
from fibflow.io.storage import Storage
from fibflow.io.vendor import answers
from fibflow.io.vendor.errors import NoAccess, VendorError

TODAY = date(2024, 6, 28)
CUT = {"split_from": 1.0, "split_to": 2.0}


@dataclass
class Source:
    """A vendor by hand."""

    listed: list[dict[str, Any]]
    delisted: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    cuts: list[dict[str, Any]] = field(default_factory=list)
    paid: list[dict[str, Any]] | None = None
    asked: Counter[str] = field(default_factory=Counter)
    since: dict[str, date | None] = field(default_factory=dict)

    def tickers(self, active: bool = True) -> pa.Table:
        self.asked[f"tickers {active}"] += 1
        return pa.Table.from_pylist(self.listed if active else self.delisted, answers.TICKERS)

    def ticker(self, symbol: str) -> pa.Table:
        self.asked["ticker"] += 1
        rows = [row for row in self.delisted if row["symbol"] == symbol and row.get("detailed", True)]
        return pa.Table.from_pylist(rows, answers.TICKERS)

    def events(self, symbol: str) -> pa.Table:
        self.asked["events"] += 1
        if symbol not in self.names:
            raise NoAccess("no events")
        return pa.Table.from_pylist([{"symbol": s, "date": d} for s, d in self.names[symbol]], answers.EVENTS)

    def splits(self, since: date | None = None) -> pa.Table:
        self.since["splits"] = since
        rows = [row for row in self.cuts if since is None or row["execution_date"] >= since.isoformat()]
        return pa.Table.from_pylist(rows, answers.SPLITS)

    def dividends(self, since: date | None = None) -> pa.Table:
        self.since["dividends"] = since
        if self.paid is None:
            raise NoAccess("the plan has no dividends")
        rows = [row for row in self.paid if since is None or row["ex_dividend_date"] >= since.isoformat()]
        return pa.Table.from_pylist(rows, answers.DIVIDENDS)


def ticker(symbol: str, figi: str | None = None, **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "name": symbol.title(), "exchange": "XNAS", "composite_figi": figi, **more}


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def bring(lake: Lake, source: Source, today: date = TODAY, **options: Any) -> Question:
    question = Question(source, lake, today, **options)
    run = lake.new_id()
    for given in question.ask():
        update(lake, given, run)
    return question


def rows(lake: Lake, spec: Any, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in read_reference(lake, spec)[0].to_pylist()]


def test_a_first_evening_brings_all_and_a_second_one_changes_nothing(lake):
    source = Source(
        [ticker("A", "G1", currency="USD"), ticker("B", "G2")],
        cuts=[{"symbol": "A", "execution_date": "2020-08-31", "split_from": 1.0, "split_to": 4.0}],
        paid=[
            {"symbol": "B", "ex_dividend_date": "2024-05-10", "cash_amount": 0.25, "frequency": 4, "id": "E1"}
        ],
    )
    bring(lake, source)
    assert rows(lake, SYMBOLS, "symbol", "name", "exchange", "currency", "active") == [
        ("A", "A", "XNAS", "usd", True),
        ("B", "B", "XNAS", None, True),
    ]
    assert rows(lake, SPLITS, "symbol", "split_to") == [("A", 4.0)]
    assert rows(lake, DIVIDENDS, "symbol", "ex_dividend_date", "cash_amount", "id") == [
        ("B", date(2024, 5, 10), 0.25, "E1")
    ]
    assert source.since == {"splits": None, "dividends": None}
    versions = [lake.table(spec).version for spec in (SYMBOLS, SPLITS, DIVIDENDS, RENAMES)]
    bring(lake, source)
    assert [lake.table(spec).version for spec in (SYMBOLS, SPLITS, DIVIDENDS, RENAMES)] == versions
    # Only what may be new is asked for.
    assert source.since == {"splits": TODAY - OVERLAP, "dividends": TODAY - OVERLAP}
    assert source.asked["tickers True"] == 2
    assert source.asked["tickers False"] == 1
    assert source.asked["ticker"] == 0


def test_at_first_the_delisted_come_too_and_tell_what_the_others_were_called(lake):
    gone = [
        {"symbol": "A", "delisted": "2012-05-18", "composite_figi": "G1"},
        {"symbol": "B", "delisted": "2020-01-02", "composite_figi": "G1"},
        {"symbol": "Z", "delisted": "2019-01-02", "composite_figi": "G9"},
        # A ticker that was given again is who has it now.
        {"symbol": "X", "delisted": "2001-01-02", "composite_figi": "G8"},
    ]
    bring(lake, Source([ticker("C", "G1"), ticker("X", "G2")], gone))
    assert rows(lake, SYMBOLS, "symbol", "active", "delisted") == [
        ("A", False, date(2012, 5, 18)),
        ("B", False, date(2020, 1, 2)),
        ("C", True, None),
        ("X", True, None),
        ("Z", False, date(2019, 1, 2)),
    ]
    assert rows(lake, RENAMES, "old_symbol", "symbol", "date") == [
        ("A", "B", date(2012, 5, 18)),
        ("B", "C", date(2020, 1, 2)),
    ]


def test_a_rename_keeps_the_chain_and_ends_the_old_ticker(lake):
    bring(lake, Source([ticker("B", "G1", cik="7"), ticker("X", "G2")]))
    names = [("A", "2012-05-18"), ("B", "2020-01-02"), ("C", "2024-06-20")]
    source = Source([ticker("C", "G1", cik="7"), ticker("X", "G2")], names={"C": names})
    question = bring(lake, source)
    assert question.notes == ["dividends: the plan has no dividends"]
    assert rows(lake, RENAMES, "old_symbol", "symbol", "date", "composite_figi", "cik") == [
        ("A", "B", date(2020, 1, 2), "G1", "7"),
        ("B", "C", date(2024, 6, 20), "G1", "7"),
    ]
    assert rows(lake, SYMBOLS, "symbol", "active", "delisted") == [
        ("B", False, date(2024, 6, 20)),
        ("C", True, None),
        ("X", True, None),
    ]
    assert source.asked["tickers False"] == 0


def test_where_the_vendor_does_not_tell_when_today_stands_and_it_is_said(lake):
    bring(lake, Source([ticker("A", "G1")]))
    question = bring(lake, Source([ticker("B", "G1")]))
    assert rows(lake, RENAMES, "old_symbol", "symbol", "date") == [("A", "B", TODAY)]
    assert len(question.notes) == 2
    assert question.notes[0].startswith("when A became B is not told")
    assert question.notes[1] == "dividends: the plan has no dividends"


def test_what_is_gone_is_delisted_and_keeps_what_is_known_of_it(lake):
    first = [ticker(name, f"G{name}", cik=f"C{name}") for name in "ABC"]
    bring(lake, Source(first))
    gone: list[dict[str, Any]] = [
        {"symbol": "A", "delisted": "2024-06-14T00:00:00Z"},
        {"symbol": "B", "delisted": "2024-06-17", "detailed": False},
    ]
    bring(lake, Source([ticker("D", "GD")], gone))
    assert rows(lake, SYMBOLS, "symbol", "active", "delisted", "cik") == [
        ("A", False, date(2024, 6, 14), "CA"),
        ("B", False, date(2024, 6, 17), "CB"),
        ("C", False, TODAY, "CC"),
        ("D", True, None, None),
    ]
    bring(lake, Source([ticker("D", "GD"), ticker("A", "GA")]))
    assert rows(lake, SYMBOLS, "symbol", "active", "delisted")[0] == ("A", True, None)


def test_a_list_that_lacks_too_many_changes_nothing(lake):
    many = [ticker(f"S{number:03}") for number in range(200)]
    bring(lake, Source(many))
    version = lake.table(SYMBOLS).version
    with pytest.raises(VendorError, match=r"^the vendor's list lacks 199 of 200 tickers that trade"):
        bring(lake, Source(many[:1]))
    with pytest.raises(VendorError, match="list of tickers is empty"):
        bring(lake, Source([]))
    assert lake.table(SYMBOLS).version == version
    bring(lake, Source(many[:1]), full=True)
    assert sum(active for (active,) in rows(lake, SYMBOLS, "active")) == 1


def test_of_some_symbols_only_they_change_and_what_they_are_called_then(lake):
    bring(lake, Source([ticker("A", "G1"), ticker("B", "G2")]), symbols=frozenset("A"))
    assert rows(lake, SYMBOLS, "symbol") == [("A",)]
    cut = {"execution_date": "2024-06-25", "split_from": 1.0, "split_to": 2.0}
    source = Source(
        [ticker("N", "G1"), ticker("B", "G2")],
        names={"N": [("A", "2019-01-02"), ("N", "2024-06-20")]},
        cuts=[{"symbol": "N", **cut}, {"symbol": "B", **cut}],
    )
    bring(lake, source, symbols=frozenset("A"))
    bring(lake, source, symbols=frozenset("A"))
    assert rows(lake, SYMBOLS, "symbol", "active") == [("A", False), ("N", True)]
    assert rows(lake, SPLITS, "symbol") == [("N",)]


def test_a_split_that_the_vendor_calls_off_is_taken_back(lake):
    old = {"symbol": "A", "execution_date": "2020-08-31", "split_from": 1.0, "split_to": 4.0}
    soon = {"symbol": "A", "execution_date": "2024-07-10", "split_from": 1.0, "split_to": 2.0}
    other = {"symbol": "B", "execution_date": "2024-07-11", "split_from": 1.0, "split_to": 3.0}
    listed = [ticker("A"), ticker("B")]
    bring(lake, Source(listed, cuts=[old, soon]))
    bring(lake, Source(listed, cuts=[old, other]))
    assert rows(lake, SPLITS, "symbol", "execution_date") == [
        ("A", date(2020, 8, 31)),
        ("B", date(2024, 7, 11)),
    ]


def test_a_symbol_that_is_new_to_the_list_is_asked_for_from_the_beginning(lake):
    cuts: list[dict[str, Any]] = [
        {"symbol": "NVDA", "execution_date": "2024-06-10", "split_from": 1.0, "split_to": 10.0},
        {"symbol": "TSLA", "execution_date": "2022-08-25", "split_from": 1.0, "split_to": 3.0},
        {"symbol": "KO", "execution_date": "2012-08-13", "split_from": 1.0, "split_to": 2.0},
    ]
    source = Source([ticker(cut["symbol"]) for cut in cuts], cuts=cuts)
    lately = TODAY - OVERLAP
    for names, since in (({"NVDA"}, None), ({"NVDA"}, lately), ({"NVDA", "TSLA"}, None), ({"TSLA"}, lately)):
        bring(lake, source, symbols=frozenset(names))
        assert source.since["splits"] == since
    assert rows(lake, SPLITS, "symbol") == [("NVDA",), ("TSLA",)]
    # All of them after all, and then whoever is one of all.
    for symbols, since in ((None, None), (None, lately), (frozenset({"KO"}), lately)):
        bring(lake, source, symbols=symbols)
        assert source.since["splits"] == since
    assert rows(lake, SPLITS, "symbol") == [("KO",), ("NVDA",), ("TSLA",)]


def test_who_was_left_out_for_a_while_is_asked_for_from_then_on(lake):
    source = Source([ticker("A"), ticker("B")], cuts=[{"symbol": "A", "execution_date": "2020-01-02", **CUT}])
    both, later = frozenset("AB"), date(2024, 12, 2)
    bring(lake, source, symbols=both)
    source.cuts.append({"symbol": "B", "execution_date": "2024-09-03", **CUT})
    source.cuts.append({"symbol": "A", "execution_date": "2024-11-29", **CUT})
    bring(lake, source, today=later, symbols=frozenset("A"))
    bring(lake, source, today=later, symbols=both)
    assert source.since["splits"] == TODAY - OVERLAP
    assert ("B", date(2024, 9, 3)) in rows(lake, SPLITS, "symbol", "execution_date")


def test_what_came_from_elsewhere_is_not_taken_back_by_the_first_answer(lake):
    bought = {"symbol": "A", "execution_date": date(1999, 1, 4), **CUT}
    upsert(lake.table(SPLITS), pa.Table.from_pylist([bought], SPLITS.schema), "before")
    source = Source([ticker("A")], cuts=[{"symbol": "A", "execution_date": "2020-01-02", **CUT}])
    bring(lake, source)
    assert rows(lake, SPLITS, "execution_date") == [(date(1999, 1, 4),), (date(2020, 1, 2),)]
    bring(lake, source, full=True)
    assert rows(lake, SPLITS, "execution_date") == [(date(2020, 1, 2),)]


def test_an_answer_without_any_row_is_asked_for_from_the_beginning_again(lake):
    source = Source([ticker("A")])
    for _ in range(2):
        bring(lake, source)
        assert source.since["splits"] is None


def test_what_cannot_be_read_of_what_was_asked_is_asked_again(lake):
    source = Source([ticker("A")], cuts=[{"symbol": "A", "execution_date": "2020-01-02", **CUT}])
    bring(lake, source)
    for content in (b"no JSON", b"[]", b'{"reference.splits": {"all": 3, "symbols": {}}}'):
        Storage(lake.uri).write("_daily/asked.json", content)
        bring(lake, source)
        assert source.since["splits"] is None
    bring(lake, source)
    assert source.since["splits"] == TODAY - OVERLAP


def test_today_is_the_date_at_the_exchange(lake):
    assert today_of(lake, datetime(2024, 3, 18, 3, 59, tzinfo=UTC)) == date(2024, 3, 17)
    assert today_of(lake, datetime(2024, 3, 18, 4, tzinfo=UTC)) == date(2024, 3, 18)
    properties = {tables.CALENDAR: "XTKS"}
    lake.table(tables.DAILY).commit(base_version=-1, scope=Scope(), run="test", properties=properties)
    assert today_of(lake, datetime(2024, 3, 17, 15, tzinfo=UTC)) == date(2024, 3, 18)
