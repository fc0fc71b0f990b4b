"""Closed bars come back into the live store from the lake, once, when it has lacked them for long enough."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.livefill import FillClosed, last_bars
from fibflow.io.livestore import LiveStore
from fibflow.io.storage import LakeError
from fibflow.io.streamcommit import StreamCommit
from fibflow.tests.io.livestores import Server, again, closed, fresh, table
from fibflow.tests.io.streams import JOB, START, live, write
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.timeframe import Timeframe

ALWAYS = load_calendar("24/7", START.year + 1)
TIMEFRAMES = (Timeframe.parse("5m"), Timeframe.parse("4h"), Timeframe(1, 0))
DAY, HALF_PAST_TWO = 24 * 60, 14 * 60 + 30


@pytest.fixture
def filler(store: LiveStore) -> Iterator[FillClosed]:
    made = FillClosed(store, lambda: iter([table(closed("A"))]), "run", settle_s=10.0)
    made.setup()
    yield made
    made.teardown()


def lake_of(folder: object, *parts: pa.Table) -> Lake:
    lake = Lake(str(folder))
    files = [file for part in parts for file in write(lake, tables.LIVE.name, part, lake.new_id())]
    StreamCommit(lake, tables.LIVE.name, JOB).commit(0, files)
    return lake


def test_the_last_bars_of_each_timeframe_are_those_of_the_last_sessions(tmp_path):
    days = live([(name, day * DAY, 0, True, float(day)) for name in "AB" for day in range(9)], "1d")
    fives = live([("A", minute, 0, True, 1.0) for minute in range(0, 9 * DAY, 5)])
    lake = lake_of(tmp_path, days, fives)
    found = pa.concat_tables(list(last_bars(lake, TIMEFRAMES, ALWAYS, 3)))
    of_days = found.filter(pc.field("timeframe") == "1d")
    assert set(of_days["close"].to_pylist()) == {5.0, 6.0, 7.0, 8.0}
    assert set(of_days["symbol"].to_pylist()) == {"A", "B"}
    ts = found.filter(pc.field("timeframe") == "5m")["ts"].to_numpy()
    # The tape begins and ends at half past two: the last session is not whole.
    assert len(ts) == (DAY + HALF_PAST_TWO) // 5
    assert ts.max() - ts.min() == np.timedelta64(DAY + HALF_PAST_TWO - 5, "m")


def test_bars_of_several_sessions_are_as_many(tmp_path):
    lake = lake_of(tmp_path, live([("A", day * DAY, 0, True, float(day)) for day in range(0, 27, 3)], "3d"))
    found = pa.concat_tables(list(last_bars(lake, (Timeframe(3, 0),), ALWAYS, 3)))
    assert found["close"].to_pylist() == [15.0, 18.0, 21.0, 24.0]


def test_many_sessions_come_in_several_tables(tmp_path):
    lake = lake_of(tmp_path, live([("A", minute, 0, True, 1.0) for minute in range(0, 20 * DAY, 5)]))
    found = list(last_bars(lake, TIMEFRAMES, ALWAYS, 500))
    assert [len(part) for part in found] == [5 * DAY // 5, (2 * DAY + HALF_PAST_TWO) // 5]


def test_a_lake_that_no_stream_has_begun_gives_nothing(tmp_path):
    assert list(last_bars(Lake(str(tmp_path)), TIMEFRAMES, ALWAYS, 500)) == []


def test_a_store_is_filled_when_it_has_lacked_bars_for_long_enough(store: LiveStore, filler: FillClosed):
    store.marker()
    for now in (100.0, 105.0, 109.9):
        filler.look(now)
        assert filler._filling is None
    filler.look(110.0)
    assert filler._filling is not None
    assert filler._filling.result() == 1
    assert store.status().filled
    assert len(store.closed_bars("A", "1m")) == 1
    for now in (115.0, 200.0, 300.0):
        filler.look(now)
        assert filler._filling is None


def test_after_a_restart_it_is_filled_again(server: Server):
    store = fresh(server)
    filler = FillClosed(again(store), lambda: iter([table(closed("A"))]), "run", settle_s=10.0)
    filler.setup()
    store.marker()
    for now in (0.0, 10.0):
        filler.look(now)
    assert filler._filling is not None
    filler._filling.result()
    server.kill()
    filler.look(20.0)
    assert filler._filling is None
    server.start()
    for now in (30.0, 39.0):
        filler.look(now)
        assert filler._filling is None
    filler.look(40.0)
    assert filler._filling is not None
    assert filler._filling.result() == 1
    assert store.status().filled
    filler.teardown()


def test_a_lake_that_cannot_be_read_is_asked_again(store: LiveStore, caplog: pytest.LogCaptureFixture):
    tries = iter(range(2))

    def bars() -> Iterator[pa.Table]:
        if next(tries) == 0:
            raise LakeError("no lake at s3://x")
        return _one_table()

    filler = FillClosed(store, bars, "run", settle_s=0.0)
    filler.setup()
    store.marker()
    filler.look(0.0)
    assert filler._filling is not None
    assert filler._filling.exception() is not None
    filler.look(1.0)
    assert "no lake at s3://x" in caplog.text
    assert filler._filling is not None
    assert filler._filling.result() == 1
    filler.look(2.0)
    filler.teardown()


def test_it_looks_on_a_timer(store: LiveStore):
    store.marker()
    filler = FillClosed(again(store), _one_table, "run", settle_s=0.0, clock=_noon)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        one = beam.Create([("closed", b"")], reshuffle=False).with_output_types(tuple[str, bytes])
        pipeline | one | beam.ParDo(filler)
    assert store.status().filled


def _one_table() -> Iterator[pa.Table]:
    return iter([table(closed("A"))])


def _noon() -> float:
    return 43_200.0
