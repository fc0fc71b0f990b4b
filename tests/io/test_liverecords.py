from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.liverecords import (
    BAR,
    PRICE,
    Grouped,
    Packed,
    frame_of,
    group_bars,
    list_names,
    pack_bars,
    pack_prices,
    seconds,
    symbols_of,
    unpack_bars,
    unpack_prices,
)
from fibflow.tests.io.livestores import MINUTE, T0, bar, price, prices, rows, table
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Timeframe

UNTIMED = settings(deadline=None)
SYMBOLS = st.sampled_from(["A", "BRK.B", "X:BTCUSD", "Ünï", "O:SPY251219C00650000"])
TIMEFRAMES = st.sampled_from(["1m", "4h", "34d"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LONGS = st.integers(-(2**63), 2**63 - 1)

BARS_OF_ANY_KIND = st.builds(
    bar,
    SYMBOLS,
    TIMEFRAMES,
    st.integers(0, 2**52),
    FLOATS,
    open=FLOATS,
    volume=FLOATS,
    vwap=FLOATS | st.none(),
    trade_count=st.integers(0, 2**63 - 1) | st.none(),
    sessions=st.integers(0, 2**16 - 1),
    complete=st.booleans(),
    final=st.booleans(),
    revision=st.integers(0, 2**31 - 1),
)


def over_the_wire(packed: Packed) -> Packed:
    return Packed.of_parts(*packed.parts(), packed.rows.dtype)


@UNTIMED
@given(st.lists(BARS_OF_ANY_KIND, max_size=6))
def test_bars_come_back_as_they_went(given):
    bars = table(*given)
    back = unpack_bars(over_the_wire(pack_bars(bars, 5)))
    assert back.equals(bars.cast(BARS))


@UNTIMED
@given(st.lists(st.builds(price, SYMBOLS, FLOATS, LONGS, LONGS), max_size=6))
def test_prices_come_back_as_they_went(given):
    assert unpack_prices(over_the_wire(pack_prices(prices(*given)))).equals(prices(*given))


def test_a_price_without_a_size_has_none_afterwards():
    one = prices({**price("A", source="minute"), "size": None})
    assert unpack_prices(pack_prices(one)).equals(one)


def test_the_bytes_are_those_that_the_page_gives():
    bars = table(
        bar(
            "A", "1m", T0, 2.5, vwap=None, trade_count=None, sessions=3, revision=4, complete=True, final=True
        )
    )
    *head, vwap, count, revision, sessions, flags, written, frame = struct.unpack(
        "<qq6dqiHBIH", pack_bars(bars, 77).rows.tobytes()
    )
    assert head == [T0, T0 + MINUTE, 1.5, 9.25, 0.5, 2.5, 100.0]
    assert np.isnan(vwap)
    assert (count, revision, sessions, flags, written, frame) == (-1, 4, 3, 3, 77, 1)
    one = struct.unpack("<qqddB", pack_prices(prices(price("A", 2.5, T0, 9, "minute"))).rows.tobytes())
    assert one == (T0, 9, 2.5, 100.0, 2)
    assert (BAR.itemsize, PRICE.itemsize) == (85, 33)


def test_parts_are_cut_and_picked_with_their_names():
    packed = pack_bars(table(bar("A"), bar("BB"), bar("C", "5m")), 0)
    assert packed.slice(1, 3).parts()[:2] == (struct.pack("<HH", 2, 1), b"BBC")
    assert packed.take(np.array([2, 0])).parts()[1] == b"CA"
    assert packed.take(np.array([False, True, False])).names.to_pylist() == ["BB"]
    assert packed.slice(0, 0).parts() == (b"", b"", b"")


def test_parts_that_do_not_fit_together_are_refused():
    sizes, names, records = pack_bars(table(bar("A")), 0).parts()
    with pytest.raises(ValueError, match="do not fit"):
        Packed.of_parts(sizes, names + b"x", records, BAR)
    with pytest.raises(ValueError, match="do not fit"):
        Packed.of_parts(sizes * 2, names * 2, records, BAR)


def test_a_symbol_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="at most 65535"):
        pack_bars(table(bar("A" * 70_000)), 0).parts()


def test_a_bar_of_several_chunks_and_of_plain_words_is_packed():
    bars = pa.concat_tables([table(bar("A")), table(bar("B"))]).cast(BARS)
    assert rows(unpack_bars(pack_bars(bars, 0)), "symbol") == [("A",), ("B",)]


def test_seconds_stay_within_their_field():
    assert [seconds(micros) for micros in (-1, 1_999_999, 2**62)] == [0, 1, 2**32 - 1]


@UNTIMED
@given(st.lists(BARS_OF_ANY_KIND, max_size=8))
def test_bars_by_symbol_come_back_in_order(given):
    bars = table(*given)
    grouped = group_bars(bars, 5)
    assert len(set(grouped.names.to_pylist())) == len(grouped.names)
    back = rows(unpack_bars(Grouped.of_parts(*grouped.parts()).flat()), "symbol", "timeframe", "ts")
    assert sorted(back) == sorted(rows(bars, "symbol", "timeframe", "ts"))
    for symbol in set(bars["symbol"].to_pylist()):
        own = [(frame_of(Timeframe.parse(frame)), ts) for name, frame, ts in back if name == symbol]
        assert own == sorted(own)


def test_groups_that_do_not_fit_together_are_refused():
    sizes, names, counts, records = group_bars(table(bar("A"), bar("A", "5m")), 0).parts()
    for wrong in (counts * 2, struct.pack("<H", 1)):
        with pytest.raises(ValueError, match="do not fit"):
            Grouped.of_parts(sizes, names, wrong, records)


def test_names_of_lists_and_frames_say_what_they_are_of():
    bars = table(bar("X:BTCUSD", "4h"), bar("A", "34d"))
    names = list_names(bars["timeframe"], pack_bars(bars, 0).names)
    assert names.to_pylist() == ["4h:X:BTCUSD", "34d:A"]
    assert symbols_of(names).to_pylist() == ["X:BTCUSD", "A"]
    assert pack_bars(bars, 0).rows["frame"].tolist() == [240, 0x8000 + 34]
