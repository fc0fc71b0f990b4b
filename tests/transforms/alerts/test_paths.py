"""Prices of trades and of aggregates, and tables on their way to buckets."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fibflow.tests.transforms.alerts.tables import change, close, price, table
from fibflow.tests.transforms.streams import MINUTE, ODD_LOT, minute, stream_table, trade
from fibflow.tests.transforms.tables import calendar, dicts, ny
from fibflow.transforms.alerts.paths import of_aggregates, of_trades, split_alerts
from fibflow.transforms.alerts.schema import CHANGES, PRICES, Operator
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.conditions import rule_of
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T09:30")


def test_trades_that_move_the_last_price_in_the_order_in_which_they_came():
    form_t, corrected = int(rule_of([12])), int(rule_of([38]))
    rows = [
        trade("A", OPEN + 5, 2, 10.0),
        trade("B", OPEN, 1, 20.0, rules=ODD_LOT),
        trade("A", OPEN - 1, 3, 11.0, rules=form_t),
        trade("A", OPEN, 4, 12.0, rules=form_t),
        trade("B", OPEN + 1, 5, 13.0, rules=corrected),
        trade("B", OPEN - 1, 6, 14.0, rules=corrected),
        trade("B", ny("2024-07-06T12:00"), 7, 15.0),
    ]
    found = of_trades(stream_table(rows), XNYS)
    assert found.schema.equals(PRICES, check_metadata=True)
    assert dicts(found) == [
        price(OPEN + 5, 10.0, 2),
        price(OPEN - 1, 11.0, 3, regular=False),
        price(OPEN + 1, 13.0, 5, "B"),
        price(ny("2024-07-06T12:00"), 15.0, 7, "B", regular=False),
    ]


def test_hours_are_those_of_the_minute_on_a_half_day_too():
    stamps = ["2024-07-03T12:59", "2024-07-03T13:00", "2024-07-03T15:00"]
    rows = [trade("A", ny(text) + 59_999_999, n, 10.0) for n, text in enumerate(stamps)]
    assert of_trades(stream_table(rows), XNYS)["regular"].to_pylist() == [True, False, False]


def test_closes_of_aggregates_at_their_last_microsecond():
    rows = [minute("A", OPEN, 10.0, 5, 0, close=11.0), minute("A", OPEN - MINUTE, 12.0, 6, 1)]
    found = of_aggregates(stream_table(rows), MINUTE, XNYS)
    assert found.schema.equals(PRICES, check_metadata=True)
    assert dicts(found) == [price(OPEN + MINUTE - 1, 11.0), price(OPEN - 1, 12.0, regular=False)]


@pytest.mark.parametrize(
    ("empty", "of"),
    [
        (TRADE_INPUT, lambda rows: of_trades(rows, XNYS)),
        (MINUTE_INPUT, lambda rows: of_aggregates(rows, 1, XNYS)),
    ],
)
def test_no_rows_are_no_prices(empty: pa.Schema, of: Any):
    assert of(empty.empty_table()).equals(PRICES.empty_table())


def test_rows_go_to_their_symbols_bucket_in_the_order_they_had():
    names = ["A", "AA", "BRK.B", "é", "Z", "unused"]
    first = [price(OPEN + n, n, n, names[n * 7 % 5]) for n in range(13)]
    second = [price(OPEN + n, n, n, names[n * 3 % 5]) for n in range(13, 40)]
    # In two chunks whose dictionaries differ.
    parts = dict(split_alerts(pa.concat_tables([table(first), table(second)]), 3))
    assert sum(map(len, parts.values())) == 40
    for bucket, part in parts.items():
        assert part.schema.equals(PRICES, check_metadata=True)
        own = [row for row in first + second if bucket_of(row["symbol"], 3) == bucket]
        order = {name: n for n, name in enumerate(dict.fromkeys(row["symbol"] for row in dicts(part)))}
        assert dicts(part) == sorted(own, key=lambda row: order[row["symbol"]])
        column: Any = part["symbol"].chunk(0)
        assert sorted(column.dictionary.to_pylist()) == sorted(set(column.to_pylist()))


def test_changes_and_facts_stay_what_they_are():
    rows = [change(1, Operator.ABOVE, 5.0), change(2, Operator.ABOVE, 5.0, symbol="B")]
    parts = list(split_alerts(table(rows), 1))
    assert [bucket for bucket, _ in parts] == [0]
    assert parts[0][1].schema.equals(CHANGES, check_metadata=True)
    assert [row["alert"] for row in dicts(parts[0][1])] == [1, 2]
    ((_, facts),) = split_alerts(table([close(1, 2.0)]), 4)
    assert facts.schema.metadata == {b"fibflow.alerts": b"facts"}


def test_nothing_to_split():
    assert list(split_alerts(PRICES.empty_table(), 3)) == []


def test_more_symbols_than_small_integers():
    rows = [price(OPEN, 1.0, 0, f"S{n}") for n in range(70_000)]
    parts = list(split_alerts(table(rows), 2))
    assert sum(len(part) for _, part in parts) == len(rows)
    assert {name for _, part in parts for name in part["symbol"].to_pylist()} == {
        row["symbol"] for row in rows
    }
