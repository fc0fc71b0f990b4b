"""Windows of several sessions, live: history, ticks and corrections in any order, against brute force."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle, tick_oracle
from fibflow.tests.transforms.streams import (
    END,
    MINUTE,
    Bucket,
    compared,
    identity,
    kept,
    key,
    origin,
    stream_table,
    trade,
)
from fibflow.tests.transforms.tables import by_key, calendar, days, dicts, ny, row, table
from fibflow.tests.transforms.tick_worlds import make_minutes, make_trades
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.history import Note, note_of, split_history, with_note
from fibflow.transforms.livebars import LiveBars, Plan, StreamPolicy
from fibflow.transforms.livebucket import Memo
from fibflow.transforms.livecells import DAYS, HEAD, StateError
from fibflow.transforms.schemas import DAILY_ROWS
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import parse_timeframes

SYMBOLS = ["A", "AA", "BRK.B", "é"]
FRAMES = ("1m,1d,3d,5d", "2d,3d,34d", "4h,3d,8d,13d,21d,34d", "2d")


@dataclass
class LongWorld:
    """Ticks of some sessions in the order of arrival, and history with corrections between them.

    ``changes`` are (place in the rows, whether these are all rows, official rows); the first comes first.
    """

    name: str
    rows: list[dict] = field(repr=False)
    changes: list[tuple[int, bool, list[dict]]] = field(repr=False)
    through: date
    since: date
    timeframes: list[str]
    lateness: int
    numbers: random.Random = field(repr=False)

    @property
    def calendar(self) -> TradingCalendar:
        return calendar(self.name)

    @property
    def oracle(self) -> oracle.Calendar:
        return oracle.calendar(self.name)

    @property
    def spec(self) -> BarSpec:
        return BarSpec(parse_timeframes(self.timeframes), self.calendar)

    def history(self, changes: int) -> list[dict]:
        """The official rows after so many of the changes."""
        found: dict[tuple[str, date], dict] = {}
        for _, whole, rows in self.changes[:changes]:
            if whole:
                found = {}
            found |= {(each["symbol"], each["session"]): each for each in rows}
        return list(found.values())

    def elements(self, number: int) -> pa.Table:
        _, whole, rows = self.changes[number]
        through, since = days(self.through.isoformat(), self.since.isoformat())
        return with_note(daily(rows), Note(number + 1, through, since if whole else None))


def daily(rows: list[dict]) -> pa.Table:
    return table(rows, DAILY_ROWS, rank=False)


def official(numbers: random.Random, symbol: str, session: date) -> dict:
    low, opening, close, high = sorted(numbers.uniform(1, 99) for _ in range(4))
    return row(
        symbol,
        session,
        opening,
        low=low,
        high=high,
        close=close,
        volume=numbers.choice([0.0, 7.25, 1234567.0, 1e10]),
        vwap=numbers.choice([opening, opening, 12.3456789, None]),
        trade_count=numbers.choice([5, 17, 170_000, None]),
    )


@st.composite
def long_worlds(draw: st.DrawFn) -> LongWorld:
    name = draw(st.sampled_from(["XNYS", "XNYS", "AIXK", "24/7"]))
    feed = draw(st.sampled_from(["trades", "minutes"]))
    numbers = random.Random(draw(st.integers(0, 2**32)))
    of = oracle.calendar(name)
    first = of.index[date(2024, 7, 2) if name != "AIXK" else date(2024, 2, 29)] - numbers.randrange(6)
    timeframes = [str(each) for each in parse_timeframes(draw(st.sampled_from(FRAMES)))]
    sessions = [of.sessions[first + n] for n in range(5) if n == 0 or numbers.random() < 0.7]
    if numbers.random() < 0.3:
        # Ticks of a session that is history's.
        sessions.insert(0, of.sessions[first - 1])
    longest = max(int(each[:-1]) for each in timeframes if each.endswith("d"))
    before = [of.sessions[first - n].day for n in range(1, longest + 3)]
    symbols = SYMBOLS[: draw(st.integers(1, 4))]
    make = make_trades if feed == "trades" else make_minutes
    rows = []
    for symbol in symbols:
        for session in sessions:
            if numbers.random() < 0.8:
                rows += make(numbers, symbol, session, draw(st.sampled_from([2, 6])))
    rows += [dict(each) for each in rows if numbers.random() < 0.05]
    delays = draw(st.sampled_from([(0,), (0, 0, 4 * MINUTE), (0, 0, 0, 14 * MINUTE, 70 * MINUTE)]))
    rows.sort(key=lambda each: each["ts"] + numbers.randint(0, 1 + numbers.choice(delays)))
    rows = [{**each, **origin(number)} for number, each in enumerate(rows)]
    listed = [*symbols, "GONE"]
    past = [official(numbers, symbol, day) for symbol in listed for day in before if numbers.random() < 0.8]
    changes = [(0, True, past)]
    for _ in range(draw(st.integers(0, 3))):
        place = numbers.randrange(len(rows) + 1)
        if numbers.random() < 0.2:
            again = [each for each in past if numbers.random() < 0.9]
            changes.append((place, True, again))
            continue
        around = [*before, *(session.day for session in sessions), of.sessions[first + 7].day]
        some = {(numbers.choice(listed), numbers.choice(around)) for _ in range(numbers.choice([1, 3, 9]))}
        changes.append((place, False, [official(numbers, *each) for each in sorted(some)]))
    changes[1:] = sorted(changes[1:], key=lambda change: change[0])
    lateness = draw(st.sampled_from([0, 90_000_000, 15 * MINUTE]))
    return LongWorld(name, rows, changes, before[0], before[-1], timeframes, lateness, numbers)


class Stream:
    """Feeds a world to one bucket as a runner may, and breaks down now and then."""

    def __init__(self, world: LongWorld) -> None:
        self.world, self.numbers = world, world.numbers
        self.bucket = Bucket(Plan(world.spec, StreamPolicy(world.lateness)), world.numbers)
        self.watermark = self.done = self.changed = 0
        #: How many changes had come when each output did.
        self.known: list[int] = []

    def _note(self) -> None:
        self.known += [self.changed] * (len(self.bucket.out) - len(self.known))

    def _history(self) -> None:
        while self.changed < len(self.world.changes) and self.world.changes[self.changed][0] <= self.done:
            element = self.world.elements(self.changed)
            self.changed += 1
            self.bucket.take_history(element)
            self._note()

    def run(self) -> Bucket:
        numbers, rows = self.numbers, self.world.rows
        self._history()
        self.bucket.checkpoint()
        saved = (0, 0, self.changed, len(self.known))
        while self.done < len(rows):
            piece = rows[self.done : self.done + numbers.choice([1, 2, 7, 40])]
            self.done += len(piece)
            self.bucket.add(piece)
            self._note()
            self._history()
            behind = numbers.choice([0, 1, 5_000_000, MINUTE, 9 * MINUTE])
            newest = max(each["ts"] for each in rows[: self.done])
            self.watermark = max(self.watermark, newest - behind)
            if numbers.random() < 0.7:
                self.bucket.advance(self.watermark)
                self._note()
            chance = numbers.random()
            if chance < 0.1:
                self.bucket.memo = Memo()
            elif chance < 0.2:
                self.bucket.checkpoint()
                saved = (self.done, self.watermark, self.changed, len(self.known))
            elif chance < 0.3:
                self.bucket.restore(keep_memo=numbers.random() < 0.5)
                self.done, self.watermark, self.changed, known = saved
                del self.known[known:]
        self._history()
        self.bucket.advance(END)
        self._note()
        return self.bucket


def expected(world: LongWorld, rows: list[dict], changes: int) -> dict[tuple[str, str, int], dict]:
    """Bars of several sessions by brute force, of those windows that history has not ended."""
    counted, _, _ = tick_oracle.choose(rows, world.oracle)
    of = world.oracle
    known = {}
    for bar in tick_oracle.make_bars(counted, of, ["1d"], "midnight").values():
        session = of.session_at(bar["ts"]).day
        if session > world.through:
            known[bar["symbol"], session] = {**bar, "session": session}
    for each in world.history(changes):
        known[each["symbol"], each["session"]] = each
    accepted = [
        oracle.accept({**each, "ts": 0}, of, "minutes") | {"time": each["session"]} for each in known.values()
    ]
    frames = [each for each in world.timeframes if each.endswith("d") and each != "1d"]
    made = oracle.make_bars(accepted, of, frames, as_of=END)
    begun = of.sessions[of.index[world.through]].end
    return {name: bar for name, bar in made.items() if bar["end"] > begun}


@given(long_worlds())
@settings(max_examples=150)
def test_bars_of_several_sessions_are_those_of_history_and_of_the_ticks_that_count(world: LongWorld):
    stream = Stream(world)
    ended = stream.run()
    late = {identity(each) for each in ended.rows("late")}
    rest = [each for each in world.rows if identity(each) not in late]
    known = [
        (changes, bar)
        for changes, output in zip(stream.known, ended.out, strict=True)
        for bar in (dicts(output.bars) if output.bars is not None else [])
    ]
    best = kept(bar for _, bar in known)
    # A bar whose days were all withdrawn between its end and its being final stays, and is not final.
    names = {key(bar) for bar in best.values() if bar["final"]}
    by_changes = [expected(world, rest, changes) for changes in range(len(world.changes) + 1)]
    seen = 0
    for changes, bar in known:
        if bar["final"] and key(bar) in by_changes[changes]:
            assert compared([best[key(bar)]]) == compared([by_changes[changes][key(bar)]])
            seen += 1
    long = {name for name in names if name[1].endswith("d") and name[1] != "1d"}
    assert seen == len(long)
    # Bars that no correction brought or took.
    assert long >= set.intersection(*map(set, by_changes[1:]))
    short, _ = aggregate_ticks(
        stream_table(rest) if rest else stream_table([trade("A", 0, 0, 1.0)]).slice(0, 0),
        world.spec,
        daily(world.history(len(world.changes))),
        days(world.through.isoformat())[0],
    )
    others = {"1m", "4h", "1d"}
    plain = [bar for bar in by_key(short).values() if bar["timeframe"] in others]
    assert compared(bar for bar in best.values() if bar["timeframe"] in others) == compared(plain)
    assert ended.timer is None
    assert set(ended.cells.values) <= {HEAD}
    assert not any(ended.cells.bags.values())


@given(long_worlds())
@settings(max_examples=60)
def test_batch_of_history_and_ticks_is_brute_force(world: LongWorld):
    if not world.rows:
        return
    changes = len(world.changes)
    made, _ = aggregate_ticks(
        stream_table(world.rows),
        BarSpec(world.spec.timeframes, world.calendar, as_of=END),
        daily(world.history(changes)),
        days(world.through.isoformat())[0],
    )
    told = expected(world, world.rows, changes)
    mine = {name: bar for name, bar in by_key(made).items() if name in told}
    assert compared(mine.values()) == compared(told.values())


# --- one thing at a time ------------------------------------------------------------------------------------

XNYS = calendar("XNYS")
#: A 3d window holds the last session of history and the two after it; one of 13d goes on.
HISTORY = [date(2024, 4, day) for day in (24, 25, 26)]
FIRST, SECOND, THIRD = ny("2024-04-29T09:30"), ny("2024-04-30T09:30"), ny("2024-05-01T09:30")
DAY = 24 * 60 * MINUTE


def plan(timeframes: str = "3d", lateness: int = 15 * MINUTE) -> Plan:
    return Plan(BarSpec(parse_timeframes(timeframes), XNYS), StreamPolicy(lateness))


def element(rows: list[dict], version: int = 1, whole: bool = True, through: str = "2024-04-26") -> pa.Table:
    (last,) = days(through)
    return with_note(daily(rows), Note(version, last, days("2024-04-01")[0] if whole else None))


def begun(*symbols: str, timeframes: str = "3d", price: float = 10.0) -> Bucket:
    """A bucket that has its history."""
    own = Bucket(plan(timeframes))
    own.take_history(element([row(symbol, day, price) for symbol in symbols for day in HISTORY]))
    return own


def shown(own: Bucket) -> dict[tuple[str, str], tuple]:
    """The open bars that somebody sees: high, low, close, volume, sessions."""
    own.look()
    names = ("high", "low", "close", "volume", "sessions")
    return {
        (bar["symbol"], bar["timeframe"]): tuple(bar[name] for name in names) for bar in own.seen.values()
    }


def finals(own: Bucket) -> dict[tuple[str, str], tuple]:
    best = kept(own.rows("bars")).values()
    return {
        (bar["symbol"], bar["timeframe"]): (bar["high"], bar["close"], bar["volume"], bar["sessions"])
        for bar in best
        if bar["final"]
    }


def test_where_windows_lie():
    """The dates above say what they do."""
    grid = plan().days
    assert grid is not None
    (window,) = grid.windows(XNYS.positions(np.array(days("2024-04-29"))).astype(np.int64))
    assert (window.start, window.end) == (ny("2024-04-26"), ny("2024-05-01"))


def test_nothing_of_several_sessions_is_shown_before_history_is_in():
    own = Bucket(plan("1m,3d"))
    own.add([trade("A", FIRST, 1, 12.0)])
    assert set(shown(own)) == {("A", "1m")}
    own.take_history(element([row("A", HISTORY[-1], 10.0)]))
    assert shown(own)["A", "3d"] == (12.0, 10.0, 12.0, 200.0, 2)


def test_history_is_shown_before_any_trade():
    own = begun("A", "B", timeframes="3d,5d")
    assert shown(own) == {
        (symbol, frame): (10.0, 10.0, 10.0, 100.0 * sessions, sessions)
        for symbol in ("A", "B")
        for frame, sessions in (("3d", 1), ("5d", 3))
    }


def test_a_trade_moves_the_windows_of_its_symbol_alone():
    own = begun("A", "B")
    own.look()
    own.add([trade("A", FIRST, 1, 12.0, 7)])
    whole, bars = own.look() or (None, [])
    assert not whole
    assert [(bar["symbol"], bar["high"], bar["volume"]) for bar in bars] == [("A", 12.0, 107.0)]


def test_days_before_regular_hours_have_none():
    """Volume of extended hours is the day's, once the day has a price."""
    own = begun("A")
    own.add([trade("A", FIRST - 60 * MINUTE, 1, 99.0, 5)])
    assert shown(own)["A", "3d"] == (10.0, 10.0, 10.0, 100.0, 1)
    own.add([trade("A", FIRST, 2, 12.0, 7)])
    assert shown(own)["A", "3d"] == (12.0, 10.0, 12.0, 112.0, 2)


def test_a_correction_of_history_moves_open_windows():
    own = begun("A", "B")
    own.add([trade("A", FIRST, 1, 12.0)])
    own.look()
    own.take_history(element([row("B", HISTORY[-1], 30.0)], 2, whole=False))
    whole, bars = own.look() or (None, [])
    assert (whole, [(bar["symbol"], bar["close"]) for bar in bars]) == (False, [("B", 30.0)])
    # One that comes late, or again, changes nothing.
    own.take_history(element([row("B", HISTORY[-1], 20.0)], 1, whole=False))
    assert shown(own)["B", "3d"][2] == 30.0
    assert shown(own)["A", "3d"][2] == 12.0


def test_history_landed_anew_takes_rows_away():
    own = begun("A", "B", timeframes="5d")
    own.take_history(element([row("A", HISTORY[-1], 11.0)], 2))
    assert shown(own) == {("A", "5d"): (11.0, 11.0, 11.0, 100.0, 1)}


def test_windows_close_on_symbols_without_a_trade_and_not_before_their_end():
    own = begun("A", "QUIET", "GONE")
    own.add([trade("A", FIRST, 1, 12.0), trade("NEW", FIRST, 1, 5.0)])
    # The feed is silent for ten minutes, and for the night.
    own.advance(FIRST + 10 * MINUTE)
    own.add([trade("A", SECOND, 1, 9.0)])
    own.advance(ny("2024-05-01") - 1)
    assert own.rows("bars") == []
    own.advance(ny("2024-05-01"))
    assert {(bar["symbol"], bar["sessions"], bar["final"]) for bar in own.rows("bars")} == {
        ("A", 3, False),
        ("QUIET", 1, False),
        ("GONE", 1, False),
        ("NEW", 1, False),
    }
    own.advance(ny("2024-05-01") + 15 * MINUTE)
    assert finals(own) == {
        ("A", "3d"): (12.0, 9.0, 300.0, 3),
        ("QUIET", "3d"): (10.0, 10.0, 100.0, 1),
        ("GONE", "3d"): (10.0, 10.0, 100.0, 1),
        ("NEW", "3d"): (5.0, 5.0, 100.0, 1),
    }
    # Nothing was asked for but 3d.
    assert {bar["timeframe"] for bar in own.rows("bars")} == {"3d"}


def test_days_that_ticks_made_stay_until_their_windows_are_final():
    own = begun("A", timeframes="3d,13d")
    own.add([trade("A", FIRST, 1, 12.0)])
    own.advance(FIRST + DAY)
    own.memo = Memo()
    assert shown(own)["A", "3d"] == (12.0, 10.0, 12.0, 200.0, 2)
    # The official row of that day, landed in the evening, stands in its place.
    own.take_history(element([row("A", date(2024, 4, 29), 13.0, volume=1.0)], 2, whole=False))
    assert shown(own)["A", "3d"] == (13.0, 10.0, 13.0, 101.0, 2)
    own.add([trade("A", THIRD, 1, 9.0)])
    own.advance(THIRD)
    assert finals(own) == {("A", "3d"): (13.0, 13.0, 101.0, 2)}
    assert len(own.cells.bags[DAYS]) < 8
    own.advance(END)
    assert finals(own)["A", "13d"][1:] == (9.0, 401.0, 5)


def test_a_correction_between_end_and_final_is_a_revision():
    own = begun("A", "B")
    own.advance(ny("2024-05-01"))
    own.take_history(element([row("A", HISTORY[-1], 30.0)], 2, whole=False))
    own.advance(END)
    bars = [(bar["symbol"], bar["close"], bar["revision"], bar["final"]) for bar in own.rows("bars")]
    assert sorted(bars) == [
        ("A", 10.0, 0, False),
        ("A", 30.0, 1, False),
        ("A", 30.0, 1, True),
        ("B", 10.0, 0, False),
        ("B", 10.0, 0, True),
    ]
    assert not own.cells.values.keys() - {HEAD}


def test_a_late_trade_revises_windows_of_several_sessions():
    own = begun("A")
    own.add([trade("A", SECOND, 1, 12.0)])
    own.advance(ny("2024-05-01"))
    # A minute before midnight: its price is of no regular hours, its volume counts.
    own.add([trade("A", ny("2024-05-01") - MINUTE, 2, 99.0, 5)])
    own.advance(END)
    assert finals(own) == {("A", "3d"): (12.0, 12.0, 205.0, 2)}
    assert [bar["revision"] for bar in own.rows("bars")] == [0, 1, 1]


def test_days_that_have_not_come_are_not_looked_at():
    own = begun("A")
    own.add([trade("A", FIRST, 1, 12.0)])
    own.take_history(element([row("A", date(2024, 4, 30), 77.0)], 2, whole=False))
    assert shown(own)["A", "3d"] == (12.0, 10.0, 12.0, 200.0, 2)
    own.add([trade("A", SECOND, 1, 9.0)])
    assert shown(own)["A", "3d"] == (77.0, 10.0, 77.0, 300.0, 3)


def test_history_that_comes_after_the_end_of_a_window_makes_its_bar_at_once():
    own = Bucket(plan("1d,3d"))
    own.add([trade("A", FIRST, 1, 12.0), trade("A", SECOND, 1, 9.0)])
    own.advance(ny("2024-05-01") + MINUTE)
    output = own.take_history(element([row("A", HISTORY[-1], 10.0)]))
    assert output.bars is not None
    (bar,) = dicts(output.bars)
    assert (bar["timeframe"], bar["close"], bar["sessions"], bar["final"]) == ("3d", 9.0, 3, False)
    own.advance(END)
    assert finals(own)["A", "3d"] == (12.0, 9.0, 300.0, 3)


def test_days_of_an_earlier_job_stand_for_official_ones():
    own = Bucket(plan())
    (through,) = days("2024-04-29")
    own.take_history(with_note(daily([row("A", HISTORY[-1], 10.0)]), Note(1, through, days("2024-04-01")[0])))
    filled = [row("A", date(2024, 4, 29), 12.0)]
    own.take_history(with_note(daily(filled), Note(0, through, official=False)))
    # Ticks of that session are not this job's to count.
    own.add([trade("A", FIRST, 1, 50.0)])
    assert shown(own)["A", "3d"] == (12.0, 10.0, 12.0, 200.0, 2)
    own.take_history(with_note(daily([row("A", date(2024, 4, 29), 13.0)]), Note(2, through)))
    assert shown(own)["A", "3d"] == (13.0, 10.0, 13.0, 200.0, 2)


def test_a_calendar_that_counts_otherwise_is_refused():
    own = begun("A")
    later = Plan(BarSpec(parse_timeframes("3d"), XNYS.without("2024-04-25")), StreamPolicy())
    with pytest.raises(
        StateError, match="calendar XNYS has changed up to 2024-04-26 since the state was made"
    ):
        LiveBars(later, own.cells)


def test_a_session_taken_out_of_the_calendar_after_its_ticks_is_refused():
    own = begun("A", timeframes="13d")
    own.add([trade("A", FIRST, 1, 12.0)])
    own.advance(FIRST + DAY)
    own.plan = Plan(BarSpec(parse_timeframes("13d"), XNYS.without("2024-04-29")), StreamPolicy())
    own.memo = Memo()
    with pytest.raises(StateError, match="2024-04-29 is no session of calendar XNYS any more"):
        own.look()


def test_a_closure_that_is_yet_to_come_makes_windows_longer():
    own = begun("A")
    own.plan = Plan(BarSpec(parse_timeframes("3d"), XNYS.without("2024-04-30")), StreamPolicy())
    own.memo = Memo()
    own.add([trade("A", THIRD, 1, 12.0)])
    own.advance(END)
    assert {bar["end"] for bar in own.rows("bars")} == {ny("2024-05-02")}


def test_bags_of_days_are_put_together():
    own = begun("A")
    for version in range(2, 200):
        own.take_history(element([row("A", HISTORY[-1], float(version))], version, whole=False))
    assert len(own.cells.bags[DAYS]) < 60
    own.memo = Memo()
    assert shown(own)["A", "3d"][2] == 199.0


def test_history_is_split_by_bucket():
    rows = daily([row(symbol, HISTORY[-1], 10.0) for symbol in ("A", "B", "C")])
    some, every = Note(7, 1), Note(7, 1, since=0)
    told = dict(split_history(rows, some, 50))
    assert sorted(each["symbol"] for part in told.values() for each in dicts(part)) == ["A", "B", "C"]
    assert {note_of(part) for part in told.values()} == {some}
    for part in told.values():
        column: Any = part["symbol"].combine_chunks()
        assert column.dictionary.to_pylist() == column.to_pylist()
    assert [bucket for bucket, _ in split_history(rows, every, 50)] == list(range(50))
    assert note_of(rows) is None


def test_what_is_no_history_is_refused():
    with pytest.raises(ValueError, match="history is for timeframes of several sessions"):
        begun("A").take_history(daily([row("A", HISTORY[-1], 10.0)]))
    with pytest.raises(ValueError, match="history is for timeframes of several sessions"):
        Bucket(plan("1m")).take_history(element([]))
