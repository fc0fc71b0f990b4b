"""Alerts on bars against the oracle: any cut, revisions, repeats, late bars, restores, seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms.alerts.bar_cells import MemoryCells
from fibflow.tests.transforms.alerts.bar_oracle import (
    Oracle,
    bar,
    bars_table,
    change,
    changes_table,
    facts_table,
)
from fibflow.tests.transforms.alerts.tables import renumber
from fibflow.tests.transforms.tables import calendar, days
from fibflow.transforms.alerts import barcells
from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.barkernel import BarAlerts, Memo, Plan
from fibflow.transforms.alerts.definition import DefinitionError
from fibflow.transforms.alerts.schema import ALWAYS, EVENTS, NEVER, Frequency
from fibflow.transforms.timeframe import MINUTE_US, parse_timeframes

XNYS = calendar("XNYS")
NAMES = ("5m", "15m", "1d", "2d")
PLAN = Plan(XNYS, parse_timeframes(NAMES), lateness_us=60 * MINUTE_US)
#: Four sessions, of which windows of two begin with the first.
FIRST = int(XNYS.positions(np.array(days("2024-07-01")))[0])
SESSIONS = range(FIRST, FIRST + 4)
DAYS = [int(XNYS.days[session]) for session in SESSIONS]
SYMBOLS = ("A", "B", "C")


def windows() -> list[tuple[str, int, int]]:
    """(timeframe, start, end) of all windows, by end."""
    found = []
    for n, session in enumerate(SESSIONS):
        start = int(XNYS.opens[session])
        found += [("5m", start + k * 5 * MINUTE_US, start + (k + 1) * 5 * MINUTE_US) for k in range(4)]
        found.append(("15m", start, start + 15 * MINUTE_US))
        found.append(("1d", int(XNYS.day_starts[session]), int(XNYS.day_ends[session])))
        if n % 2:
            found.append(("2d", int(XNYS.day_starts[session - 1]), int(XNYS.day_ends[session])))
    return sorted(found, key=lambda window: window[2])


ENDS = sorted({end for _, _, end in windows()})


class Bucket:
    """A bucket that is called again and again, with a memo or read anew each time."""

    def __init__(self, reader: Any = None, plan: Plan = PLAN) -> None:
        self.cells, self.memo, self._reader, self._plan = MemoryCells(), Memo(), reader, plan
        self.awaits = False

    def call(self, name: str, *values: Any) -> list[dict]:
        taken = getattr(BarAlerts(self._plan, self.cells, self.memo, self._reader), name)(*values)
        self.awaits, self.refused = taken.awaits, taken.refused
        if taken.events is None:
            return []
        assert taken.events.schema.equals(EVENTS)
        return taken.events.to_pylist()

    def bars(self, *rows: dict) -> list[dict]:
        return self.call("take_bars", bars_table(list(rows)))

    def changes(self, *rows: dict) -> None:
        self.call("take_changes", changes_table(list(rows)))

    def facts(self, *rows: dict) -> None:
        self.call("take_facts", facts_table(list(rows)))

    def take(self, event: tuple[str, list[dict]]) -> list[dict]:
        return getattr(self, event[0])(*event[1]) or []


def told(events: list[dict]) -> list[tuple]:
    """Events without order; NaN is told as text."""
    return sorted(tuple("NaN" if value != value else value for value in event.values()) for event in events)


# --- worlds -------------------------------------------------------------------------------------------------

#: Many terms that are drawn cannot be.
PICKY = (HealthCheck.filter_too_much,)
TIMES = st.sampled_from([0.5, 1.0, 1.0, 2.0])
FIELDS = ("open", "high", "low", "close", "volume", "vwap", "trade_count")


@st.composite
def operands(draw: Any) -> dict:
    kind = draw(st.sampled_from(["value", "field", "field", "average", "highest", "lowest"]))
    found: dict[str, Any] = {}
    if kind == "value":
        found["value"] = float(draw(st.integers(8, 12)))
    else:
        found[kind] = draw(st.sampled_from(FIELDS))
        timeframe = draw(st.sampled_from([None, None, *NAMES]))
        if timeframe is not None:
            found["timeframe"] = timeframe
        if kind != "field":
            found["bars"] = draw(st.integers(1, 4))
        elif draw(st.booleans()):
            found["back"] = draw(st.integers(0, 3))
    times = draw(TIMES)
    if times != 1.0:
        found["times"] = times
    return found


@st.composite
def terms(draw: Any) -> dict:
    operator = draw(
        st.sampled_from(["above", "below", "at_least", "at_most", "crosses_up", "crosses_down", "crosses_up"])
    )
    return {"left": draw(operands()), "operator": operator, "right": draw(operands())}


def is_possible(condition: dict) -> bool:
    try:
        BarCondition.from_json(condition)
    except DefinitionError:
        return False
    return True


@st.composite
def conditions(draw: Any) -> dict:
    join = draw(st.sampled_from(["all", "any"]))
    other = {"all": "any", "any": "all"}[join]
    trigger = draw(st.sampled_from(NAMES))
    good = terms().filter(lambda term: is_possible({"timeframe": trigger, "all": [term]}))
    inner = st.lists(good, min_size=1, max_size=3).map(lambda found: {other: found})
    return {"timeframe": trigger, join: draw(st.lists(good | inner, min_size=1, max_size=3))}


#: Never holds, and needs as many bars of all timeframes as any other: so an oracle need not forget.
ANCHOR = {
    "timeframe": "5m",
    "any": [
        {
            "left": {"average": "close", "bars": 8, "timeframe": name},
            "operator": "below",
            "right": {"value": -1.0},
        }
        for name in NAMES
    ],
}


@st.composite
def alerts(draw: Any, number: int) -> list[dict]:
    """The versions of an alert."""
    found: list[dict] = []
    since = NEVER
    for version in range(1, draw(st.integers(1, 3)) + 1):
        since = max(since, draw(st.sampled_from([NEVER, *ENDS[:-4]])))
        fired = NEVER
        if since != NEVER and draw(st.integers(0, 5)) == 0:
            fired = draw(st.sampled_from([end for end in ENDS if end >= since]))
        found.append(
            change(
                number,
                draw(st.one_of(conditions(), conditions(), st.none())) if version > 1 else draw(conditions()),
                draw(st.sampled_from(SYMBOLS[:2])) if version == 1 else found[0]["symbol"],
                version=version,
                frequency=draw(
                    st.sampled_from([Frequency.ONCE, Frequency.BAR, Frequency.BAR, Frequency.DAILY])
                ),
                cooldown=draw(st.sampled_from([0, 0, 10 * MINUTE_US, 86_400_000_000])),
                since=since,
                until=draw(st.sampled_from([ALWAYS, ALWAYS, *ENDS])),
                basis=draw(st.sampled_from([*DAYS, DAYS[0] - 1])),
                fired=fired,
            )
        )
    return found


def told_bars(rng: Random, outdated: bool = True) -> list[dict]:
    """Bars in the order in which a stream tells of them: some late, some corrected, some told again.

    A stream tells a bar again with the revision that it has; ``outdated``: with earlier ones, too.
    """
    rows: list[tuple[int, int, dict]] = []
    for at, (timeframe, ts, end) in enumerate(windows()):
        for symbol in SYMBOLS:
            if rng.random() < 0.1:
                continue
            when = end + (12 * MINUTE_US if rng.random() < 0.1 else 0)
            revisions = rng.choice([1, 1, 1, 2, 3])
            for revision in range(revisions):
                values: dict[str, Any] = {
                    **{name: float(rng.randint(8, 12)) for name in ("open", "high", "low", "close")},
                    "volume": float(rng.randint(6, 14)),
                    "vwap": rng.choice([None, 9.0, 10.0, 11.0]),
                    "trade_count": rng.choice([None, 9, 10, 11]),
                    "revision": revision,
                }
                row = bar(symbol, timeframe, ts, end, **values)
                rows.append((when, at, row))
                if rng.random() < 0.2:
                    rows.append((when, at, {**row, "complete": False, "close": 99.0}))
                if rng.random() < 0.5 and (outdated or revision == revisions - 1):
                    rows.append((when + 15 * MINUTE_US, at, {**row, "final": True}))
                when += rng.choice([0, 5 * MINUTE_US, 7 * MINUTE_US])
    return [row for *_, row in sorted(rows, key=lambda each: each[:2])]


def cut(rng: Random, rows: list[dict]) -> list[list[dict]]:
    """Tables of rows."""
    found, at, lengths = [], 0, rng.choice([(1, 2), (1, 2, 7, 30), (30, 200)])
    while at < len(rows):
        length = rng.choice(lengths)
        found.append(rows[at : at + length])
        at += length
    return found


@dataclass
class World:
    """What comes to a bucket, by kind; the first is what keeps bars from being forgotten."""

    seed: int
    versions: list[list[dict]]
    events: list[tuple[str, list[dict]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = Random(self.seed)
        self.events = [("bars", rows) for rows in cut(rng, told_bars(rng))]
        for own in self.versions:
            places = sorted(rng.choice([0, rng.randint(0, len(self.events))]) for _ in own)
            for shift, (place, row) in enumerate(zip(places, own, strict=True)):
                self.events.insert(place + shift, ("changes", [row]))
        for symbol in SYMBOLS[:2]:
            if rng.random() < 0.5:
                split = {"symbol": symbol, "kind": 2, "day": rng.choice(DAYS), "value": 0.5}
                close = {**split, "kind": 1, "value": 10.0}
                self.events.insert(rng.randint(0, len(self.events)), ("facts", [close, split, split]))
        anchors = [change(1000 + n, ANCHOR, name) for n, name in enumerate(SYMBOLS[:2])]
        self.events.insert(0, ("changes", anchors))
        renumber([row for kind, rows in self.events if kind == "changes" for row in rows])

    def by_oracle(self) -> list[list[dict]]:
        """What fires at each of the events."""
        oracle = Oracle(XNYS)
        return [getattr(oracle, f"take_{kind}")(rows) or [] for kind, rows in self.events]


@st.composite
def worlds(draw: Any) -> World:
    numbers = range(1, draw(st.integers(2, 6)))
    return World(draw(st.integers(0, 1 << 32)), [draw(alerts(number)) for number in numbers])


# --- properties ---------------------------------------------------------------------------------------------


@settings(max_examples=50, suppress_health_check=PICKY)
@given(worlds())
def test_events_are_the_oracles_however_the_bars_are_cut(world):
    bucket = Bucket()
    for event, expected in zip(world.events, world.by_oracle(), strict=True):
        assert told(bucket.take(event)) == told(expected)


@settings(max_examples=20, suppress_health_check=PICKY)
@given(worlds(), st.data())
def test_events_are_the_oracles_after_restores_to_older_cells(world, data):
    events, expected = world.events, world.by_oracle()
    bucket = Bucket()
    saved, at, left = bucket.cells.copy(), 0, 6
    place = 0
    while place < len(events):
        step = data.draw(st.sampled_from(["on", "on", "on", "save", "anew", "back"]))
        if step == "save":
            saved, at = bucket.cells.copy(), place
        elif step == "anew":
            bucket.memo = Memo()
        elif step == "back" and left:
            # The memo is of the history that is abandoned.
            bucket.cells, place, left = saved.copy(), at, left - 1
        assert told(bucket.take(events[place])) == told(expected[place])
        place += 1


@settings(max_examples=20, suppress_health_check=PICKY)
@given(worlds())
def test_state_that_is_made_anew_at_every_call_is_the_same(world):
    bucket = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barcells, "_PARTS", 0)
        patch.setattr(barcells, "_ROWS_A_PART", 3)
        for event, expected in zip(world.events, world.by_oracle(), strict=True):
            bucket.memo = Memo()
            assert told(bucket.take(event)) == told(expected)


class Lake:
    """What a stream told, up to a table; read by symbols and timeframe."""

    def __init__(self, tables: list[list[dict]]) -> None:
        self._tables, self.behind, self.asked = tables, 0, 0
        self.is_there = True

    def __call__(self, symbols: Any, timeframe: str, end: int, count: int) -> pa.Table | None:
        self.asked += 1
        if not self.is_there:
            return None
        best: dict[tuple, dict] = {}
        for row in (row for table in self._tables[: len(self._tables) - self.behind] for row in table):
            if row["symbol"] in symbols and row["timeframe"] == timeframe and row["end"] <= end:
                name = row["symbol"], row["ts"]
                if name not in best or best[name]["revision"] <= row["revision"]:
                    best[name] = row
        found = []
        for symbol in symbols:
            own = [best[name] for name in sorted(best) if name[0] == symbol]
            found += own[-count:]
        return bars_table(found[::-1])


@settings(max_examples=40, suppress_health_check=PICKY)
@given(st.integers(0, 1 << 32), st.data())
def test_bars_before_the_alert_are_read_from_a_lake_that_is_behind(seed, data):
    """Once the lake was asked again all is as if the alerts' bars had been kept from the beginning."""
    rng = Random(seed)
    tables = cut(rng, [row for row in told_bars(rng, False) if row["complete"]])
    begun = data.draw(st.integers(0, len(tables)))
    again = data.draw(st.integers(begun, len(tables)))
    since = max((row["end"] for table in tables[:begun] for row in table), default=NEVER)
    # Nothing that remembers: what fires after the lake was asked again depends on bars only.
    made = [
        change(n, data.draw(conditions()), SYMBOLS[n % 2], since=since, basis=DAYS[0]) for n in range(1, 5)
    ]
    lake = Lake(tables[:begun])
    lake.behind = data.draw(st.integers(0, 3))
    oracle, bucket = Oracle(XNYS), Bucket(lake)
    for table in tables[:begun]:
        oracle.take_bars(table)
    oracle.take_changes(made)
    bucket.changes(*made)
    for place, table in enumerate(tables[begun:], begun):
        expected = oracle.take_bars(table)
        found = bucket.bars(*table)
        bucket.memo = rng.choice([bucket.memo, Memo()])
        if place > again or lake.behind == 0 or not begun:
            assert told(found) == told(expected)
        if place == again:
            asked, lake.behind = lake.asked, 0
            bucket.call("ask_again")
            assert lake.asked > asked
            assert not bucket.awaits
