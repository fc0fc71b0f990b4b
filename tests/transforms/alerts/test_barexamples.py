"""Alerts on the close of bars by examples: operands, operators, lists, frequencies, splits, seeds, state."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fibflow.tests.transforms.alerts.bar_oracle import bar, bars_table, change
from fibflow.tests.transforms.alerts.test_barkernel import PLAN, XNYS, Bucket, Lake
from fibflow.tests.transforms.tables import days, ny
from fibflow.transforms.alerts.barkernel import Memo, Plan
from fibflow.transforms.alerts.schema import Frequency
from fibflow.transforms.livecells import StateError
from fibflow.transforms.timeframe import MINUTE_US, parse_timeframes

CLOSE: dict[str, Any] = {"field": "close"}
TEN: dict[str, Any] = {"value": 10.0}
OPEN = ny("2024-07-01T09:30")
SPAN = 5 * MINUTE_US


def five(n: int, close: float = 10.0, symbol: str = "A", **values: Any) -> dict:
    """The n-th bar of five minutes of 1 July; ``daily``: a bar of sessions."""
    return bar(symbol, "5m", OPEN + n * SPAN, OPEN + (n + 1) * SPAN, close, **values)


def daily(text: str, close: float = 10.0, timeframe: str = "1d", until: str = "", **values: Any) -> dict:
    first, last = (XNYS.position_on_or_before(day) for day in days(text, until or text))
    return bar("A", timeframe, int(XNYS.day_starts[first]), int(XNYS.day_ends[last]), close, **values)


def on(left: dict, operator: str, right: dict, timeframe: str = "5m") -> dict:
    return {"timeframe": timeframe, "all": [{"left": left, "operator": operator, "right": right}]}


def fired_at(condition: dict, bars: list[dict], **options: Any) -> list[int]:
    """The places of the bars at which an alert fires, each bar being a table."""
    bucket = Bucket()
    bucket.changes(change(1, condition, **options))
    return [n for n, row in enumerate(bars) if bucket.bars(row)]


def closes(*prices: float) -> list[dict]:
    return [five(n, price) for n, price in enumerate(prices)]


@pytest.mark.parametrize(
    ("operator", "places"),
    [
        ("above", [2, 5]),
        ("at_least", [1, 2, 4, 5]),
        ("below", [0, 3]),
        ("at_most", [0, 1, 3, 4]),
        ("crosses_up", [1, 4]),
        ("crosses_down", [3]),
    ],
)
def test_an_operator(operator, places):
    assert fired_at(on(CLOSE, operator, TEN), closes(9, 10, 11, 9, 10, 11)) == places


def test_a_crossing_of_two_lines():
    """The close against the average of the two before it."""
    average = {"average": "close", "bars": 2}
    prices = closes(10, 10, 8, 11, 12, 8)
    assert fired_at(on(CLOSE, "crosses_up", average), prices) == [3]
    assert fired_at(on(CLOSE, "crosses_down", average), prices) == [5]


@pytest.mark.parametrize(
    ("right", "places"),
    [
        ({"field": "close", "back": 1}, [1, 3, 4]),
        ({"field": "close", "back": 2}, [3, 4]),
        ({"field": "open"}, []),
        ({"field": "close", "back": 1, "times": 1.5}, [3]),
        ({"average": "close", "bars": 2}, [3, 4]),
        ({"highest": "close", "bars": 3}, [3, 4]),
        ({"lowest": "close", "bars": 3, "times": 1.25}, [3, 4]),
        ({"value": 4.0, "times": 3.0}, [3, 4]),
    ],
)
def test_an_operand(right, places):
    assert fired_at(on(CLOSE, "above", right), closes(8, 9, 8, 16, 20)) == places


def test_the_close_above_the_last_fibonacci_bars_high():
    """Before any bar of two days has closed nothing fires; then its high counts, not that of an older one."""
    bucket = Bucket()
    bucket.changes(change(1, on(CLOSE, "above", {"field": "high", "timeframe": "2d"})))
    assert not bucket.bars(five(0, 50.0))
    bucket.bars(daily("2024-06-27", 10.0, "2d", "2024-06-28", high=30.0))
    assert not bucket.bars(five(1, 30.0))
    (event,) = bucket.bars(five(2, 30.5))
    assert (event["price"], event["previous"], event["level"]) == (30.5, 30.0, 30.0)
    assert event["id"] == f"1-1-0-{OPEN + 2 * SPAN}"
    assert (event["ts"], event["seq"], event["symbol"]) == (OPEN + 3 * SPAN, 0, "A")


def test_a_fibonacci_bar_is_a_trigger_too():
    condition = on(CLOSE, "above", {"field": "high", "back": 1}, "2d")
    first = daily("2024-06-27", 10.0, "2d", "2024-06-28")
    second = daily("2024-07-01", 11.0, "2d", "2024-07-02")
    assert fired_at(condition, [first, second]) == [1]


@pytest.mark.parametrize("reverse", [False, True], ids=["shorter first", "longer first"])
@pytest.mark.parametrize(("trigger", "other"), [("1d", "2d"), ("2d", "1d")])
def test_bars_that_end_together_in_one_table_know_of_each_other(trigger, other, reverse):
    bucket = Bucket()
    bucket.changes(change(1, on(CLOSE, "below", {"field": "high", "timeframe": other}, trigger)))
    pair = [daily("2024-07-02", 10.0, high=30.0), daily("2024-07-01", 10.0, "2d", "2024-07-02", high=30.0)]
    (event,) = bucket.bars(*(pair[::-1] if reverse else pair))
    assert event["level"] == 30.0


def test_volume_of_twice_the_average_of_twenty_bars():
    condition = on({"field": "volume"}, "at_least", {"average": "volume", "bars": 20, "times": 2.0})
    bars = [five(n, volume=100.0) for n in range(20)]
    assert fired_at(condition, [*bars, five(20, volume=200.0)]) == [20]
    assert fired_at(condition, [*bars, five(20, volume=199.0)]) == []
    assert fired_at(condition, [*bars[1:], five(20, volume=900.0)]) == [], "one bar too few"


def test_all_of_any_lists_and_any_of_all_lists():
    high, low, loud = (
        {"left": CLOSE, "operator": "above", "right": TEN},
        {"left": CLOSE, "operator": "below", "right": {"value": 5.0}},
        {"left": {"field": "volume"}, "operator": "above", "right": {"value": 500.0}},
    )
    bars = [
        five(0, 11),
        five(1, 11, volume=600.0),
        five(2, 4),
        five(3, 4, volume=600.0),
        five(4, 7, volume=600),
    ]
    assert fired_at({"timeframe": "5m", "all": [{"any": [high, low]}, loud]}, bars) == [1, 3]
    assert fired_at({"timeframe": "5m", "any": [{"all": [high, loud]}, low]}, bars) == [1, 2, 3]


@pytest.mark.parametrize("name", ["vwap", "trade_count"])
def test_what_a_bar_lacks_makes_a_term_untrue(name):
    bars = [five(0, 10), {**five(1, 10), name: None}, five(2, 10)]
    for operator in ("above", "below", "at_least", "at_most"):
        right = {"value": 0.0 if operator in ("above", "at_least") else 99.0}
        assert fired_at(on({"field": name}, operator, right), bars) == [0, 2]
    for kind in ("average", "highest", "lowest"):
        assert fired_at(on({kind: name, "bars": 1}, "above", {"value": 0.0}), bars) == [1]


# --- when it fires ------------------------------------------------------------------------------------------

ALWAYS_TRUE = on(CLOSE, "above", {"value": 0.0})


def test_frequencies():
    two_days = [*closes(1, 1, 1), bar("A", "5m", ny("2024-07-02T09:30"), ny("2024-07-02T09:35"), 1.0)]
    ids = {}
    for frequency in (Frequency.ONCE, Frequency.BAR, Frequency.DAILY):
        bucket = Bucket()
        bucket.changes(change(7, ALWAYS_TRUE, version=3, frequency=frequency))
        ids[frequency] = [event["id"] for row in two_days for event in bucket.bars(row)]
    assert ids[Frequency.ONCE] == ["7-3-0"]
    assert ids[Frequency.BAR] == [f"7-3-0-{row['ts']}" for row in two_days]
    assert ids[Frequency.DAILY] == ["7-3-0-2024-07-01", "7-3-0-2024-07-02"]


def test_cooldown_since_until_and_fired():
    bars = closes(*[1.0] * 6)
    assert fired_at(ALWAYS_TRUE, bars, cooldown=2 * SPAN) == [0, 2, 4]
    assert fired_at(ALWAYS_TRUE, bars, since=OPEN + 2 * SPAN, until=OPEN + 4 * SPAN) == [2, 3]
    assert fired_at(ALWAYS_TRUE, bars, fired=OPEN + 2 * SPAN) == [2, 3, 4, 5]
    assert fired_at(ALWAYS_TRUE, bars, fired=OPEN + 2 * SPAN, cooldown=3 * SPAN) == [4]
    assert fired_at(ALWAYS_TRUE, bars, fired=OPEN + 2 * SPAN, frequency=Frequency.ONCE) == []
    assert fired_at(ALWAYS_TRUE, bars, fired=OPEN + 2 * SPAN, frequency=Frequency.DAILY) == []


def test_an_edit_takes_over_at_its_since_and_an_end_ends():
    bucket = Bucket()
    at = OPEN + 2 * SPAN
    bucket.changes(change(1, ALWAYS_TRUE), change(1, ALWAYS_TRUE, version=2, since=at))
    bucket.changes(change(1, None, version=3, since=at + 2 * SPAN), change(1, ALWAYS_TRUE, version=2))
    found = [event["version"] for row in closes(*[1.0] * 6) for event in bucket.bars(row)]
    assert found == [1, 1, 2, 2]


def test_what_comes_late_twice_or_corrected_does_not_fire():
    bucket = Bucket()
    bucket.changes(change(1, on(CLOSE, "above", TEN)))
    bucket.bars(five(0, 9.0), five(2, 9.0))
    assert not bucket.bars(five(0, 11.0, revision=1))
    assert not bucket.bars(five(1, 11.0))
    assert not bucket.bars(five(2, 11.0))
    assert not bucket.bars(five(3, 11.0, complete=False))
    assert len(bucket.bars(five(3, 11.0), five(3, 11.0, final=True))) == 1
    assert not bucket.bars(five(3, 11.0, final=True))


def test_a_correction_counts_for_the_bars_after_it():
    bucket = Bucket()
    bucket.changes(change(1, on(CLOSE, "above", {"field": "high", "back": 1})))
    bucket.bars(five(0, 10.0))
    bucket.bars(five(0, 10.0, high=12.0, revision=1))
    assert not bucket.bars(five(1, 11.0))


def test_a_condition_that_cannot_be_judged_waits_for_nothing():
    bucket = Bucket()
    bucket.changes(
        {**change(1, ALWAYS_TRUE), "condition": "{"},
        change(2, on(CLOSE, "above", TEN, "1h")),
        change(3, {"timeframe": "5m"}),
        change(4, ALWAYS_TRUE),
        change(5, None),
    )
    assert bucket.refused == 3
    assert [event["alert"] for event in bucket.bars(five(0))] == [4]


# --- splits -------------------------------------------------------------------------------------------------


def split(day: str, factor: float) -> dict:
    return {"symbol": "A", "kind": 2, "day": days(day)[0], "value": factor}


def test_a_split_rescales_kept_prices_volume_and_numbers():
    """Four shares out of one on 2 July."""
    before, (basis,) = daily("2024-07-01", 400.0, volume=100.0, trade_count=7), days("2024-07-01")
    after = daily("2024-07-02", 101.0, volume=401.0, trade_count=8)
    cases = {
        "a price": (on(CLOSE, "above", {"field": "close", "back": 1}, "1d"), 100.0),
        "an average": (on(CLOSE, "above", {"average": "high", "bars": 1}, "1d"), 100.0),
        "a number": (on(CLOSE, "above", {"value": 400.0}, "1d"), 100.0),
        "volume": (on({"field": "volume"}, "above", {"field": "volume", "back": 1}, "1d"), 400.0),
        "a volume": (on({"field": "volume"}, "above", {"value": 100.0}, "1d"), 400.0),
        "a count": (on({"field": "trade_count"}, "above", {"field": "trade_count", "back": 1}, "1d"), 7.0),
    }
    for name, (condition, level) in cases.items():
        bucket = Bucket()
        bucket.changes(change(1, condition, basis=basis))
        bucket.bars(before)
        bucket.facts(split("2024-07-02", 0.25), {**split("2024-07-02", 9.0), "kind": 1})
        bucket.memo = Memo()
        (event,) = bucket.bars(after)
        assert (event["level"], event["previous"]) == (level, 100.0), name


def test_a_number_of_the_new_shares_is_left_alone():
    bucket = Bucket()
    bucket.facts(split("2024-07-02", 0.25))
    bucket.changes(change(1, on(CLOSE, "above", {"value": 100.0}, "1d"), basis=days("2024-07-02")[0]))
    assert not bucket.bars(daily("2024-07-01", 100.0))
    (event,) = bucket.bars(daily("2024-07-02", 101.0))
    assert event["level"] == 100.0


# --- seeds --------------------------------------------------------------------------------------------------


def test_bars_are_asked_for_once_and_once_more():
    asked = []

    def reader(symbols: Any, timeframe: str, end: int, count: int) -> Any:
        asked.append((list(symbols), timeframe, end, count))
        return bars_table([daily("2024-06-27", 10.0, "2d", "2024-06-28"), five(3, 99.0, "OTHER")])

    bucket = Bucket(reader)
    condition = on(CLOSE, "above", {"field": "high", "timeframe": "2d"})
    bucket.changes(change(1, condition), change(2, condition, "B"))
    assert (asked, bucket.awaits) == ([], False)
    assert [event["alert"] for event in bucket.bars(five(0, 11.0))] == [1]
    end = OPEN + SPAN + PLAN.lateness_us
    assert asked == [(["A", "B"], "5m", end, 16), (["A", "B"], "2d", end, 24)]
    assert bucket.awaits
    bucket.bars(five(1, 9.0))
    assert len(asked) == 2
    bucket.call("ask_again")
    assert asked[2:] == [(["A", "B"], "5m", end, 15), (["A", "B"], "2d", end, 23)]
    assert not bucket.awaits
    bucket.call("ask_again")
    # Another alert needs more.
    bucket.changes(change(3, on(CLOSE, "above", {"average": "close", "bars": 30})))
    bucket.bars(five(2, 9.0))
    assert asked[4:] == [(["A"], "5m", end + 2 * SPAN, 45)]


def test_bars_that_ended_after_one_that_is_told_again_are_asked_for_too():
    """The first table after an alert was made is a correction of an older bar."""
    bucket = Bucket(Lake([closes(10.0, 10.0, 20.0)]))
    bucket.changes(change(1, on(CLOSE, "above", {"field": "close", "back": 1}), since=OPEN + 3 * SPAN))
    bucket.bars(five(1, 10.5, revision=1))
    assert not bucket.bars(five(3, 15.0))
    assert bucket.bars(five(4, 15.5))


def test_a_lake_that_cannot_be_read_is_asked_again():
    lake = Lake([[daily("2024-06-27", 10.0, "2d", "2024-06-28")]])
    lake.is_there = False
    bucket = Bucket(lake)
    bucket.changes(change(1, on(CLOSE, "above", {"field": "high", "timeframe": "2d"})))
    assert not bucket.bars(five(0, 11.0))
    bucket.call("ask_again")
    assert bucket.awaits
    lake.is_there = True
    bucket.memo = Memo()
    bucket.call("ask_again")
    assert not bucket.awaits
    assert bucket.bars(five(1, 11.0))


def test_what_the_stream_told_is_not_replaced_by_the_lake():
    lake = Lake([[five(0, 99.0), five(1, 99.0)]])
    bucket = Bucket(lake)
    bucket.changes(change(1, on(CLOSE, "above", {"field": "close", "back": 1})))
    bucket.bars(five(0, 10.0))
    bucket.call("ask_again")
    assert bucket.bars(five(1, 11.0))
    assert bucket.bars(five(2, 12.0))


# --- state --------------------------------------------------------------------------------------------------


def test_a_bucket_without_alerts_costs_nothing():
    bucket = Bucket()
    assert not bucket.bars(five(0))
    bucket.facts({**split("2024-07-02", 0.25), "kind": 1})
    assert bucket.cells.writes == 0
    bucket.facts(split("2024-07-02", 0.25))
    writes = bucket.cells.writes
    bucket.facts(split("2024-07-02", 0.25))
    bucket.bars(five(1), five(2))
    assert bucket.cells.writes == writes


def test_bars_that_no_alert_needs_are_not_written():
    bucket = Bucket()
    bucket.changes(change(1, ALWAYS_TRUE))
    bucket.bars(five(0))
    writes = bucket.cells.writes
    bucket.bars(five(1, symbol="B"), daily("2024-06-28"), bar("A", "1h", OPEN, OPEN + 12 * SPAN))
    bucket.bars(five(0, final=True))
    bucket.bars()
    assert bucket.cells.writes == writes


def test_what_is_over_is_forgotten(monkeypatch):
    monkeypatch.setattr("fibflow.transforms.alerts.barcells._PARTS", 0)
    bucket = Bucket()
    bucket.changes(
        change(1, ALWAYS_TRUE, frequency=Frequency.ONCE),
        change(2, ALWAYS_TRUE, until=OPEN + SPAN),
        change(3, ALWAYS_TRUE, "B"),
        change(3, None, "B", version=2, since=OPEN),
    )
    bucket.bars(five(0), five(0, symbol="B"))
    bucket.bars(five(1))
    assert bucket.memo.held is not None
    assert not len(bucket.memo.held.book.versions)
    assert not len(bucket.memo.held.shelf.rows())
    assert not any(bucket.cells.bags.values())
    # A version that was known is not in force again; a new one is.
    bucket.changes(change(1, ALWAYS_TRUE, version=2))
    assert [event["id"] for event in bucket.bars(five(2))] == [f"1-2-0-{OPEN + 2 * SPAN}"]


def test_state_of_other_options_or_releases_is_refused():
    bucket = Bucket()
    bucket.changes(change(1, ALWAYS_TRUE))
    bucket.memo = Memo()
    other = Bucket(plan=Plan(XNYS, parse_timeframes("5m")))
    other.cells = bucket.cells
    with pytest.raises(StateError, match="was made with 'XNYS 5m,15m,1d,2d 16 buckets'"):
        other.bars(five(0))
    bucket.cells.values["head"] = b"\x09" + bucket.cells.values["head"][1:]
    with pytest.raises(StateError, match="state cell head of alerts on bars has format 9"):
        bucket.bars(five(0))
    with pytest.raises(ValueError, match="0 buckets: give 1 or more"):
        Plan(XNYS, PLAN.timeframes, 0)


def test_an_event_says_what_is_not_there():
    bucket = Bucket()
    either = [ALWAYS_TRUE["all"][0], {**ALWAYS_TRUE["all"][0], "right": {"field": "close", "back": 1}}]
    bucket.changes(change(1, {"timeframe": "5m", "any": either[::-1]}))
    (event,) = bucket.bars(five(0))
    assert math.isnan(event["previous"])
    assert math.isnan(event["level"])


def test_averages_of_many_symbols_are_worked_out_some_at_a_time(monkeypatch):
    monkeypatch.setattr("fibflow.transforms.alerts.barjudge._AT_ONCE", 7)
    bucket = Bucket()
    wide = on({"average": "close", "bars": 3}, "at_least", TEN)
    bucket.changes(*(change(n, wide, f"S{n}") for n in range(9)))
    bucket.bars(*(five(k, symbol=f"S{n}") for n in range(8) for k in range(3)))
    found = bucket.bars(*(five(3, symbol=f"S{n}") for n in range(9)))
    assert [event["symbol"] for event in found] == [f"S{n}" for n in range(8)]
