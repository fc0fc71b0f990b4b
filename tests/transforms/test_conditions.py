from __future__ import annotations

from functools import reduce

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.transforms.conditions import (
    ALL,
    CONSOLIDATED,
    Rule,
    minute_input,
    rule_of,
    rules_of,
    trade_input,
    unknown_codes,
)
from fibflow.transforms.schemas import AGGREGATES, MINUTE_INPUT, TRADE_INPUT, TRADES

# High/low, open/close, volume of each listed code, as the vendor's reference gives them.
TABLE = {
    "YYY": (0, 1, 3, 4, 6, 8, 9, 11, 14, 17, 18, 19, 23, 24, 25, 27, 28, 30, 31, 34, 35, 36, 41, 55),
    "YNY": (5, 10, 22, 32, 33),
    "NNY": (2, 7, 12, 13, 20, 21, 29, 37, 52, 53),
    "NNN": (15, 16),
    "YYN": (38,),
}
FLAGS = {code: flags for flags, codes in TABLE.items() for code in codes}


def regular(rule: Rule) -> str:
    return "".join("Y" if int(rule) & bit else "N" for bit in (1, 2, 4))


def extended(rule: Rule) -> str:
    return "".join("Y" if int(rule) & bit else "N" for bit in (8, 16, 32))


def words(*texts: str | None) -> pa.DictionaryArray:
    return pa.array(texts, pa.string()).dictionary_encode()


# --- one trade ----------------------------------------------------------------------------------------------


def test_a_trade_without_conditions_counts_towards_everything():
    assert rule_of([]) == ALL
    assert (regular(ALL), extended(ALL)) == ("YYY", "YYY")


@pytest.mark.parametrize(("code", "flags"), FLAGS.items())
def test_one_condition_in_regular_hours_has_the_vendors_rules(code, flags):
    assert regular(rule_of([code])) == flags


@pytest.mark.parametrize("code", FLAGS)
def test_outside_regular_hours_form_t_is_passed_over_and_a_corrected_close_counts_for_nothing(code):
    expected = {12: "YYY", 38: "NNN"}.get(code, FLAGS[code])
    assert extended(rule_of([code])) == expected
    assert extended(rule_of([12, code])) == expected


def test_the_status_of_a_security_restricts_nothing():
    for code in (57, 60, 62, 71):
        assert rule_of([code]) == ALL


@pytest.mark.parametrize(
    ("codes", "inside", "outside"),
    [
        ([14, 41], "YYY", "YYY"),
        ([14, 37, 41], "NNY", "NNY"),
        ([12, 37], "NNY", "NNY"),
        ([12, 14], "NNY", "YYY"),
        ([12, 10], "NNY", "YNY"),
        ([38, 37], "NNN", "NNN"),
        ([10, 15], "NNN", "NNN"),
        ([37, 37], "NNY", "NNY"),
    ],
)
def test_all_conditions_must_allow(codes, inside, outside):
    for order in (codes, codes[::-1]):
        assert (regular(rule_of(order)), extended(rule_of(order))) == (inside, outside)


def test_an_unknown_condition_restricts_nothing():
    assert rule_of([999]) == ALL
    assert rule_of([999, 37]) == rule_of([37])


# --- columns ------------------------------------------------------------------------------------------------

CODES = st.lists(st.sampled_from([*CONSOLIDATED, 999, 1000]), max_size=4)


@given(st.lists(st.lists(st.none() | CODES, max_size=20), max_size=3))
def test_a_columns_rules_are_each_conditions_and(chunks):
    texts = [[None if codes is None else ",".join(map(str, codes)) for codes in chunk] for chunk in chunks]
    column = pa.chunked_array([words(*chunk) for chunk in texts], words().type)
    found = rules_of(column)
    assert found.dtype == np.uint8
    expected = [
        int(reduce(lambda rule, code: rule & rule_of([code]), codes or [], ALL))
        for chunk in chunks
        for codes in chunk
    ]
    assert found.tolist() == expected
    unknown = unknown_codes(column)
    for code in (999, 1000):
        assert unknown[code] == sum(code in (codes or []) for chunk in chunks for codes in chunk)
    assert set(unknown) <= {999, 1000}


def test_words_that_no_row_has_are_not_counted():
    column = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), ["998", "999"])
    assert unknown_codes(column) == {998: 2}
    assert rules_of(column).tolist() == [int(ALL)] * 2


def test_a_code_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="'x'"):
        rules_of(words("12,x"))


# --- what the kernel takes ----------------------------------------------------------------------------------

ORIGIN = {"shard": "s", "sequence": "1", "sub": 0, "place": 0, "arrived": 5}


def table(schema: pa.Schema, rows: list[dict]) -> pa.Table:
    return pa.table(
        [pa.array([row.get(field.name) for row in rows], _plain(field)).cast(field.type) for field in schema],
        schema=schema,
    )


def _plain(field: pa.Field) -> pa.DataType:
    return field.type.value_type if pa.types.is_dictionary(field.type) else field.type


def test_trades_have_volume_in_millionths_and_their_rules():
    trade = {"symbol": "A", "ts": 7, "seq": 9, "price": 10.5, **ORIGIN}
    trades = table(
        TRADES,
        [
            {**trade, "size": 100.0, "conditions": ""},
            {**trade, "size": 0.1234565, "conditions": "12,37", "place": 1},
            {**trade, "size": 0.0, "conditions": "15", "place": 2},
        ],
    )
    found = trade_input(trades)
    assert found.schema == TRADE_INPUT
    assert found["volume"].to_pylist() == [100_000_000, round(0.1234565 * 1e6), 0]
    assert found["rules"].to_pylist() == [63, 36, 0]
    for name in ("symbol", "ts", "seq", "price", "shard", "sequence", "sub", "place"):
        assert found[name].to_pylist() == trades[name].to_pylist()
    assert trade_input(trades.slice(0, 0)).schema == TRADE_INPUT


def test_minutes_are_whole_and_otherwise_as_they_came():
    minute = {
        "symbol": "A",
        "open": 1.0,
        "high": 2.0,
        "low": 1.0,
        "close": 2.0,
        "volume": 3.0,
        "version": 4,
        **ORIGIN,
    }
    aggregates = table(AGGREGATES, [{**minute, "ts": 120_000_000}, {**minute, "ts": 179_999_999, "place": 1}])
    found = minute_input(aggregates)
    assert found.schema == MINUTE_INPUT
    assert found["ts"].cast(pa.int64()).to_pylist() == [120_000_000, 120_000_000]
    assert found.drop_columns("ts") == aggregates.drop_columns(["ts", "arrived"])
    whole = aggregates.slice(0, 1)
    assert minute_input(whole) == whole.drop_columns("arrived")
