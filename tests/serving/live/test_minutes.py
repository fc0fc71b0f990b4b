from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.live.minutes import Minutes, trades
from fibflow.tests.io.livestores import MINUTE, T0, bar, closed, price, prices, rows, table
from fibflow.transforms.schemas import BARS

DAY_START = T0 - 600 * MINUTE
DAY_END = DAY_START + 1440 * MINUTE


def day(symbol: str, volume: float, ts: int = DAY_START, **values) -> dict:
    made = {"open": 7.5, "vwap": 8.25, "volume": volume, "end": ts + DAY_END - DAY_START}
    return bar(symbol, "1d", ts, **{**made, **values})


def begun(*days: dict) -> Minutes:
    minutes = Minutes()
    minutes.begin(table(*days).cast(BARS))
    return minutes


def sent(minutes: Minutes, *bars: dict) -> list[dict]:
    news = minutes.news(table(*bars).cast(BARS))
    return [json.loads(text) for text in minutes.encode(news).to_pylist()]


def test_a_minute_has_the_members_of_the_vendors():
    (told,) = sent(begun(day("A", 5_000.0)), closed("A", close=3.25, trade_count=7, volume=100.0))
    assert told == {
        "ev": "AM",
        "sym": "A",
        "v": 100,
        "av": 5000,
        "op": 7.5,
        "vw": 1.25,
        "o": 1.5,
        "c": 3.25,
        "h": 9.25,
        "l": 0.5,
        "a": 8.25,
        "z": 14,
        "s": T0 // 1000,
        "e": T0 // 1000 + 60_000,
    }


def test_what_is_not_known_is_left_out():
    (told,) = sent(begun(), closed("A", vwap=None, trade_count=None))
    assert not {"av", "op", "a", "vw", "z"} & set(told)
    (without_vwap,) = sent(begun(day("A", 1.0, vwap=None)), closed("A"))
    assert "a" not in without_vwap
    assert without_vwap["op"] == 7.5


def test_a_day_of_another_date_says_nothing():
    old = day("A", 1.0, ts=DAY_START - 2 * 1440 * MINUTE)
    assert "av" not in sent(begun(old), closed("A"))[0]
    ahead = day("A", 1.0, ts=DAY_END)
    assert "av" not in sent(begun(ahead), closed("A"))[0]


def test_the_day_goes_on():
    minutes = begun(day("A", 1.0), day("B", 10.0))
    minutes.learn(table(day("A", 2.0), bar("A", "5m"), day("C", 30.0)).cast(BARS))
    told = sent(minutes, closed("A"), closed("B"), closed("C"), closed("D"))
    assert [one.get("av") for one in told] == [2, 10, 30, None]
    # A late revision of the day before changes nothing.
    before = day("A", 9.0, ts=DAY_START - 1440 * MINUTE)
    minutes.learn(table(day("A", 3.0), before).cast(BARS))
    assert sent(minutes, closed("A", ts=T0 + MINUTE))[0]["av"] == 3


def test_only_minutes_are_told():
    assert [one["sym"] for one in sent(begun(), closed("A", "5m"), closed("B"), closed("C", "1d"))] == ["B"]


def test_a_late_revision_is_told_again_and_finality_alone_is_not():
    minutes = begun()
    assert len(sent(minutes, closed("A"))) == 1
    assert sent(minutes, closed("A", revision=1, close=2.0))[0]["c"] == 2
    assert sent(minutes, closed("A", revision=1, close=2.0, final=True)) == []
    assert sent(minutes, closed("A", revision=2, close=4.0, final=True))[0]["c"] == 4
    # A job that went back to a checkpoint may close it again, with a lower revision.
    assert sent(minutes, closed("A", revision=0, close=3.0))[0]["c"] == 3


def test_minutes_that_are_final_at_once_are_told():
    assert len(sent(begun(), closed("A", final=True), closed("B", final=True))) == 2


def test_after_a_gap_it_is_known_what_was_told_and_the_day_is_read_anew():
    minutes = begun(day("A", 1.0))
    sent(minutes, closed("A"))
    minutes.begin(table(day("B", 2.0)).cast(BARS))
    assert sent(minutes, closed("A", final=True)) == []
    told = sent(minutes, closed("A", revision=1), closed("B"))
    assert [one.get("av") for one in told] == [None, 2]


@given(
    st.lists(
        st.lists(
            st.builds(
                closed,
                st.sampled_from("ABC"),
                st.sampled_from(["1m", "5m"]),
                st.sampled_from([T0, T0 + MINUTE, T0 + 2 * MINUTE]),
                final=st.booleans(),
                revision=st.integers(0, 2),
            ),
            max_size=5,
            unique_by=lambda row: (row["symbol"], row["timeframe"], row["ts"]),
        ),
        max_size=8,
    )
)
def test_who_listens_knows_the_newest_of_each_minute(batches):
    minutes = begun()
    shown: dict = {}
    newest: dict = {}
    for batch in batches:
        told = minutes.news(table(*batch).cast(BARS))
        shown.update({row[:2]: row[2] for row in rows(told, "symbol", "ts", "revision")})
        ours = [row for row in batch if row["timeframe"] == "1m"]
        newest.update({(row["symbol"], row["ts"]): row["revision"] for row in ours})
        assert shown == newest


def test_trades_are_the_moves_of_the_last_price_that_trades_made():
    symbols, texts = trades(prices(price("A", 2.5, T0 + 1_999, seq=7), price("B", source="minute")))
    assert symbols.to_pylist() == ["A"]
    assert json.loads(texts[0].as_py()) == {
        "ev": "T",
        "sym": "A",
        "p": 2.5,
        "s": 100,
        "t": (T0 + 1_999) // 1000,
        "q": 7,
    }


@pytest.mark.parametrize("rows_", [BARS.empty_table(), table(closed("A", "5m")).cast(BARS)])
def test_nothing_makes_nothing(rows_):
    minutes = begun()
    assert minutes.encode(minutes.news(rows_)).to_pylist() == []
    assert isinstance(minutes.news(rows_), pa.Table)
