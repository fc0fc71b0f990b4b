"""The alerts of a bucket in memory."""

from __future__ import annotations

import pyarrow as pa

from fibflow.tests.transforms.alerts.tables import Bucket, change, price, table
from fibflow.tests.transforms.tables import calendar, ny
from fibflow.transforms.alerts.book import Book
from fibflow.transforms.alerts.live import LiveAlerts, Memo, Plan
from fibflow.transforms.alerts.schema import CHANGES, PRICES, Operator, Reference
from fibflow.transforms.timeframe import IntradayAnchor

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T10:00")


def book() -> Book:
    return Book(XNYS, IntradayAnchor.MIDNIGHT)


def versions(of: Book) -> list[tuple[int, int]]:
    return sorted(zip(of.rows["alert"].tolist(), of.rows["version"].tolist(), strict=True))


def test_a_symbol_has_one_place_for_all_time_and_unused_words_have_none():
    made = book()
    words = pa.array(["B", "unused", "A"])
    rows = table([price(OPEN, 1.0), price(OPEN, 1.0)])
    symbol = pa.DictionaryArray.from_arrays(pa.array([2, 0], pa.int32()), words)
    assert made.places(rows.set_column(0, "symbol", symbol)).tolist() == [1, 0]
    assert made.places(table([price(OPEN, 1.0), price(OPEN, 1.0, symbol="C")])).tolist() == [1, 2]
    assert made.names == ["B", "A", "C"]
    # All that is used is known.
    assert made.places(rows.set_column(0, "symbol", symbol)).tolist() == [1, 0]


def test_rows_of_a_path_lie_together():
    made = book()
    for n, (name, extended) in enumerate([("A", True), ("B", False), ("A", False), ("B", True), ("A", True)]):
        made.take_changes(table([change(n, Operator.ABOVE, 5, symbol=name, extended=extended)]))
    assert made.first.tolist() == [0, 1, 3, 4, 5]
    assert made.rows["alert"].tolist() == [2, 0, 4, 1, 3]


def test_of_many_changes_at_once_those_that_are_newer_count():
    made = book()
    told = [(1, 1), (1, 3), (2, 2), (1, 2), (2, 2), (2, 5), (1, 4)]
    taken = made.take_changes(table([change(alert, Operator.ABOVE, 5, version=v) for alert, v in told]))
    assert versions(made) == [(1, 1), (1, 3), (1, 4), (2, 2), (2, 5)]
    assert len(taken) == 5
    assert len(made.take_changes(table([change(2, Operator.ABOVE, 5, version=4)]))) == 0


def test_all_of_an_alert_end_where_the_first_later_version_begins():
    made = book()
    sinces = {1: 10, 2: 90, 3: 50, 4: 70}
    for version, since in sinces.items():
        made.take_changes(table([change(1, Operator.ABOVE, 5, version=version, since=since, until=1000)]))
    ends = dict(zip(made.rows["version"].tolist(), made.rows["end"].tolist(), strict=True))
    assert ends == {1: 50, 2: 50, 3: 70, 4: 1000}


def test_the_first_session_of_a_calendar_has_no_close_before_it():
    first = int(XNYS.opens[0])
    made = Bucket(Plan(XNYS))
    made.take([change(1, Operator.PERCENT_UP, 5, since=first - 1, reference=Reference.PREVIOUS_CLOSE)])
    assert made.take([price(first, 100)]) == []


def test_tables_without_rows_are_nothing():
    made = Bucket(Plan(XNYS))
    for empty in (CHANGES.empty_table(), PRICES.empty_table()):
        assert LiveAlerts(made.plan, made.cells, Memo()).take(empty) is None
    assert made.cells.reads == []
