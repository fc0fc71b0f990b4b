from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from fibflow.tests.transforms import tick_oracle
from fibflow.tests.transforms.streams import (
    ALL,
    MINUTE,
    ODD_LOT,
    compared,
    content,
    letters,
    minute,
    stream_table,
    trade,
)
from fibflow.tests.transforms.tables import by_key, calendar, dicts, ny
from fibflow.tests.transforms.tick_worlds import TickWorld, tick_worlds
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.partials import Partials, concat, merge
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT
from fibflow.transforms.ticks import NO_OPEN, aggregate_ticks, fold_trades
from fibflow.transforms.timeframe import IntradayAnchor, TimeframeError, parse_timeframes

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T09:30")
CLOSE = ny("2024-07-02T16:00")


def spec(timeframes: str = "intraday,1d", **options) -> BarSpec:
    return BarSpec(parse_timeframes(timeframes), XNYS, **options)


def bars(rows: list[dict], timeframes: str = "1m", **options) -> dict:
    made, _ = aggregate_ticks(stream_table(rows), spec(timeframes, **options))
    return by_key(made)


@given(tick_worlds())
def test_bars_are_those_of_the_oracle_in_any_order_and_cut(world: TickWorld):
    if not world.rows:
        return
    counted, lost, strays = tick_oracle.choose(world.rows, world.oracle)
    expected = tick_oracle.make_bars(counted, world.oracle, world.timeframes, world.anchor)
    shuffled = world.numbers.sample(world.rows, len(world.rows))
    for rows in (stream_table(world.rows), pa.concat_tables([stream_table([row]) for row in shuffled])):
        made, dead = aggregate_ticks(rows, world.spec)
        assert compared(by_key(made).values()) == compared(expected.values())
        found = letters(dicts(dead), "reason", "symbol", "ts", "origin")
        names = [("duplicate", row) for row in lost] + [("not_a_session", row) for row in strays]
        assert found == letters(
            [{**row, "reason": reason, "origin": origin_of(row)} for reason, row in names],
            *("reason", "symbol", "ts", "origin"),
        )


def origin_of(row: dict) -> str:
    return f"kinesis:{row['shard']}/{row['sequence']}/{row['sub']}/{row['place']}"


def test_rules_of_trades():
    """Volume counts alone; a price that may not open or close still counts for high and low."""
    rows = [
        trade("A", OPEN + 1, 1, 50.0, 100, rules=0b001),
        trade("A", OPEN + 2, 2, 10.0, 200, rules=0b010),
        trade("A", OPEN + 3, 3, 12.0, 300, rules=0b111),
        trade("A", OPEN + 4, 4, 99.0, 400, rules=0b100),
        trade("A", OPEN + 5, 5, 1.0, 500, rules=0b000),
    ]
    (bar,) = bars(rows).values()
    assert [bar[name] for name in ("open", "high", "low", "close")] == [10.0, 50.0, 10.0, 12.0]
    assert (bar["volume"], bar["trade_count"]) == (700.0, 2)
    assert bar["vwap"] == pytest.approx((300 * 12 + 400 * 99) / 700)


@pytest.mark.parametrize(
    ("ts", "counts"),
    [(OPEN - 1, False), (OPEN, True), (CLOSE - 1, True), (CLOSE, False)],
    ids=["before the open", "at the open", "before the close", "at the close"],
)
def test_the_trades_minute_decides_which_rules_hold(ts, counts):
    made = bars([trade("A", ts, 1, 10.0, rules=0b000111)])
    assert bool(made) is counts
    made = bars([trade("A", ts, 1, 10.0, rules=0b111000)])
    assert bool(made) is not counts


def test_a_window_without_an_opening_trade_has_no_bar_but_its_volume_counts_in_longer_ones():
    rows = [
        trade("A", OPEN, 1, 10.0, 1),
        trade("A", OPEN + MINUTE, 2, 99.0, 2, rules=ODD_LOT),
        trade("B", OPEN, 1, 10.0, 1, rules=ODD_LOT),
    ]
    made = bars(rows, "1m,5m")
    assert sorted(made) == [("A", "1m", OPEN), ("A", "5m", OPEN)]
    five = made["A", "5m", OPEN]
    assert (five["open"], five["high"], five["volume"], five["trade_count"]) == (10.0, 10.0, 3.0, 2)


def test_a_day_has_prices_of_regular_hours_and_volume_of_all():
    rows = [
        trade("A", OPEN - MINUTE, 1, 1.0, 1),
        trade("A", OPEN, 2, 10.0, 2),
        trade("A", CLOSE - MINUTE, 3, 11.0, 4),
        trade("A", CLOSE, 4, 99.0, 8),
        trade("B", OPEN - MINUTE, 1, 1.0, 1),
    ]
    (bar,) = bars(rows, "1d").values()
    assert [bar[name] for name in ("symbol", "open", "high", "low", "close")] == ["A", 10.0, 11.0, 10.0, 11.0]
    assert (bar["volume"], bar["trade_count"], bar["ts"]) == (15.0, 4, ny("2024-07-02T00:00"))


def test_ties_in_time_break_on_the_sequence_number():
    rows = [trade("A", OPEN, seq, float(seq)) for seq in (7, 3, 5)]
    (bar,) = bars(rows).values()
    assert (bar["open"], bar["close"]) == (3.0, 7.0)


def test_of_trades_with_one_key_the_first_of_the_stream_counts():
    """The order is that of integers, not of texts, and no order of rows matters."""
    rows = [
        trade("A", OPEN, 1, 10.0) | {"sequence": "9", "place": 1},
        trade("A", OPEN + 1, 1, 20.0) | {"sequence": "9", "place": 0},
        trade("A", OPEN + MINUTE, 1, 30.0) | {"sequence": "10", "place": 0},
    ]
    for order in (rows, rows[::-1], [rows[1], rows[0], rows[2]]):
        made, dead = aggregate_ticks(stream_table(order), spec("1m"))
        assert [bar["open"] for bar in by_key(made).values()] == [20.0]
        assert sorted(row["open"] for row in dicts(dead)) == [10.0, 30.0]


def test_one_number_in_two_sessions_is_no_duplicate():
    rows = [trade("A", OPEN, 1, 10.0), trade("A", ny("2024-07-03T09:30"), 1, 20.0)]
    assert len(bars(rows)) == 2


def test_the_greatest_version_of_a_minute_counts():
    rows = [
        minute("A", OPEN, price, version, number) for version, price, number in ((2, 20.0, 1), (1, 10.0, 9))
    ]
    rows.append(minute("A", OPEN, 30.0, 2, 0) | {"sequence": "9" * 54})
    made, dead = aggregate_ticks(stream_table(rows), spec("1m"))
    assert [bar["open"] for bar in by_key(made).values()] == [20.0]
    assert sorted(row["open"] for row in dicts(dead)) == [10.0, 30.0]
    assert dead["reason"].to_pylist() == ["duplicate", "duplicate"]


@pytest.mark.parametrize(
    ("name", "value"), [("vwap", None), ("vwap", -1.0), ("trade_count", None), ("trade_count", -1)]
)
def test_a_minute_that_lacks_a_value_makes_the_windows_null(name, value):
    rows = [minute("A", OPEN, 10.0, 1, 1), minute("A", OPEN + MINUTE, 10.0, 1, 2, **{name: value})]
    made = bars(rows, "1m,5m")
    assert [
        made["A", frame, ts][name] is None
        for frame, ts in (("1m", OPEN), ("1m", OPEN + MINUTE), ("5m", OPEN))
    ] == [
        False,
        True,
        True,
    ]


def test_as_of_and_the_bounds_of_what_is_written():
    rows = [trade("A", OPEN + number * MINUTE, number, 10.0) for number in range(10)]
    made = bars(rows, "5m", as_of=OPEN + 7 * MINUTE)
    assert [(bar["complete"], bar["final"], bar["volume"]) for bar in made.values()] == [
        (True, True, 500.0),
        (False, False, 200.0),
    ]
    assert len(bars(rows, "5m", as_of=OPEN + 7 * MINUTE, complete_only=True)) == 1
    assert bars(rows, "5m", as_of=OPEN) == {}
    starts = {ts for _, _, ts in bars(rows, "1m", start=OPEN + MINUTE, end=OPEN + 3 * MINUTE)}
    assert starts == {OPEN + MINUTE, OPEN + 2 * MINUTE}
    assert len(bars(rows, "1m", changed_from=OPEN + 9 * MINUTE)) == 1


@pytest.mark.parametrize("schema", [TRADE_INPUT, MINUTE_INPUT], ids=["trades", "minutes"])
def test_no_rows(schema):
    assert [len(part) for part in [*aggregate_ticks(schema.empty_table(), spec())[0]]] == []


def test_rows_of_no_session():
    made, dead = aggregate_ticks(stream_table([trade("A", ny("2024-07-04T10:00"), 1, 10.0)]), spec())
    assert made == []
    assert dead["reason"].to_pylist() == ["not_a_session"]


def test_bars_of_several_sessions_are_refused():
    with pytest.raises(TimeframeError, match="timeframe 3d: bars of several sessions come with history"):
        aggregate_ticks(stream_table([trade("A", OPEN, 1, 10.0)]), spec("1m,3d"))


def test_anchors():
    rows = [trade("A", OPEN, 1, 10.0)]
    assert [ts for _, _, ts in bars(rows, "1h")] == [ny("2024-07-02T09:00")]
    assert [ts for _, _, ts in bars(rows, "1h", intraday_anchor=IntradayAnchor.OPEN)] == [OPEN]


def one_minute(rows: list[dict]) -> Partials:
    table = stream_table(rows)
    n = len(rows)
    seq = np.array([row["seq"] for row in rows])
    symbols = pa.array(["A"], pa.string())
    zeros = np.zeros(n, np.int32)
    return fold_trades(symbols, zeros, np.full(n, OPEN), np.ones(n, np.bool_), seq, table)


def test_partials_without_prices_merge_with_any():
    """The sentinels need no care: merging in any grouping gives what folding all at once gives."""
    rows = [
        trade("A", OPEN + n, n, 10.0 + n, 1, rules=rules) for n, rules in enumerate((4, 1, 7, 4, 7, 2, 4))
    ]
    whole = one_minute(rows)
    parts = [one_minute([row]) for row in rows]
    assert parts[0].open_ts.tolist() == [NO_OPEN]
    merged = merge(concat([merge(concat(parts[:3])), merge(concat(parts[3:]))]))
    assert merged.to_arrow().equals(whole.to_arrow())


def test_a_volume_that_does_not_fit_is_refused():
    rows = [trade("A", OPEN, seq, 10.0, 1e11) for seq in range(100)]
    with pytest.raises(OverflowError, match="volume reaches"):
        bars(rows)


def test_content_is_compared_whole():
    (bar,) = bars([trade("A", OPEN, 1, 10.0, rules=ALL)]).values()
    assert content(bar) == (OPEN + MINUTE, 10.0, 10.0, 10.0, 10.0, 100.0, 10.0, 1, 1, True, True)
