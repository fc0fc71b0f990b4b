"""The source of official history on real tables: what it sends, when, and through which troubles."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from fibflow.io import tables
from fibflow.io.history import HistoryStart, ReadHistory, TailHistory, _Restrictions, _Watermarks, filled_days
from fibflow.io.lake import Lake, Scope
from fibflow.io.maintenance import compact
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.history import Note, note_of
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import BARS, DAILY_ROWS

XNYS = load_calendar()
DAYS = [date(2024, 1, day) for day in (2, 3, 4, 5, 8, 9, 10)]


def number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


@pytest.fixture
def bronze(tmp_path: Path) -> Bronze:
    """Two symbols of seven sessions."""
    raw = Raw(tmp_path / "raw")
    raw.put("all.parquet", [*rows_of("A", DAYS), *rows_of("B", DAYS, 100.0)])
    made = Bronze(str(tmp_path / "lake"))
    made.first(raw)
    return made


class Runner:
    """Runs bundles of the source as a runner does, and keeps what belongs together between them."""

    def __init__(self, lake: Lake, start: HistoryStart, stop: bool = False) -> None:
        self.fn = ReadHistory(lake, XNYS, 5.0, stop)
        self.start = start
        self.saved = (
            _Restrictions().initial_restriction(start),
            _Watermarks().initial_estimator_state(start, (0,)),
        )
        self.is_over = False

    @property
    def watermark(self) -> int:
        return self.saved[1]

    def bundle(self) -> list[tuple[Note, list[tuple]]]:
        version, micros = self.saved
        tracker = ThreadsafeRestrictionTracker(_Restrictions().create_tracker(version))
        watermark: Any = ThreadsafeWatermarkEstimator(_Watermarks().create_watermark_estimator(micros))
        made = list(self.fn.process(self.start, RestrictionTrackerView(tracker), watermark))
        tracker.check_done()
        deferred = tracker.deferred_status()
        self.is_over = deferred is None
        if deferred is not None:
            assert deferred[1].micros <= 5_000_000
            self.saved = (deferred[0], watermark.get_estimator_state())
        found = []
        for each in made:
            assert each.timestamp == watermark.current_watermark()
            assert each.value.schema.remove_metadata().equals(DAILY_ROWS)
            note = note_of(each.value)
            assert note is not None
            columns = (each.value[name].to_pylist() for name in ("symbol", "session", "open"))
            found.append((note, sorted(zip(*columns, strict=True))))
        return found


def start_of(bronze: Bronze, since: date = DAYS[4], through: date = DAYS[-1]) -> HistoryStart:
    return HistoryStart(bronze.table().version, number(since), number(through))


def test_days_of_open_windows_come_first_and_time_waits_for_them(bronze):
    start = start_of(bronze)
    runner = Runner(Lake(bronze.uri), start)
    assert runner.watermark == MIN_TIMESTAMP.micros
    ((note, rows),) = runner.bundle()
    assert note == Note(start.version, start.through, start.since)
    assert rows == [
        *(("A", day, 10.0 + place) for place, day in enumerate(DAYS) if place >= 4),
        *(("B", day, 100.0 + place) for place, day in enumerate(DAYS) if place >= 4),
    ]
    assert runner.watermark == GlobalWindow().max_timestamp().micros
    assert runner.bundle() == []


def test_what_is_landed_later_follows(bronze, tmp_path):
    start = start_of(bronze)
    runner = Runner(Lake(bronze.uri), start)
    runner.bundle()
    later = Raw(tmp_path / "later", 1_800_000_000)
    # One before the open windows, one in them, and one of a session that is still to come.
    later.put(
        "more.parquet", [*rows_of("A", [DAYS[0], DAYS[5]], 50.0), *rows_of("NEW", [date(2024, 1, 11)], 7.0)]
    )
    bronze.load(later)
    ((note, rows),) = runner.bundle()
    assert note == Note(bronze.table().version, start.through)
    assert rows == [("A", DAYS[5], 51.0), ("NEW", date(2024, 1, 11), 7.0)]
    assert runner.bundle() == []


def test_compaction_brings_nothing(bronze):
    runner = Runner(Lake(bronze.uri), start_of(bronze))
    runner.bundle()
    table = bronze.table()
    # A file a symbol, to be merged.
    rows = table.snapshot().read()[0]
    cut = [table.writer().write(part, {"period": "2024"}, name) for name, part in _by_symbol(rows).items()]
    table.commit(
        cut,
        table.snapshot().select(),
        base_version=table.version,
        scope=Scope(symbols=()),
        run="cut",
        operation="OPTIMIZE",
        data_change=False,
    )
    assert compact(table, 1_000_000, "whole").version is not None
    assert runner.bundle() == []
    assert runner.saved[0] == (table.version,)


def _by_symbol(rows: pa.Table) -> dict[str, pa.Table]:
    plain = rows.drop_columns(["period"])
    return {name: plain.filter(pa.compute.field("symbol") == name) for name in ("A", "B")}


def test_history_that_another_tool_wrote_comes_whole(bronze):
    """Its commits do not say what they landed."""
    start = start_of(bronze)
    runner = Runner(Lake(bronze.uri), start)
    runner.bundle()
    table = bronze.table()
    rows = _by_symbol(table.snapshot().read()[0])["A"]
    file = table.writer().write(rows, {"period": "2024"}, "other")
    files = table.snapshot().select()
    table.commit([file], files, base_version=table.version, scope=Scope(), run="other")
    ((note, found),) = runner.bundle()
    assert note == Note(table.version, start.through, start.since)
    assert {name for name, _, _ in found} == {"A"}


def test_a_lake_that_does_not_answer_is_asked_again(bronze, tmp_path, caplog):
    start = start_of(bronze)
    away = tmp_path / "away"
    shutil.move(bronze.uri, away)
    runner = Runner(Lake(bronze.uri), start)
    assert runner.bundle() == []
    assert runner.watermark == MIN_TIMESTAMP.micros
    assert "history was not read, another try follows" in caplog.text
    shutil.move(away, bronze.uri)
    assert len(runner.bundle()) == 1
    assert runner.watermark > MIN_TIMESTAMP.micros


def test_what_the_runner_takes_back_is_read_again(bronze):
    runner = Runner(Lake(bronze.uri), start_of(bronze))
    fn, taken = runner.fn, []
    tracker = ThreadsafeRestrictionTracker(_Restrictions().create_tracker((-1,)))
    look = fn.look

    def meanwhile(start: HistoryStart, version: int) -> Any:
        taken.append(tracker.try_split(0))
        return look(start, version)

    fn.look = meanwhile  # type: ignore[method-assign]
    watermark: Any = ThreadsafeWatermarkEstimator(_Watermarks().create_watermark_estimator(0))
    assert list(fn.process(runner.start, RestrictionTrackerView(tracker), watermark)) == []
    assert taken == [((-1,), (-1,))]
    assert watermark.current_watermark().micros == 0


def test_days_of_an_earlier_job_fill_the_gap(bronze):
    lake = Lake(bronze.uri)
    gap = [date(2024, 1, 11), date(2024, 1, 12)]
    version = write_live(
        lake, [("A", gap[0], True, 3.0), ("A", gap[1], True, 4.0), ("B", gap[1], False, 5.0)]
    )
    start = HistoryStart(bronze.table().version, number(DAYS[4]), number(gap[1]), (version, number(gap[0])))
    found = {note.official: (note, rows) for note, rows in Runner(lake, start).bundle()}
    note, rows = found[False]
    assert (note.since, note.through) == (None, number(gap[1]))
    assert rows == [("A", gap[0], 3.0), ("A", gap[1], 4.0)]
    assert found[True][0].since == number(DAYS[4])


def write_live(lake: Lake, bars: list[tuple[str, date, bool, float]]) -> int:
    """Write 1d bars as a stream does; return the table's version."""
    table = lake.table(tables.LIVE)
    at = XNYS.positions(np.array([number(day) for _, day, _, _ in bars]))
    prices = [price for *_, price in bars]
    values: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), prices)
    n = len(bars)
    values |= {
        "symbol": [name for name, *_ in bars],
        "timeframe": ["1d"] * n,
        "ts": pa.array(XNYS.day_starts[at]).cast(BARS.field("ts").type),
        "end": pa.array(XNYS.day_ends[at]).cast(BARS.field("ts").type),
        "trade_count": [1] * n,
        "sessions": [1] * n,
        "complete": [True] * n,
        "final": [final for _, _, final, _ in bars],
        "revision": [0] * n,
    }
    rows = pa.table([pa.array(values[each.name], each.type) for each in BARS], schema=BARS)
    file = table.writer().write(
        rows.drop_columns(["timeframe"]), {"timeframe": "1d", "period": "all"}, "live"
    )
    return table.commit([file], base_version=-1, scope=Scope(), run="live")


def test_filled_days_are_rows_of_history(bronze):
    lake = Lake(bronze.uri)
    version = write_live(lake, [("A", DAYS[-1], True, 3.0), ("A", date(2024, 1, 12), True, 4.0)])
    found = filled_days(lake, XNYS, version, number(DAYS[-1]), number(date(2024, 1, 11)))
    assert found.schema.equals(DAILY_ROWS)
    assert found["session"].to_pylist() == [DAYS[-1]]
    assert BAR_BATCH.names == BARS.names


def test_the_transform_on_a_runner(bronze):
    def check(elements: list[pa.Table]) -> None:
        (element,) = elements
        assert len(element) == 6
        assert note_of(element) is not None

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        tail = TailHistory(Lake(bronze.uri), start_of(bronze), XNYS, stop_at_end=True)
        assert_that(pipeline | tail, check)
