from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings

from fibflow.tests.transforms import tick_oracle
from fibflow.tests.transforms.streams import (
    END,
    MINUTE,
    ODD_LOT,
    Bucket,
    compared,
    content,
    identity,
    kept,
    key,
    letters,
    minute,
    stream_table,
    trade,
)
from fibflow.tests.transforms.tables import by_key, calendar, dicts, ny
from fibflow.tests.transforms.tick_worlds import TickWorld, tick_worlds
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.livebars import LiveBars, Plan, StreamPolicy
from fibflow.transforms.livebucket import MOST_PARTS, Memo
from fibflow.transforms.livecells import HEAD, MINUTES, REVISIONS, SEEN, StateError
from fibflow.transforms.schemas import TRADE_INPUT
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import Anchor, TimeframeError, parse_timeframes

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T09:30")
LATENESS = 15 * MINUTE


def plan(timeframes: str = "1m,5m,1d", lateness: int = LATENESS) -> Plan:
    return Plan(BarSpec(parse_timeframes(timeframes), XNYS), StreamPolicy(lateness))


def bucket(timeframes: str = "1m", lateness: int = LATENESS) -> Bucket:
    return Bucket(plan(timeframes, lateness))


# --- the theorem --------------------------------------------------------------------------------------------


class Stream:
    """Feeds a world to one bucket as a runner may, and breaks down now and then."""

    def __init__(self, world: TickWorld) -> None:
        self.world, self.numbers = world, world.numbers
        self.bucket = Bucket(Plan(world.spec, StreamPolicy(world.lateness)), world.numbers)
        self.watermark = 0
        self.done = 0

    def run(self) -> Bucket:
        numbers, rows = self.numbers, self.world.rows
        self.bucket.checkpoint()
        saved = (0, 0)
        while self.done < len(rows):
            piece = rows[self.done : self.done + numbers.choice([1, 2, 7, 40])]
            self.done += len(piece)
            self.bucket.add(piece)
            # The watermark trails the newest row, more or less; timers may come late.
            behind = numbers.choice([0, 1, 5_000_000, MINUTE, 9 * MINUTE])
            newest = max(row["ts"] for row in rows[: self.done])
            self.watermark = max(self.watermark, newest - behind)
            if numbers.random() < 0.7:
                self.bucket.advance(self.watermark)
            chance = numbers.random()
            if chance < 0.1:
                self.bucket.memo = Memo()
            elif chance < 0.2:
                self.bucket.checkpoint()
                saved = (self.done, self.watermark)
            elif chance < 0.3:
                self.bucket.restore(keep_memo=numbers.random() < 0.5)
                self.done, self.watermark = saved
        self.bucket.advance(END)
        return self.bucket


@given(tick_worlds())
@settings(max_examples=200)
def test_bars_of_the_stream_are_bars_of_its_rows_without_the_late_ones(world: TickWorld):
    ended = Stream(world).run()
    late = Counter(identity(row) for row in ended.rows("late"))
    assert set(late.values()) <= {1}
    rest = [row for row in world.rows if identity(row) not in late]
    made, dead = aggregate_ticks(stream_table(rest), world.spec) if rest else ([], None)
    bars = ended.rows("bars")
    assert compared(kept(bars).values()) == compared(by_key(made).values())
    # No less by brute force, which shares no code with either.
    counted, lost, strays = tick_oracle.choose(rest, world.oracle)
    expected = tick_oracle.make_bars(counted, world.oracle, world.timeframes, world.anchor)
    assert compared(kept(bars).values()) == compared(expected.values())
    # Each row is used, or it is in one place that says why not; which of two equal trades is open.
    names = ["reason", "symbol", "ts", "open", "volume"] + ["origin"] * (world.feed == "minutes")
    assert letters(ended.rows("dead_letters"), *names) == (
        letters(dicts(dead), *names) if dead else Counter()
    )
    assert len(world.rows) == len(counted) + len(lost) + len(strays) + len(late)
    # Nothing stays behind.
    assert ended.timer is None
    assert set(ended.cells.values) <= {HEAD}
    assert not any(ended.cells.bags.values())


@given(tick_worlds())
@settings(max_examples=50)
def test_the_clock_is_past_what_was_dropped(world: TickWorld):
    """What is due has a timer, so the clock says of each row whether its windows are still there.

    A row is late exactly when its minute's end plus the lateness is at or before the last timer that fired;
    by then, and not before, each of its windows that ended so long ago is final.
    """
    own = Bucket(Plan(world.spec, StreamPolicy(world.lateness)))
    clock = 0
    final: set = set()
    for row in world.rows:
        output = own.add([row])
        horizon = row["ts"] - row["ts"] % MINUTE + MINUTE + world.lateness
        stray = tick_oracle.session_of(row, world.oracle) is None
        assert (output.late is not None) == (horizon <= clock and not stray)
        opened = own.look()
        for bars in (dicts(output.bars) if output.bars is not None else [], opened[1] if opened else []):
            assert not final & {key(bar) for bar in bars}
        own.advance(row["ts"])
        if own.fired:
            assert own.fired == sorted(set(own.fired))
            clock = own.fired[-1]
        bars = own.rows("bars")
        final = {key(bar) for bar in bars if bar["final"]}
        due = {key(bar) for bar in bars if bar["end"] + world.lateness <= clock}
        assert final == due


# --- one thing at a time ------------------------------------------------------------------------------------


def states(rows: Iterable[dict]) -> list[tuple]:
    return [(bar["timeframe"], bar["close"], bar["complete"], bar["final"], bar["revision"]) for bar in rows]


def test_a_bar_from_open_to_final():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    own.look()
    assert states(own.seen.values()) == [("1m", 10.0, False, False, 0)]
    own.add([trade("A", OPEN + 1, 2, 11.0)])
    own.look()
    assert states(own.seen.values()) == [("1m", 11.0, False, False, 0)]
    own.advance(OPEN + MINUTE)
    assert own.look() == (True, [])
    own.add([trade("A", OPEN + 2, 3, 12.0)])
    own.advance(END)
    assert states(own.rows("bars")) == [
        ("1m", 11.0, True, False, 0),
        ("1m", 12.0, True, False, 1),
        ("1m", 12.0, True, True, 1),
    ]
    assert own.fired == [OPEN + MINUTE, OPEN + MINUTE + LATENESS]


def test_a_timer_that_comes_late_closes_and_ends_at_once():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    own.timer = OPEN + 2 * LATENESS
    own.advance(END)
    assert states(own.rows("bars")) == [("1m", 10.0, True, True, 0)]


def test_only_bars_of_symbols_that_changed_go_out():
    own = bucket("1m,5m")
    own.add([trade(name, OPEN, 1, 10.0) for name in "ABC"])
    own.look()
    assert len(own.seen) == 6
    assert own.look() is None
    own.add([trade("B", OPEN + MINUTE, 2, 21.0), trade("A", OPEN + 6 * MINUTE, 2, 11.0)])
    told = own.look()
    assert told is not None
    whole, changed = told
    assert not whole
    assert sorted(key(bar) for bar in changed) == [
        ("A", "1m", OPEN),
        ("A", "1m", OPEN + 6 * MINUTE),
        ("A", "5m", OPEN),
        ("A", "5m", OPEN + 5 * MINUTE),
        ("B", "1m", OPEN),
        ("B", "1m", OPEN + MINUTE),
        ("B", "5m", OPEN),
    ]


def test_a_late_row_that_changes_nothing_gives_nothing():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    own.advance(OPEN + MINUTE)
    assert own.add([trade("A", OPEN + 1, 2, 99.0, rules=0)]).bars is None
    own.advance(END)
    assert [bar["revision"] for bar in own.rows("bars")] == [0, 0]


def test_a_window_may_get_its_first_bar_after_its_end():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0, rules=ODD_LOT)])
    own.advance(OPEN + MINUTE)
    assert own.rows("bars") == []
    output = own.add([trade("A", OPEN + 1, 2, 11.0)])
    assert output.bars is not None
    assert states(dicts(output.bars)) == [("1m", 11.0, True, False, 0)]
    assert dicts(output.bars)[0]["volume"] == 200.0


def test_content_that_changes_and_changes_back_counts_each_time():
    own = bucket()
    own.add([minute("A", OPEN, 10.0, 1, 1)])
    own.advance(OPEN + MINUTE)
    for version, price in ((2, 11.0), (3, 10.0), (2, 12.0)):
        own.add([minute("A", OPEN, price, version, version)])
    own.advance(END)
    assert [(bar["close"], bar["revision"], bar["final"]) for bar in own.rows("bars")] == [
        (10.0, 0, False),
        (11.0, 1, False),
        (10.0, 2, False),
        (10.0, 2, True),
    ]
    assert sorted(row["close"] for row in own.rows("dead_letters")) == [10.0, 11.0, 12.0]


def test_a_superseded_minute_keeps_its_values_and_its_origin():
    own = bucket()
    first = minute("A", OPEN, 10.0, 1, 7, volume=0.1234567, vwap=None, trade_count=None)
    own.add([first])
    own.add([minute("A", OPEN, 11.0, 2, 9)])
    (letter,) = own.rows("dead_letters")
    assert letter["origin"] == f"kinesis:{first['shard']}/{first['sequence']}/0/7"
    assert [letter[name] for name in ("close", "volume", "vwap", "trade_count")] == [
        10.0,
        0.1234567,
        None,
        None,
    ]


@pytest.mark.parametrize("apart", [0, MINUTE, 12 * MINUTE], ids=["same minute", "next minute", "other slot"])
def test_a_key_that_was_seen_counts_once(apart):
    own = bucket()
    own.add([trade("A", OPEN, 5, 10.0, number=1), trade("A", OPEN + 14 * MINUTE, 9, 10.0, number=2)])
    own.add([trade("A", OPEN + apart, 5, 11.0, number=3), trade("A", OPEN, 4, 9.0, number=4)])
    (letter,) = own.rows("dead_letters")
    assert (letter["reason"], letter["open"], letter["volume"]) == ("duplicate", 11.0, 100.0)


def test_keys_of_one_element():
    own = bucket()
    own.add([trade("A", OPEN, 5, 10.0, number=1), trade("A", OPEN, 5, 11.0, number=2)])
    own.add([trade("A", OPEN, 5, 12.0, number=3)])
    own.advance(END)
    assert [bar["open"] for bar in own.rows("bars")] == [10.0, 10.0]
    assert sorted(row["open"] for row in own.rows("dead_letters")) == [11.0, 12.0]


def test_a_stream_that_catches_up_closes_some_minutes_at_a_time():
    own = bucket()
    own.add([trade("A", OPEN + minute * MINUTE, minute, 10.0) for minute in range(60)])
    own.advance(OPEN + 15 * MINUTE)
    assert own.fired == []
    own.advance(OPEN + 60 * MINUTE)
    assert [(clock - OPEN) // MINUTE for clock in own.fired[:4]] == [16, 32, 48, 54]
    assert len({bar["ts"] for bar in own.rows("bars")}) == 60


def test_a_wrong_clock_does_not_hold_up_a_stream():
    own = bucket()
    own.add([trade("B", OPEN + 300 * MINUTE, 1, 10.0)])
    for number in range(30):
        own.add([trade("A", OPEN + number * MINUTE, number, 10.0)])
        own.advance(OPEN + number * MINUTE)
    assert [(clock - OPEN) // MINUTE for clock in own.fired] == list(range(1, 30))


def test_a_timer_that_is_set_is_not_put_off():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    own.add([trade("A", OPEN + 60 * MINUTE, 2, 10.0)])
    own.advance(OPEN + MINUTE)
    assert own.fired == [OPEN + MINUTE]


def test_late_rows_say_what_the_bucket_had_seen():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0), trade("A", OPEN + 60 * MINUTE, 2, 10.0)])
    own.advance(OPEN + 30 * MINUTE)
    clock = own.fired[-1]
    assert clock == OPEN + MINUTE + LATENESS
    row = trade("A", OPEN + 3, 3, 10.0)
    own.add([row, trade("A", OPEN + 61 * MINUTE, 4, 10.0)])
    (late,) = own.rows("late")
    assert identity(late) == identity(row)
    assert {name: late[name] for name in ("kind", "symbol", "ts", "seq", "horizon", "period")} == {
        "kind": "T",
        "symbol": "A",
        "ts": OPEN + 3,
        "seq": 3,
        "horizon": clock,
        "period": "2024-07-02",
    }


def test_late_minutes():
    own = bucket(lateness=0)
    own.add([minute("A", OPEN, 10.0, 1, 1)])
    own.advance(OPEN + MINUTE)
    own.add([minute("A", OPEN, 11.0, 2, 2)])
    (late,) = own.rows("late")
    assert (late["kind"], late["seq"]) == ("AM", None)


def test_both_feeds_do_not_mix():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    with pytest.raises(ValueError, match="rows of minutes came to a bucket of trades: make bars from one"):
        own.add([minute("A", OPEN, 10.0, 1, 1)])


def test_no_rows():
    own = bucket()
    output = own.add(TRADE_INPUT.empty_table())
    assert (output.bars, output.late, output.dead_letters, output.timer) == (None, None, (), None)
    assert own.cells.size() == 0


def test_rows_of_no_session_alone():
    own = bucket()
    own.add([trade("A", ny("2024-07-04T10:00"), 1, 10.0)])
    assert [row["reason"] for row in own.rows("dead_letters")] == ["not_a_session"]
    assert own.timer is None


def test_a_timer_that_was_moved_may_still_fire():
    own = bucket()
    own.add([trade("A", OPEN + MINUTE, 1, 10.0)])
    due = own.timer
    assert due == OPEN + 2 * MINUTE
    output = LiveBars(own.plan, own.cells, own.memo).advance(OPEN)
    assert (output.bars, output.timer) == (None, due)
    again = LiveBars(own.plan, own.cells, own.memo).advance(OPEN)
    assert (again.bars, again.timer) == (None, due)


# --- state --------------------------------------------------------------------------------------------------


def steady(own: Bucket, minutes: Iterable[int], symbols: int = 3, a_minute: int = 2) -> None:
    """Trades of each minute, the watermark five seconds behind."""
    for number in minutes:
        for part in range(a_minute):
            ts = OPEN + number * MINUTE + part * (MINUTE // a_minute)
            seq = number * a_minute + part
            own.add([trade(f"S{place}", ts, seq, 10.0 + part) for place in range(symbols)])
            own.advance(ts - 5_000_000)


def test_state_stays_as_large_as_the_horizon():
    own = Bucket(plan("1m,5m,15m,1h,4h,1d"))
    sizes = []
    for start in range(0, 380, 20):
        steady(own, range(start, start + 20))
        sizes.append(own.cells.size(*MINUTES, *SEEN))
        oldest = own.fired[-1] - LATENESS - 5 * MINUTE
        assert own.memo.ring is not None
        assert own.memo.ring.minutes.min() >= oldest - MINUTE
        assert len(own.memo.ring.minutes) <= 22
    assert max(sizes[2:]) <= 1.2 * min(sizes[2:])
    own.advance(END)
    assert set(own.cells.values) == {HEAD}
    assert own.cells.size() < 400


def test_what_an_element_writes_does_not_grow_with_the_state():
    own = Bucket(plan("intraday,1d"))
    steady(own, range(60), symbols=50)
    before = own.cells.written
    own.add([trade("S7", OPEN + 60 * MINUTE, 9999, 10.0)])
    assert own.cells.written - before < 400 + len(own.cells.values[HEAD])


def test_bags_of_many_parts_are_put_together():
    own, other = bucket("1m,5m"), bucket("1m,5m")
    rows = [
        trade("A", OPEN + number, number, 10.0 + number % 7, number=number)
        for number in range(3 * MOST_PARTS)
    ]
    numbers = random.Random(5)
    numbers.shuffle(rows)
    for row in rows:
        own.add([row])
        assert max(map(len, own.cells.bags.values())) <= MOST_PARTS + 2
    own.look()
    own.add([row | {"place": 1} for row in rows])
    assert own.look() is None
    assert len(own.rows("dead_letters")) == len(rows)
    other.add(rows)
    own.advance(END)
    other.advance(END)
    assert compared(kept(own.rows("bars")).values()) == compared(kept(other.rows("bars")).values())


def test_minutes_far_ahead_of_the_clock_share_slots():
    """A backlog: an hour comes before any timer fires. Slots hold several turns of the ring."""
    own = Bucket(plan("1m,5m,1d"))
    rows = [trade("A", OPEN + number * MINUTE // 2, number, 10.0, number=number) for number in range(240)]
    for start in range(0, len(rows), 8):
        own.add(rows[start : start + 8])
    own.advance(OPEN + 40 * MINUTE)
    again = [row | {"place": 10_000 + row["place"]} for row in rows[100:120]]
    own.add(again)
    assert len(own.rows("dead_letters")) == len(again)
    own.advance(END)
    made, _ = aggregate_ticks(stream_table(rows), BarSpec(own.plan.timeframes, XNYS))
    assert compared(kept(own.rows("bars")).values()) == compared(by_key(made).values())


def test_an_error_in_a_call_leaves_no_half_done_state():
    own = bucket()
    own.add([trade("A", OPEN, 1, 10.0)])
    own.checkpoint()
    good = own.cells.append

    def broken(name: str, part: bytes) -> None:
        raise OSError("no space")

    own.cells.append = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        own.add([trade("A", OPEN + 1, 2, 99.0)])
    own.cells.append = good  # type: ignore[method-assign]
    own.add([trade("A", OPEN + 2, 3, 11.0)])
    own.advance(END)
    assert [content(bar)[2] for bar in own.rows("bars")] == [11.0, 11.0]


def test_state_of_other_options_is_refused():
    own = bucket("1m")
    own.add([trade("A", OPEN, 1, 10.0)])
    with pytest.raises(
        StateError, match=r"made with '1m midnight XNYS .*' the job has|made with '1m midnight"
    ):
        LiveBars(plan("5m"), own.cells)


@pytest.mark.parametrize("name", [HEAD, MINUTES[1], REVISIONS, "base", SEEN[1]])
def test_state_of_another_release_is_refused(name):
    own = bucket("1m,1h")
    steady(own, range(28))
    ts = OPEN + 25 * MINUTE
    own.add([trade("S0", ts, 1000, 50.0), trade("S1", ts, 1000, 50.0, rules=ODD_LOT)])
    own.memo = Memo()
    cells = own.cells
    if name in cells.values:
        cells.values[name] = b"\x02" + cells.values[name][1:]
    else:
        bag = next(each for each in cells.bags if each.startswith(name[:-1]) and cells.bags[each])
        cells.bags = {
            each: [b"\x02" + part[1:] for part in parts] if each.startswith(bag[:-1]) else parts
            for each, parts in cells.bags.items()
        }
    with pytest.raises(StateError, match="has format 2, this release reads 1"):
        own.add([trade("S0", ts, 51, 10.0, number=77), trade("S0", ts + 1, 1001, 60.0)])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"lateness_us": -1}, "lateness of -1 us: give whole milliseconds"),
        ({"lateness_us": 1500}, "lateness of 1500 us: give whole milliseconds"),
        ({"buckets": 0}, "0 buckets: give 1 or more"),
    ],
)
def test_policies_that_make_no_sense(policy, message):
    with pytest.raises(ValueError, match=message):
        StreamPolicy(**policy)


@pytest.mark.parametrize(
    "options",
    [{"as_of": 1}, {"start": 1}, {"end": 1}, {"changed_from": 1}, {"complete_only": True}],
    ids=lambda options: next(iter(options)),
)
def test_options_of_history_are_refused(options: Any):
    with pytest.raises(ValueError, match="bars of a stream take no as_of, start"):
        Plan(BarSpec(parse_timeframes("1m"), XNYS, **options), StreamPolicy())


def test_several_sessions_are_counted_as_the_exchange_does():
    spec = BarSpec(parse_timeframes("1m,5d"), XNYS, anchor=Anchor.LISTING)
    with pytest.raises(TimeframeError, match="timeframe 5d: a stream counts sessions from the anchor exch"):
        Plan(spec, StreamPolicy())


def test_several_sessions_come_with_history():
    with pytest.raises(TimeframeError, match="timeframe 5d: bars of several sessions come with history"):
        aggregate_ticks(TRADE_INPUT.empty_table(), BarSpec(parse_timeframes("1m,5d"), XNYS))


def test_an_element_is_not_changed():
    """A runner may pass one object to several transforms."""
    table = stream_table([trade("A", OPEN, seq, 10.0) for seq in (2, 1, 1)])
    before = table.to_pylist()
    bucket().add(table)
    assert table.to_pylist() == before
