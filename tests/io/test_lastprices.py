from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.lastprices import MINUTE, SECOND, TRADE, newest, of_aggregates, of_trades
from fibflow.io.liverecords import PRICES
from fibflow.tests.io.livestores import T0, price, prices, rows
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.conditions import Rule, rule_of
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT

RULE = int(Rule.OPEN_CLOSE)
UNTIMED = settings(deadline=None)


def filled(schema: pa.Schema, given: list[dict]) -> pa.Table:
    """A table of a schema: null where a row says nothing."""
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in given]
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        columns.append(pa.array(values, pa.int64() if field.name == "ts" else plain).cast(field.type))
    return pa.table(columns, schema=schema)


def trade(
    symbol: str, ts: int, seq: int, value: float = 1.0, rules: int = RULE, volume: int = 2_500_000
) -> dict:
    return {"symbol": symbol, "ts": ts, "seq": seq, "price": value, "rules": rules, "volume": volume}


TRADES = st.lists(
    st.builds(
        trade,
        st.sampled_from("ABC"),
        st.integers(0, 3),
        st.integers(-2, 3),
        st.integers(1, 99).map(float),
        st.integers(0, 7),
    ),
    max_size=20,
)


@UNTIMED
@given(TRADES)
def test_the_last_trade_that_sets_a_close_is_found(given):
    best: dict = {}
    for row in (row for row in given if row["rules"] & RULE):
        held = best.get(row["symbol"])
        if held is None or (row["ts"], row["seq"]) >= (held["ts"], held["seq"]):
            best[row["symbol"]] = row
    expected = [(name, row["price"], 2.5, row["ts"], row["seq"], TRADE) for name, row in sorted(best.items())]
    found = of_trades(filled(TRADE_INPUT, given), RULE)
    assert rows(found) == expected
    assert found.schema.equals(PRICES)


def test_outside_regular_hours_the_rule_outside_them_counts():
    form_t, both, neither = (int(rule_of(codes)) for codes in ([12], [0], [2]))
    noon, evening, night, sunday = (
        int(datetime.fromisoformat(f"2024-03-{at}+00:00").timestamp() * 1e6)
        for at in ("11T16:00:00", "11T21:30:00", "12T03:59:59", "10T16:00:00")
    )
    # The closing auction's print comes in the minute after the close.
    close = int(datetime.fromisoformat("2024-03-11T20:00:00+00:00").timestamp() * 1e6)
    given = [
        trade(f"{name} {rules}", at, 1, rules=rules)
        for name, at in {
            "noon": noon,
            "close": close,
            "evening": evening,
            "night": night,
            "sunday": sunday,
        }.items()
        for rules in (form_t, both, neither)
    ]
    found = of_trades(filled(TRADE_INPUT, given), RULE, load_calendar())
    outside = {
        f"{name} {rules}" for name in ("close", "evening", "night", "sunday") for rules in (form_t, both)
    }
    assert set(found["symbol"].to_pylist()) == outside | {f"noon {both}"}


def test_a_price_of_aggregates_is_as_of_their_last_microsecond_and_of_the_latest_version():
    given = [
        {"symbol": "A", "ts": T0, "close": 1.0, "version": 5},
        {"symbol": "A", "ts": T0, "close": 2.0, "version": 7},
        {"symbol": "A", "ts": T0 - 60_000_000, "close": 3.0, "version": 9},
        {"symbol": "B", "ts": T0, "close": 4.0},
    ]
    table = filled(MINUTE_INPUT, given)
    assert rows(of_aggregates(table, MINUTE)) == [
        ("A", 2.0, None, T0 + 59_999_999, 7, MINUTE),
        ("B", 4.0, None, T0 + 59_999_999, 0, MINUTE),
    ]
    assert rows(of_aggregates(table, SECOND), "ts", "source")[0] == (T0 + 999_999, SECOND)


def test_nothing_has_no_last_price():
    assert of_trades(filled(TRADE_INPUT, []), RULE).equals(PRICES.empty_table())
    assert of_trades(filled(TRADE_INPUT, [trade("A", 1, 1, rules=1)]), RULE).equals(PRICES.empty_table())
    assert of_aggregates(filled(MINUTE_INPUT, []), MINUTE).equals(PRICES.empty_table())


def test_aggregates_of_another_length_are_refused():
    with pytest.raises(ValueError, match="choose second or minute"):
        of_aggregates(filled(MINUTE_INPUT, []), TRADE)


@UNTIMED
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("AB"), st.integers(0, 2), st.integers(0, 2)),
            unique_by=lambda row: row[0],
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_newest_of_several_tables_is_found(parts):
    found = newest([prices(*(price(name, 1.0, ts, seq) for name, ts, seq in sorted(part))) for part in parts])
    every = [row for part in parts for row in part]
    expected = [max(row for row in every if row[0] == name) for name in sorted({row[0] for row in every})]
    assert rows(found, "symbol", "ts", "seq") == expected
