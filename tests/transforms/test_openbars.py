"""Open bars as they are let out: whoever is told of changes sees what there is, whatever broke down."""

from __future__ import annotations

from copy import copy
from typing import Any

from apache_beam.utils.timestamp import Timestamp
from hypothesis import given, settings

from fibflow.tests.transforms.streams import MINUTE, Bucket, MemoryCells, content, key, stream_table, trade
from fibflow.tests.transforms.tables import calendar, dicts, ny
from fibflow.tests.transforms.tick_worlds import TickWorld, tick_worlds
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.livebars import Plan, StreamPolicy
from fibflow.transforms.livebucket import Memo
from fibflow.transforms.livecells import BASE, HEAD, MINUTES, NEVER, REVISIONS, SEEN
from fibflow.transforms.livedofn import OPEN as OPEN_TAG
from fibflow.transforms.livedofn import LiveBarsFn
from fibflow.transforms.openbars import Flush, Pace
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import parse_timeframes

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T09:30")
SPEC = BarSpec(parse_timeframes("1m,5m"), XNYS)


@given(tick_worlds())
@settings(max_examples=100)
def test_what_is_seen_is_what_the_rows_so_far_make(world: TickWorld):
    """Of the rows that were not late, by the plain twin: its windows that have not ended."""
    numbers = world.numbers
    bucket = Bucket(Plan(world.spec, StreamPolicy(world.lateness)), numbers)
    given_rows: list[dict] = []
    saved: list[dict] = []
    bucket.checkpoint()
    for at in range(0, len(world.rows), 5):
        piece = world.rows[at : at + 5]
        output = bucket.add(piece)
        late = [] if output.late is None else dicts(output.late)
        gone = {(row["shard"], row["sequence"], row["sub"], row["place"]) for row in late}
        given_rows += [
            row for row in piece if (row["shard"], row["sequence"], row["sub"], row["place"]) not in gone
        ]
        if numbers.random() < 0.5:
            bucket.advance(max(row["ts"] for row in world.rows[: at + 5]) - numbers.choice([0, 9 * MINUTE]))
        chance = numbers.random()
        if chance < 0.1:
            bucket.memo = Memo()
        elif chance < 0.2:
            bucket.checkpoint()
            saved = list(given_rows)
        elif chance < 0.3:
            bucket.restore(keep_memo=numbers.random() < 0.5)
            given_rows = list(saved)
        if numbers.random() < 0.5:
            bucket.look(numbers.choice(["one", "one", "one", "other"]))
            assert view(bucket) == expected(given_rows, world.spec, clock_of(bucket))


def view(bucket: Bucket) -> dict:
    return {name: content(bar) for name, bar in bucket.seen.items()}


def clock_of(bucket: Bucket) -> int:
    return NEVER if bucket.memo.head is None else bucket.memo.head.clock


def expected(rows: list[dict], spec: BarSpec, clock: int) -> dict:
    made, _ = aggregate_ticks(stream_table(rows), spec) if rows else ([], None)
    bars = [{**bar, "complete": False, "final": False} for part in made for bar in dicts(part)]
    return {key(bar): content(bar) for bar in bars if bar["end"] > clock}


def test_what_left_the_ring_before_it_was_told_is_told():
    bucket = Bucket(Plan(BarSpec(parse_timeframes("4h"), XNYS), StreamPolicy(MINUTE)))
    bucket.add([trade("B", OPEN, 1, 5.0)])
    bucket.look()
    bucket.add([trade("A", OPEN, 1, 10.0), trade("A", OPEN + 40 * MINUTE, 2, 11.0)])
    bucket.advance(OPEN + 30 * MINUTE)
    told = bucket.look()
    assert told is not None
    assert not told[0]
    assert {name[0]: bar["open"] for name, bar in bucket.seen.items()} == {"A": 10.0, "B": 5.0}


# --- the pace -----------------------------------------------------------------------------------------------


class Cell:
    """One of Beam's cells over a bucket's."""

    def __init__(self, cells: MemoryCells, name: str) -> None:
        self.cells, self.name = cells, name

    def read(self) -> Any:
        return (self.cells.parts if self.name in (*MINUTES, *SEEN) else self.cells.read)(self.name)

    def write(self, value: bytes) -> None:
        self.cells.write(self.name, value)

    def add(self, part: bytes) -> None:
        self.cells.append(self.name, part)

    def clear(self) -> None:
        self.cells.clear(self.name)


class Value:
    """A cell of one value."""

    def __init__(self) -> None:
        self.value: Any = None

    def read(self) -> Any:
        return self.value

    def write(self, value: Any) -> None:
        self.value = value


class Timer:
    """At most one instant, as a key's timer; None when it is not set."""

    def __init__(self) -> None:
        self.at: int | None = None

    def set(self, at: Timestamp) -> None:
        self.at = at.micros


class Marker:
    """A marker that the test changes."""

    def __init__(self) -> None:
        self.says = "one"
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def current(self) -> str:
        assert self.is_open
        return self.says

    def close(self) -> None:
        self.is_open = False


class Paced:
    """One key of the DoFn, its state and its timers, at a time that only goes on when told to."""

    def __init__(self, marker: Marker | None = None, timeframes: str = "1m,5m") -> None:
        self.now = 1_000.0
        self.spec = BarSpec(parse_timeframes(timeframes), XNYS)
        self.marker = marker
        self.cells = MemoryCells()
        self.clocks = Value()
        self.timers = {name: Timer() for name in ("due", "flush", "check")}
        self.seq = 0
        self.start()

    def start(self) -> None:
        """A worker's own instance, as after a restore: state and timers stay."""
        pace = Pace(marker=self.marker, clock=lambda: self.now)
        self.fn = LiveBarsFn(self.spec, StreamPolicy(), pace)
        self.fn.setup()

    def states(self, *more: str) -> dict[str, Any]:
        names = [("head", HEAD), ("base", BASE), ("revisions", REVISIONS)]
        names += [(f"m{n}", name) for n, name in enumerate(MINUTES)]
        names += [(f"s{n}", name) for n, name in enumerate(SEEN) if "seen" in more]
        timers = {name: self.timers[name] for name in more if name in self.timers}
        return {short: Cell(self.cells, name) for short, name in names} | timers | {"clocks": self.clocks}

    def come(self, symbol: str, price: float, at: int = OPEN) -> list[Flush]:
        self.seq += 1
        rows = stream_table([trade(symbol, at, self.seq, price)])
        return self._out(self.fn.process((7, rows), **self.states("seen", "due", "flush", "check")))

    def close(self, clock: int) -> list[Flush]:
        self.timers["due"].at = None
        more = self.states("seen", "due", "flush", "check")
        return self._out(self.fn.close(7, clock=Timestamp(micros=clock), **more))

    def wait(self, seconds: float) -> list[Flush]:
        """Let time pass, and processing timers fire in their order."""
        end, out = self.now + seconds, []
        while due := [name for name in ("flush", "check") if (self.timers[name].at or 1 << 62) / 1e6 <= end]:
            name = min(due, key=lambda name: self.timers[name].at or 0)
            self.now = max(self.now, (self.timers[name].at or 0) / 1e6)
            out += self.fire(name)
        self.now = end
        return out

    def fire(self, name: str) -> list[Flush]:
        self.timers[name].at = None
        more = (name,)
        return self._out(getattr(self.fn, f"on_{name}")(7, **self.states(*more)))

    def _out(self, made: Any) -> list[Flush]:
        return [Flush(*each.value) for each in made if getattr(each, "tag", None) == OPEN_TAG]


def closes(flush: Flush) -> list[tuple]:
    return sorted((bar["symbol"], bar["close"]) for bar in dicts(flush.bars) if bar["timeframe"] == "1m")


def test_the_first_change_goes_out_at_once_and_the_next_ones_together():
    paced = Paced()
    (first,) = paced.come("A", 1.0)
    assert (first.bucket, first.whole, closes(first)) == (7, True, [("A", 1.0)])
    assert paced.come("A", 2.0) == []
    assert paced.come("B", 1.0) == []
    assert paced.come("A", 3.0) == []
    assert paced.wait(0.249) == []
    (second,) = paced.wait(0.001)
    assert (second.whole, closes(second)) == (False, [("A", 3.0), ("B", 1.0)])
    assert second.stamp == first.stamp + 250_000
    assert paced.wait(100) == []
    assert [flush.whole for flush in paced.come("A", 4.0)] == [False]


def test_days_go_out_apart_and_less_often():
    paced = Paced(timeframes="1m,1d")
    first = paced.come("A", 1.0)
    assert [(flush.of_days, flush.whole, len(flush.bars)) for flush in first] == [
        (False, True, 1),
        (True, True, 1),
    ]
    assert first[1].stamp == first[0].stamp + 1
    assert paced.come("A", 2.0) == []
    assert [flush.of_days for flush in paced.wait(0.25)] == [False]
    assert paced.wait(0.7) == []
    (of_days,) = paced.wait(0.1)
    assert (of_days.of_days, of_days.whole, dicts(of_days.bars)[0]["close"]) == (True, False, 2.0)
    assert paced.wait(100) == []


def test_a_minute_that_ended_sends_no_days():
    paced = Paced(timeframes="1m,1d")
    paced.come("A", 1.0)
    paced.now += 10
    assert [(flush.of_days, flush.whole) for flush in paced.close(OPEN + MINUTE)] == [(False, True)]


def test_a_timer_that_fires_before_its_time_lets_all_out():
    """A runner that drains fires at once what it is given."""
    paced = Paced(timeframes="1m,1d")
    paced.come("A", 1.0)
    assert paced.come("A", 2.0) == []
    assert [flush.of_days for flush in paced.fire("flush")] == [False, True]
    assert paced.timers["flush"].at is None


def test_a_timer_of_days_gives_way_to_minutes():
    paced = Paced(timeframes="1m,1d")
    paced.come("A", 1.0)
    paced.now += 0.3
    assert [flush.of_days for flush in paced.come("A", 2.0)] == [False]
    assert paced.timers["flush"].at == int(1_001e6)
    assert paced.come("A", 3.0) == []
    assert [flush.of_days for flush in paced.wait(0.26)] == [False]
    assert [flush.of_days for flush in paced.wait(1)] == [True]


def test_a_change_after_the_interval_takes_along_what_waits():
    paced = Paced()
    paced.come("A", 1.0)
    paced.come("B", 1.0)
    paced.now += 1
    (late,) = paced.come("C", 1.0)
    assert [row[0] for row in closes(late)] == ["B", "C"]
    assert paced.fire("flush") == []


def test_a_window_that_ended_is_told_by_all_that_are_open():
    paced = Paced()
    paced.come("A", 1.0)
    paced.come("B", 2.0, OPEN + MINUTE)
    assert paced.close(OPEN + MINUTE) == []
    (told,) = paced.wait(1)
    assert (told.whole, closes(told)) == (True, [("B", 2.0)])


def test_the_last_window_is_told_of_at_once():
    paced = Paced()
    paced.come("A", 1.0)
    (told,) = paced.close(OPEN + 100 * MINUTE)
    assert (told.whole, len(told.bars)) == (True, 0)


def test_a_new_worker_sends_all_once():
    paced = Paced()
    paced.come("A", 1.0)
    paced.come("B", 1.0)
    paced.start()
    (whole,) = paced.wait(1)
    assert (whole.whole, [row[0] for row in closes(whole)]) == (True, ["A", "B"])
    assert [flush.whole for flush in paced.come("A", 2.0)] == [False]


def test_instances_of_one_worker_share_what_was_told():
    paced = Paced()
    other = copy(paced.fn)
    other.setup()
    paced.come("A", 1.0)
    paced.fn = other
    paced.now += 1
    assert [flush.whole for flush in paced.come("A", 2.0)] == [False]


def test_an_instance_after_a_bundle_that_failed_sends_all():
    paced = Paced()
    paced.come("A", 1.0)
    paced.come("B", 1.0)
    paced.fn = copy(paced.fn)
    paced.fn.setup()
    (whole,) = paced.wait(1)
    assert (whole.whole, [row[0] for row in closes(whole)]) == (True, ["A", "B"])


def test_a_quiet_bucket_sends_all_when_the_marker_changes():
    marker = Marker()
    paced = Paced(marker)
    paced.come("A", 1.0)
    assert paced.wait(30) == []
    marker.says = "two"
    (whole,) = paced.wait(5)
    assert (whole.whole, closes(whole)) == (True, [("A", 1.0)])
    assert paced.wait(30) == []
    paced.fn.teardown()
    assert not marker.is_open


def test_a_check_that_fires_before_its_time_is_not_set_again():
    """A runner that drains fires at once what it is given."""
    paced = Paced(Marker())
    paced.come("A", 1.0)
    assert paced.fire("check") == []
    assert paced.timers["check"].at is None


def test_a_clock_that_went_back_holds_nothing_up_and_stamps_grow():
    paced = Paced()
    (first,) = paced.come("A", 1.0)
    paced.now -= 100
    (second,) = paced.come("A", 2.0)
    assert second.stamp == first.stamp + 1


def test_nobody_asks_and_nothing_is_kept():
    fn = LiveBarsFn(SPEC, StreamPolicy())
    fn.setup()
    paced = Paced()
    paced.fn = fn
    assert paced.come("A", 1.0) == []
    assert paced.timers["flush"].at is None
    assert [news.changed for news in fn._memos.take(7).news] == [[], []]


def test_without_an_interval_each_change_goes_out():
    paced = Paced()
    paced.fn = LiveBarsFn(SPEC, StreamPolicy(), Pace(0, 0, clock=lambda: paced.now))
    paced.fn.setup()
    assert [closes(flush) for at in (1.0, 2.0) for flush in paced.come("A", at)] == [
        [("A", 1.0)],
        [("A", 2.0)],
    ]
