from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import dicts
from fibflow.transforms.accumulators import to_micro
from fibflow.transforms.partials import (
    BAR_BATCH,
    Partials,
    Rows,
    Runs,
    concat,
    encode_symbols,
    finish,
    fold,
    merge,
    newest,
    run_starts,
)
from fibflow.transforms.schemas import PARTIALS

MINUTE = 60_000_000


def rows_of(trades: list[dict], symbols: tuple[str, ...] = ("A",)) -> Rows:
    """Rows of dicts that are sorted by symbol; a column that no row has is None."""

    def optional(name: str, missing: float, kind: type) -> np.ndarray | None:
        values = [trade.get(name) for trade in trades]
        if all(value is None for value in values):
            return None
        return np.array([missing if value is None else value for value in values], kind)

    prices = {
        name: np.array([trade.get(name, trade["price"]) for trade in trades], np.float64)
        for name in ("open", "high", "low", "close")
    }
    return Rows(
        symbols=pa.array(symbols),
        symbol=np.array([symbols.index(trade.get("symbol", "A")) for trade in trades], np.int32),
        volume=to_micro(np.array([trade.get("volume", 1.0) for trade in trades], np.float64)),
        vwap=optional("vwap", math.nan, np.float64),
        trade_count=optional("count", -1, np.int64),
        **prices,
    )


def runs_of(starts: list[int], rows: int, chosen: list[int] | None = None) -> Runs:
    """Runs whose windows are an hour each, a row a minute."""
    every = np.array(starts)
    stops = np.append(every[1:], rows)
    picked = np.arange(len(every)) if chosen is None else np.array(chosen, np.intp)
    first, last = every[picked], stops[picked] - 1
    return Runs(
        starts=every,
        chosen=None if chosen is None else picked,
        first=first,
        last=last,
        ts=picked * 60 * MINUTE,
        end=(picked + 1) * 60 * MINUTE,
        begins=first * MINUTE,
        finishes=last * MINUTE + MINUTE - 1,
        sessions=np.ones(len(picked), np.int32),
    )


def one_bar(trades: list[dict]) -> dict:
    """The bar of all rows."""
    part = fold(rows_of(trades), runs_of([0], len(trades)))
    (bar,) = dicts(finish(part, "1h", np.ones(1, np.bool_)))
    return bar


def prices(bar: dict) -> tuple:
    return tuple(bar[name] for name in ("open", "high", "low", "close"))


# --- fold and finish ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([5.0], (5.0, 5.0, 5.0, 5.0)),
        ([5.0, 5.0, 5.0], (5.0, 5.0, 5.0, 5.0)),
        ([1.0, 2.0, 3.0], (1.0, 3.0, 1.0, 3.0)),
        ([3.0, 2.0, 1.0], (3.0, 3.0, 1.0, 1.0)),
        ([2.0, 3.0, 1.0, 2.5], (2.0, 3.0, 1.0, 2.5)),
        ([5e-324, 1.7976931348623157e308, 1.0], (5e-324, 1.7976931348623157e308, 5e-324, 1.0)),
    ],
    ids=["single point", "constant", "increasing", "decreasing", "oscillating", "extremes"],
)
def test_prices(series, expected):
    assert prices(one_bar([{"price": price} for price in series])) == expected


def test_a_bar_has_its_rows_open_and_close_and_their_highs_and_lows():
    bar = one_bar(
        [
            {"price": 10.0, "high": 12.0, "low": 9.0, "close": 11.0},
            {"price": 11.0, "high": 11.5, "low": 7.0, "close": 8.0},
        ]
    )
    assert prices(bar) == (10.0, 12.0, 7.0, 8.0)


def test_a_bars_columns():
    trades = [
        {"price": 10.0, "volume": 2.0, "vwap": 10.0, "count": 3},
        {"price": 13.0, "vwap": 13.0, "count": 4},
    ]
    part = fold(rows_of(trades), runs_of([0], 2))
    bars = finish(part, "1h", np.array([False]))
    assert bars.schema == BAR_BATCH
    assert dicts(bars) == [
        {
            "symbol": "A",
            "timeframe": "1h",
            "ts": 0,
            "end": 60 * MINUTE,
            "open": 10.0,
            "high": 13.0,
            "low": 10.0,
            "close": 13.0,
            "volume": 3.0,
            "vwap": 11.0,
            "trade_count": 7,
            "sessions": 1,
            "complete": False,
            "final": False,
            "revision": 0,
        }
    ]
    assert (part.open_ts.tolist(), part.close_ts.tolist()) == ([0], [2 * MINUTE - 1])


@pytest.mark.parametrize(
    ("trades", "vwap", "count"),
    [
        ([{"vwap": 2.0, "count": 1}, {"vwap": 4.0, "count": 2}], 3.0, 3),
        ([{"vwap": 2.0, "count": 1}, {"vwap": None, "count": None}], None, None),
        ([{"vwap": 2.0}, {"count": 5}], None, None),
        ([{}, {}], None, None),
        ([{"vwap": 2.0, "volume": 0.0, "count": 0}], None, 0),
        ([{"vwap": 2.0, "volume": 0.0}, {"vwap": 4.0}], 4.0, None),
        ([{"vwap": None, "volume": 0.0}, {"vwap": 4.0}], None, None),
    ],
    ids=[
        "all",
        "one lacks both",
        "each lacks one",
        "none",
        "no volume",
        "a row of no volume",
        "it lacks its vwap",
    ],
)
def test_what_a_row_lacks_stays_null(trades, vwap, count):
    bar = one_bar([{"price": 3.0, **trade} for trade in trades])
    assert (bar["vwap"], bar["trade_count"]) == (vwap, count)


def test_one_bar_that_lacks_a_value_takes_none_from_its_neighbour():
    trades = [
        {"price": 1.0, "vwap": 1.0, "count": 1},
        {"price": 1.0},
        {"price": 2.0, "vwap": 2.0, "count": 5},
    ]
    part = fold(rows_of(trades), runs_of([0, 2], 3))
    bars = dicts(finish(part, "1h", np.ones(2, np.bool_)))
    assert [(bar["vwap"], bar["trade_count"]) for bar in bars] == [(None, None), (2.0, 5)]


def test_chosen_runs_in_the_order_asked_for():
    rows = rows_of([{"price": float(n), "vwap": float(n + 1), "count": n} for n in range(6)])
    every = fold(rows, runs_of([0, 1, 3], 6))
    some = fold(rows, runs_of([0, 1, 3], 6, chosen=[2, 0]))
    assert some.to_arrow().equals(every.take(np.array([2, 0])).to_arrow())


@given(
    trades=st.lists(
        st.fixed_dictionaries(
            {"price": st.floats(1e-3, 1e6), "vwap": st.floats(1e-3, 1e6), "volume": st.floats(0, 1e9)}
        ),
        min_size=1,
        max_size=30,
    )
)
def test_vwap_is_exact_to_the_last_place(trades):
    bar = one_bar(trades)
    weights = [round(trade["volume"] * 1e6) for trade in trades]
    assert bar["volume"] == sum(weights) / 1e6
    if not sum(weights):
        assert bar["vwap"] is None
        return
    notional = sum(round(trade["vwap"] * 1e6) * weight for trade, weight in zip(trades, weights, strict=True))
    exact = Fraction(notional, sum(weights)) / 10**6
    assert bar["vwap"] == oracle.divide(notional, sum(weights))
    assert abs(Fraction(bar["vwap"]) - exact) <= 2 * Fraction(math.ulp(float(exact)))


def test_a_split_at_any_place_merges_to_the_whole():
    numbers = random.Random(7)
    trades = [
        {
            "price": numbers.uniform(1, 9),
            "volume": numbers.uniform(0, 99),
            "vwap": numbers.uniform(1, 9),
            "count": n,
        }
        for n in range(40)
    ]
    rows = rows_of(trades)
    whole = fold(rows, runs_of([0], 40))
    for cut in range(1, 40):
        halves = fold(rows, runs_of([0, cut], 40))
        halves = replace(halves, ts=np.zeros(2, np.int64), end=np.full(2, 60 * MINUTE))
        assert merge(halves).to_arrow().equals(whole.to_arrow())


# --- merge --------------------------------------------------------------------------------------------------

KEYS = [(symbol, ts) for symbol in ("A", "AA", "é") for ts in (-60, 0, 60)]


@st.composite
def partials(draw: st.DrawFn, size: int = 12) -> list[dict]:
    """Partials of few keys, no two of one key at the same (time, sequence)."""
    drawn = st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "open": st.floats(1e-3, 1e6),
            "open_ts": st.integers(-3, 3),
            "open_seq": st.integers(0, 3),
            "high": st.floats(1e-3, 1e6),
            "low": st.floats(1e-3, 1e6),
            "close": st.floats(1e-3, 1e6),
            "close_ts": st.integers(-3, 3),
            "close_seq": st.integers(0, 3),
            "volume": st.integers(0, 2**50),
            "notional": st.integers(0, 2**110),
            "has_notional": st.booleans(),
            "trade_count": st.integers(0, 2**40),
            "has_trade_count": st.booleans(),
            "sessions": st.integers(1, 34),
        }
    )
    unique = (
        lambda part: (part["key"], part["open_ts"], part["open_seq"]),
        lambda part: (part["key"], part["close_ts"], part["close_seq"]),
    )
    return draw(st.lists(drawn, min_size=1, max_size=size, unique_by=unique))


def to_partials(parts: list[dict]) -> Partials:
    columns = {name: [part.get(name) for part in parts] for name in PARTIALS.names}
    columns["symbol"] = [part["key"][0] for part in parts]
    columns["ts"] = [part["key"][1] for part in parts]
    columns["end"] = [part["key"][1] + 60 for part in parts]
    notionals = [part["notional"] if part["has_notional"] else 0 for part in parts]
    columns["notional_hi"] = [total >> 64 for total in notionals]
    columns["notional_lo"] = [total & (2**64 - 1) for total in notionals]
    columns["trade_count"] = [part["trade_count"] if part["has_trade_count"] else 0 for part in parts]
    symbol = pa.array(columns["symbol"]).dictionary_encode()
    arrays = [symbol, *(pa.array(columns[field.name], field.type) for field in list(PARTIALS)[1:])]
    return Partials.from_arrow(pa.table(arrays, schema=PARTIALS))


def merged(parts: list[dict], add_sessions: bool) -> list[dict]:
    """The partials merged by hand."""
    out = []
    for key in sorted({part["key"] for part in parts}):
        own = [part for part in parts if part["key"] == key]
        first = min(own, key=lambda part: (part["open_ts"], part["open_seq"]))
        last = max(own, key=lambda part: (part["close_ts"], part["close_seq"]))
        known, counted = (all(part[name] for part in own) for name in ("has_notional", "has_trade_count"))
        notional = sum(part["notional"] for part in own) if known else 0
        sessions = [part["sessions"] for part in own]
        out.append(
            {
                "symbol": key[0],
                "ts": key[1],
                "end": key[1] + 60,
                **{name: first[name] for name in ("open", "open_ts", "open_seq")},
                "high": max(part["high"] for part in own),
                "low": min(part["low"] for part in own),
                **{name: last[name] for name in ("close", "close_ts", "close_seq")},
                "volume": sum(part["volume"] for part in own),
                "notional_hi": notional >> 64,
                "notional_lo": notional & (2**64 - 1),
                "has_notional": known,
                "trade_count": sum(part["trade_count"] for part in own) if counted else 0,
                "has_trade_count": counted,
                "sessions": sum(sessions) if add_sessions else max(sessions),
            }
        )
    return out


@given(parts=partials(), add_sessions=st.booleans())
def test_merge_equals_merging_by_hand(parts, add_sessions):
    assert dicts(merge(to_partials(parts), add_sessions).to_arrow()) == merged(parts, add_sessions)


@settings(max_examples=200)
@given(parts=partials(), add_sessions=st.booleans(), order=st.randoms(use_true_random=False), data=st.data())
def test_merge_is_commutative_and_associative_to_the_bit(parts, add_sessions, order, data):
    once = merge(to_partials(parts), add_sessions).to_arrow()
    shuffled = list(parts)
    order.shuffle(shuffled)
    assert merge(to_partials(shuffled), add_sessions).to_arrow().equals(once)
    cut = data.draw(st.integers(0, len(parts)))
    groups = [to_partials(group) for group in (shuffled[:cut], shuffled[cut:]) if group]
    bracketed = merge(concat([merge(group, add_sessions) for group in groups]), add_sessions)
    assert bracketed.to_arrow().equals(once)


@given(parts=partials())
def test_merge_is_idempotent(parts):
    once = merge(to_partials(parts))
    assert merge(once).to_arrow().equals(once.to_arrow())


def test_merge_of_nothing_is_nothing():
    none = Partials.from_arrow(PARTIALS.empty_table())
    assert len(merge(none)) == 0
    assert merge(none).to_arrow().equals(PARTIALS.empty_table())


def test_ties_in_time_break_on_the_sequence_number():
    base = dict.fromkeys(("open", "high", "low", "close"), 1.0) | {
        "key": ("A", 0),
        "volume": 1,
        "notional": 0,
        "has_notional": False,
        "trade_count": 0,
        "has_trade_count": False,
        "sessions": 1,
        "open_ts": 5,
        "close_ts": 5,
    }
    parts = [
        base | {"open_seq": seq, "close_seq": seq, "open": price, "close": price}
        for seq, price in ((2, 2.0), (1, 1.0), (3, 3.0))
    ]
    got = merge(to_partials(parts))
    assert (got.open.tolist(), got.close.tolist()) == ([1.0], [3.0])


def test_minutes_roll_up_exactly():
    numbers = random.Random(11)
    trades = [
        {
            "price": numbers.uniform(1, 9),
            "volume": numbers.uniform(0, 1e6),
            "vwap": numbers.uniform(1, 9),
            "count": numbers.randrange(99),
        }
        for _ in range(240)
    ]
    rows = rows_of(trades)
    direct = fold(rows, runs_of(list(range(0, 240, 60)), 240))
    fine = fold(rows, runs_of(list(range(0, 240, 5)), 240))
    coarse = fine.ts // (60 * MINUTE) // 12 * (60 * MINUTE)
    rolled = merge(replace(fine, ts=coarse, end=coarse + 60 * MINUTE))
    assert rolled.to_arrow().equals(direct.to_arrow())


# --- tables -------------------------------------------------------------------------------------------------


@given(parts=partials())
def test_partials_go_through_arrow_unchanged(parts):
    table = to_partials(parts).to_arrow()
    assert table.schema == PARTIALS
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    back = Partials.from_arrow(pa.ipc.open_stream(sink.getvalue()).read_all())
    assert back.to_arrow().equals(table)


def test_columns_that_no_partial_has_are_left_out_and_come_back_empty():
    part = fold(rows_of([{"price": 1.0}]), runs_of([0], 1))
    absent = (part.notional_hi, part.notional_lo, part.has_notional, part.trade_count, part.has_trade_count)
    assert absent == (None,) * 5
    (row,) = dicts(part.to_arrow())
    assert (row["has_notional"], row["has_trade_count"]) == (False, False)
    assert (row["notional_hi"], row["notional_lo"], row["trade_count"]) == (0, 0, 0)
    assert Partials.from_arrow(part.to_arrow()).has_notional is None


def test_concat_puts_unlike_partials_together():
    with_all = fold(
        rows_of([{"price": 1.0, "vwap": 1.0, "count": 1, "symbol": "Z"}], ("Z",)), runs_of([0], 1)
    )
    without = fold(rows_of([{"price": 2.0}]), runs_of([0], 1))
    both = concat([with_all, without])
    assert both.symbols.to_pylist() == ["A", "Z"]
    assert both.symbol.tolist() == [1, 0]
    assert [row["has_notional"] for row in dicts(both.to_arrow())] == [True, False]
    assert concat([with_all]) is with_all


def test_concat_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no partials to concatenate"):
        concat([])


@pytest.mark.parametrize(
    "column",
    [
        pa.chunked_array([["b", "a"], ["c", "b"]]),
        pa.chunked_array(
            [pa.array(["b", "a"]).dictionary_encode(), pa.array(["c", "b"]).dictionary_encode()]
        ),
        pa.chunked_array(
            [pa.DictionaryArray.from_arrays(pa.array([1, 2, 0, 1], pa.int8()), ["c", "b", "a"])]
        ),
    ],
    ids=["strings", "dictionaries that differ", "a dictionary out of order"],
)
def test_encode_symbols(column):
    symbols, codes = encode_symbols(column)
    assert symbols.to_pylist() == ["a", "b", "c"]
    assert codes.dtype == np.int32
    assert codes.tolist() == [1, 0, 2, 1]


def test_encode_symbols_sorts_by_code_point_as_utf8_does():
    words = ["é", "a", "Z", "ẞ", "𝔸", "\uffff"]
    symbols, _ = encode_symbols(pa.chunked_array([words]))
    assert symbols.to_pylist() == sorted(words, key=str.encode)


def test_encode_no_symbols():
    for kind in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        symbols, codes = encode_symbols(pa.chunked_array([], kind))
        assert (len(symbols), len(codes)) == (0, 0)


def test_run_starts():
    symbol = np.array([0, 0, 0, 1, 1], np.int32)
    assert run_starts(symbol, np.array([5, 5, 6, 6, 6])).tolist() == [0, 2, 3]
    assert run_starts(symbol[:0], np.zeros(0)).tolist() == []


def test_newest_is_the_greatest_of_each_window_by_ranks_in_order():
    symbol, window = np.array([1, 0, 1, 0, 1]), np.array([5, 9, 5, 9, 4])
    first, second = np.array([2, 1, 2, 1, 0]), np.array([7, 3, 6, 3, 0])
    assert newest(symbol, window, first, second).tolist() == [3, 4, 0]
    assert newest(symbol[:0], window[:0], first[:0]).tolist() == []
