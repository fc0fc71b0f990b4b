"""When a lake shows new rows of new ticks: by its commits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pyarrow as pa
import pytest

from fibflow.benchmarks.faults.commits import longest_pause, shown
from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.streamcommit import StreamCommit
from fibflow.tests.io.streams import JOB, START, Clock, log, rows_of, write

TICKS, LIVE = tables.TICKS.name, tables.LIVE.name
BEGAN = START.timestamp()


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), clock=Clock())


class Job:
    """Commits a row a time; those of ticks say when they arrived, in seconds after ``BEGAN``."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.commits = {table: StreamCommit(lake, table, JOB) for table in (TICKS, LIVE)}
        self.done = dict.fromkeys(self.commits, 0)

    def commit(self, table: str, arrived: float = 0.0) -> None:
        number = self.done[table]
        rows = rows_of(table, [number])
        if table == TICKS:
            at = rows.schema.get_field_index("arrived")
            when = pa.array([START + timedelta(seconds=arrived)], rows.schema.field(at).type)
            rows = rows.set_column(at, rows.schema.field(at), when)
        files = write(self.lake, table, rows, f"{table}-{number}")
        self.done[table] = self.commits[table].commit(number, files).number


def test_shown_is_a_commit_of_bars_after_one_of_ticks_that_are_new(lake):
    job = Job(lake)
    job.commit(TICKS, 100.0)
    job.commit(LIVE)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(shown, lake, BEGAN + 5.0)
        while not wait.done():
            # What was there before does not count, nor do bars before ticks, nor old ticks.
            job.commit(LIVE)
            job.commit(TICKS, 1.0)
            job.commit(TICKS, 6.0)
    times = {table: [entry.info["timestamp"] / 1000 for entry in log(lake, table)] for table in (TICKS, LIVE)}
    assert wait.result() in times[LIVE][1:]
    assert wait.result() > times[TICKS][1]


def test_the_longest_pause_is_between_commits_of_ticks(lake):
    job = Job(lake)
    assert longest_pause(lake, 0.0) == 0.0
    for looks in (0, 7, 2):
        for _ in range(looks):
            lake.clock()
        job.commit(TICKS)
    times = [entry.info["timestamp"] / 1000 for entry in log(lake, TICKS)]
    assert longest_pause(lake, 0.0) == max(times[1] - times[0], times[2] - times[1]) == times[1] - times[0]
    assert longest_pause(lake, times[1]) == times[2] - times[1]
    assert longest_pause(lake, times[2]) == 0.0
