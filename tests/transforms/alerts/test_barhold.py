"""Bars wait for the versions of alerts that are in force for them, whatever comes first after a crash."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.tests.transforms.alerts.bar_cells import MemoryCells
from fibflow.tests.transforms.alerts.bar_oracle import Oracle, bar, bars_table, change, changes_table
from fibflow.tests.transforms.alerts.test_barkernel import (
    ANCHOR,
    ENDS,
    PICKY,
    PLAN,
    SYMBOLS,
    XNYS,
    alerts,
    cut,
    told_bars,
)
from fibflow.transforms.alerts import barcells
from fibflow.transforms.alerts.barbook import BAR_CHANGES
from fibflow.transforms.alerts.barkernel import BarAlerts, Memo
from fibflow.transforms.alerts.hold import HELD, BarHold, HoldPolicy, with_through
from fibflow.transforms.alerts.schema import ALWAYS, FACTS, NEVER

SECOND = 1_000_000
#: A version is in force so long after it is asked for.
IN_FORCE_US = 2 * SECOND
PATIENT = HoldPolicy(patience_us=1 << 60)
T0 = ENDS[0]


class Bucket:
    """A bucket as a runner holds it: what waits, and the alerts."""

    def __init__(self, policy: HoldPolicy = PATIENT, has_facts: bool = False) -> None:
        self.policy, self.has_facts = policy, has_facts
        self.cells, self.memo = MemoryCells(), Memo()
        self.cells.bags[HELD] = []

    def take(self, table: pa.Table, now: int) -> list[tuple[int, list[dict]]]:
        """What comes of each table that is let out: its rows, and what fired."""
        found = []
        for each in BarHold(self.policy, self.cells, now, self.has_facts).take(table):
            kernel = BarAlerts(PLAN, self.cells, self.memo)
            kind = (each.schema.metadata or {}).get(b"fibflow.alerts", b"bars").decode()
            events = getattr(kernel, {"bar_changes": "take_changes"}.get(kind, f"take_{kind}"))(each).events
            found.append((len(each) if kind == "bars" else -1, [] if events is None else events.to_pylist()))
        return found

    def bars(self, now: int, *rows: dict) -> list[int]:
        """How many bars each table has that is let out."""
        return [rows for rows, _ in self.take(bars_table(list(rows)), now)]

    def told(self, through: int, now: int, *rows: dict) -> list[int]:
        changes = changes_table(list(rows)) if rows else BAR_CHANGES.empty_table()
        return [rows for rows, _ in self.take(with_through(changes, through), now)[1:]]


def five(end: int, **values: Any) -> dict:
    return bar("A", "5m", end - 300 * SECOND, end, **values)


def test_a_table_waits_whole_and_those_behind_it():
    bucket = Bucket()
    assert bucket.bars(T0 + SECOND, five(T0)) == []
    assert bucket.told(T0, T0 + SECOND) == [1]
    later = T0 + 300 * SECOND
    # One of them could be judged; but what closes together is judged together.
    assert bucket.bars(later, five(T0), five(later)) == []
    assert bucket.bars(later, five(T0)) == []
    assert bucket.told(later - IN_FORCE_US, later) == []
    assert bucket.told(later - PATIENT.ahead_us, later) == [2, 1]
    assert bucket.bars(later, five(later)) == [1]
    assert bucket.cells.bags[HELD] == []


def test_bars_wait_for_facts_where_there_are_any_but_not_for_ever():
    for told in (True, False):
        bucket = Bucket(HoldPolicy(), has_facts=True)
        assert bucket.told(T0, T0) == bucket.bars(T0, five(T0)) == []
        if told:
            assert bucket.take(with_through(FACTS.empty_table(), ALWAYS), T0)[1:] == [(1, [])]
        else:
            late = T0 + HoldPolicy().patience_us
            # No bar need come: a job may make one a day.
            assert bucket.told(T0, late - 1) == []
            assert bucket.told(T0, late) == [1]


def test_words_write_nothing_to_a_bucket_without_alerts():
    bucket = Bucket()
    bucket.told(T0, T0)
    writes = bucket.cells.writes
    bucket.told(T0 + SECOND, T0)
    bucket.take(FACTS.empty_table(), T0)
    assert bucket.cells.writes == writes + 1


# --- crashes ------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """Tables of bars, each with the instant from which on it is there; and changes, with when they are asked.

    The first changes are those that keep bars from being forgotten.
    """

    seed: int
    versions: list[list[dict]]
    tables: list[tuple[int, list[dict]]] = field(init=False, repr=False)
    changes: list[tuple[int, dict]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = Random(self.seed)
        self.tables, there = [], NEVER
        for rows in cut(rng, told_bars(rng)):
            there = max(there, *(row["end"] for row in rows))
            self.tables.append((there + rng.choice([0, 1, 3]) * SECOND, rows))
        asked = [(NEVER, change(1000 + n, ANCHOR, name)) for n, name in enumerate(SYMBOLS[:2])]
        for own in self.versions:
            # Just in force, or just not yet, for the bars that close at an instant.
            shift = rng.choice([0, 1, SECOND])
            for row in own:
                since = row["since"] if row["since"] == NEVER else row["since"] - shift
                asked.append((since if since == NEVER else since - IN_FORCE_US, {**row, "since": since}))
        asked.sort(key=lambda each: (each[0], each[1]["version"]))
        self.changes = [(at, {**row, "revision": n}) for n, (at, row) in enumerate(asked, 1)]

    def due(self) -> dict[str, dict]:
        """What is to fire, by brute force over all versions."""
        oracle = Oracle(XNYS)
        oracle.take_changes([row for _, row in self.changes])
        return {event["id"]: event for _, rows in self.tables for event in oracle.take_bars(rows)}


@dataclass
class Job:
    """A job that reads a stream's bars and changes; ``read`` and ``known`` say how many of each."""

    stream: Stream
    bucket: Bucket = field(default_factory=Bucket)
    now: int = T0 - 600 * SECOND
    read: int = 0
    known: int = 0
    events: dict[str, dict] = field(default_factory=dict)
    saved: tuple[MemoryCells, int, int] | None = None

    def take(self, table: pa.Table) -> None:
        for _, events in self.bucket.take(table, self.now):
            for event in events:
                assert repr(self.events.setdefault(event["id"], event)) == repr(event)

    def bars(self) -> None:
        if self.read < len(self.stream.tables):
            there, rows = self.stream.tables[self.read]
            self.now = max(self.now, there)
            self.read += 1
            self.take(bars_table(rows))

    def look(self, pages: int = 1) -> None:
        """Read all changes that are there, in so many pages."""
        new = [row for asked, row in self.stream.changes[self.known :] if asked <= self.now]
        self.known += len(new)
        for page in range(pages):
            rows = new[len(new) * page // pages : len(new) * (page + 1) // pages]
            changes = changes_table(rows)
            self.take(with_through(changes, self.now) if page == pages - 1 else changes)

    def save(self) -> None:
        self.saved = self.bucket.cells.copy(), self.read, self.known

    def crash(self, anew: bool) -> None:
        """Go back; the memory is of the history that is abandoned, or none."""
        if self.saved is not None:
            cells, self.read, self.known = self.saved
            self.bucket.cells = cells.copy()
            self.bucket.memo = Memo() if anew else self.bucket.memo


@st.composite
def streams(draw: Any) -> Stream:
    numbers = range(1, draw(st.integers(2, 5)))
    return Stream(draw(st.integers(0, 1 << 32)), [draw(alerts(number)) for number in numbers])


STEPS = st.sampled_from(
    ["bars", "bars", "bars", "look", "look", "second", "change", "before", "save", "crash", "anew"]
)


@settings(max_examples=20, suppress_health_check=PICKY)
@given(streams(), st.lists(STEPS, max_size=80), st.sampled_from([0, 3, 512]))
def test_each_bar_is_judged_by_the_version_in_force_whatever_crashes(stream, steps, parts):
    job = Job(stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(barcells, "_PARTS", parts)
        for step in steps:
            if step == "bars":
                job.bars()
            elif step == "look":
                job.look(pages=1 + job.known % 3)
            elif step == "second":
                job.now += SECOND
            elif step in ("change", "before") and job.known < len(stream.changes):
                # All is told up to then, but for what is asked for in half a second.
                asked = stream.changes[job.known][0]
                job.now = max(job.now, asked - SECOND // 2 if step == "before" else asked)
            elif step == "save":
                job.save()
            elif step in ("crash", "anew"):
                job.crash(step == "anew")
        while job.read < len(stream.tables):
            job.bars()
        job.now += 10 * SECOND
        job.look()
    assert job.bucket.cells.bags[HELD] == []
    due = stream.due()
    assert sorted(map(repr, job.events.values())) == sorted(map(repr, due.values()))
