"""What an archived stream says of its sessions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables, ticksessions
from fibflow.io.lake import Lake
from fibflow.io.maintenance import compact
from fibflow.io.snapshot import Snapshot
from fibflow.tests.io.barlakes import minute_rows
from fibflow.tests.pipelines.raws import Bronze, Raw
from fibflow.tests.pipelines.streamed import (
    XNYS,
    Streamed,
    day_of_minutes,
    day_of_trades,
    session,
    trade,
)
from fibflow.transforms.timeframe import MINUTE_US

FRIDAY, MONDAY = "2024-03-08", "2024-03-11"


def position(day):
    return int(XNYS.positions_at(np.array([session(day).opens]))[0])


@pytest.fixture
def made(tmp_path):
    return Streamed(tmp_path / "lake", names="5m,1d")


def ticks(made):
    return made.lake.table(tables.TICKS).snapshot()


def test_when_sessions_changed(made):
    made.archive(day_of_trades(FRIDAY, trades=9))
    made.archive([trade("A", session(MONDAY).opens - 36 * 60 * MINUTE_US, 1, 10.0)])
    first = ticksessions.changed_at(ticks(made), "trades", XNYS)
    # On Saturday there is no session.
    assert list(first) == [position(FRIDAY)]
    assert ticksessions.changed_at(ticks(made), "minutes", XNYS) == {}
    made.archive(day_of_trades(MONDAY, trades=9))
    second = ticksessions.changed_at(ticks(made), "trades", XNYS)
    assert second[position(FRIDAY)] == first[position(FRIDAY)] < second[position(MONDAY)]
    made.archive(day_of_trades(FRIDAY, trades=3, seed=2))
    third = ticksessions.changed_at(ticks(made), "trades", XNYS)
    assert third[position(FRIDAY)] > third[position(MONDAY)] == second[position(MONDAY)]
    compact(made.lake.table(tables.TICKS), 1_000_000, "c")
    assert ticksessions.changed_at(ticks(made), "trades", XNYS) == third


def test_which_feeds_there_are(made):
    assert ticksessions.feeds_of(Snapshot.empty(made.lake.table(tables.TICKS).storage, tables.TICKS)) == set()
    made.archive(day_of_minutes(FRIDAY, minutes=3))
    assert ticksessions.feeds_of(ticks(made)) == {"minutes"}
    made.archive(day_of_trades(FRIDAY, trades=3), late=True)
    assert ticksessions.feeds_of(ticks(made)) == {"minutes", "trades"}
    assert ticksessions.feeds_of(made.lake.table(tables.LATE).snapshot()) == {"trades"}


def test_how_far_bars_are_final(made):
    def final():
        return ticksessions.final_until(made.lake.table(tables.LIVE).snapshot())

    made.archive(day_of_trades(FRIDAY, trades=9))
    made.close(FRIDAY, final=False)
    assert final() is None
    made.close(FRIDAY)
    assert final() == session(FRIDAY).end
    made.archive(day_of_trades(MONDAY, trades=9))
    made.close(MONDAY, final=False)
    assert final() == session(FRIDAY).end
    made.close(MONDAY)
    assert final() == session(MONDAY).end


def test_which_sessions_minutes_hold(tmp_path):
    raw, bronze = Raw(tmp_path / "raw"), Bronze(str(tmp_path / "lake"), spec=tables.MINUTES)
    rows = pa.concat_tables(
        [minute_rows("A", ["2024-03-07T15:00"], 3), minute_rows("B", ["2024-03-11T15:00"], 3)]
    )
    raw.put("all.parquet", rows.rename_columns([n if n != "ts" else "timestamp" for n in rows.column_names]))
    bronze.first(raw, "--kind", "minutes")
    minutes = bronze.table().snapshot()
    days = [position(day) for day in ("2024-03-06", "2024-03-07", FRIDAY, MONDAY, "2024-03-12")]
    assert ticksessions.held(minutes, days, XNYS) == {days[1], days[3]}
    assert ticksessions.held(minutes, days[:1], XNYS) == ticksessions.held(None, days, XNYS) == frozenset()
    assert Lake(bronze.uri).table(tables.MINUTES).exists
