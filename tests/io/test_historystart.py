"""Whether history and a stream meet, on real tables."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from fibflow.io.history import HistoryStart
from fibflow.io.historystart import history_start
from fibflow.io.lake import Lake, LakeError, PropertyMismatch
from fibflow.pipelines import batch
from fibflow.tests.io.test_history import number, write_live
from fibflow.tests.pipelines.lakes import sessions
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.timeframe import parse_timeframes

XNYS = load_calendar()
#: 26 April is the first session of a window of three, 24 April of one of five.
DAYS = sessions("2024-03-01", "2024-04-25")
NEXT = sessions("2024-04-26", "2024-05-03")
FRAMES = parse_timeframes("3d,5d")


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bronze = Bronze(str(folder / "lake"))
        self.lake = Lake(self.bronze.uri)

    def land(self, name: str, rows: list, at: int = 1_700_000_000) -> None:
        raw = Raw(self.folder / name, at)
        raw.put(f"{name}.parquet", rows)
        self.bronze.first(raw)

    def start(self, first: date | None = None, basis: str = "raw", calendar=XNYS) -> HistoryStart:
        return history_start(self.lake, FRAMES, calendar, basis, None if first is None else number(first))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.land("all", [*rows_of("A", DAYS), *rows_of("B", DAYS)])
    return made


def test_the_stream_goes_on_where_history_ends(world):
    assert world.start() == HistoryStart(0, number(date(2024, 4, 24)), number(DAYS[-1]))


def test_windows_that_history_ends_need_none_of_it(world):
    """All windows that hold the next session begin with it, but the one of five."""
    start = history_start(world.lake, parse_timeframes("3d"), XNYS, "raw")
    assert start.since == number(NEXT[0])


def test_a_stream_may_begin_before_history_ends(world):
    start = world.start(DAYS[-1])
    assert (start.through, start.filled) == (number(DAYS[-2]), None)


def test_without_history_there_is_nothing_to_begin_with(tmp_path):
    with pytest.raises(LakeError, match=r"has no bronze\.daily, and 3d bars need the sessions before"):
        World(tmp_path).start()


def test_history_of_other_prices_or_sessions_is_refused(world):
    with pytest.raises(PropertyMismatch, match="price_basis=raw; this run asks for price_basis=split"):
        world.start(basis="split-adjusted")
    with pytest.raises(PropertyMismatch, match="calendar=XNYS"):
        world.start(calendar=load_calendar("XLON"))


def test_bars_that_were_counted_otherwise_are_refused(world):
    batch.run(["--lake", world.lake.uri, "--timeframes", "3d", "--anchor", "listing", "--workers", "1"])
    with pytest.raises(PropertyMismatch, match="anchor=listing; this run asks for anchor=exchange"):
        world.start()


def test_a_session_landed_in_part_is_refused_unless_the_stream_has_it(world):
    world.land("part", rows_of("A", NEXT[:1]), 1_800_000_000)
    with pytest.raises(LakeError, match="has 1 rows of its newest session 2024-04-26, 2 of the one before"):
        world.start()
    assert world.start(NEXT[0]).through == number(DAYS[-1])


def test_a_gap_is_filled_by_days_that_an_earlier_job_made(world):
    write_live(world.lake, [("A", day, True, 3.0) for day in NEXT[:2]])
    start = world.start(NEXT[2])
    assert start == HistoryStart(0, number(date(2024, 4, 24)), number(NEXT[1]), (0, number(NEXT[0])))


def test_a_gap_that_nobody_can_fill_is_refused(world):
    with pytest.raises(LakeError, match=r"silver.live have 2024-04-26: land"):
        world.start(NEXT[1])
    write_live(world.lake, [("A", NEXT[0], True, 3.0), ("A", NEXT[1], False, 3.0)])
    with pytest.raises(LakeError, match=r"silver.live have 2024-04-29, 2024-04-30: land"):
        world.start(NEXT[3])


def test_what_is_no_session_is_refused(world):
    with pytest.raises(LakeError, match="2024-04-27 is no session of calendar XNYS"):
        world.start(date(2024, 4, 27))
