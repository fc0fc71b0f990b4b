"""The tip of a table, followed through its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.streamtables import STREAM_TABLES
from fibflow.tests.io.streams import Clock, expire, restarted, rows_of, started, stored, write

TICKS, LIVE, LATE, DEAD = (spec.name for spec in STREAM_TABLES)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), clock=Clock())


def test_the_newest_version_is_found_behind_a_checkpoint(anywhere):
    run = started(anywhere, commits=12, rows=1)
    assert anywhere.table(tables.LIVE).version == 11
    again = restarted(run, run.state)
    again.write(1)
    assert again.commit() == 12


def test_a_commit_reads_no_more_of_an_old_table_than_of_a_young_one(lake, monkeypatch):
    run = started(lake, commits=25)
    assert (Path(run.commits._table.storage.uri) / "_delta_log" / f"{20:020d}.checkpoint.parquet").exists()
    opened: list[object] = []
    monkeypatch.setattr(run.commits._table, "open", lambda *a: opened.append(a))
    monkeypatch.setattr(run.commits._table.log, "head", lambda: opened.append("head"))
    run.write(1)
    run.commit()
    assert opened == []


def test_a_commit_whose_answer_was_lost_counts_once(lake, monkeypatch):
    run = started(lake)
    log_of = run.commits._table.log
    put = log_of.put
    monkeypatch.setattr(log_of, "put", lambda *a: put(*a) and False)
    run.write(1)
    assert run.commit() == 1
    assert run.state.number == 2
    assert len(stored(lake, LIVE)) == 3


def test_another_writers_version_in_between_is_followed(lake):
    run = started(lake, DEAD)
    table = lake.table(tables.DEAD_LETTERS)
    (file,) = write(lake, DEAD, rows_of(DEAD, [100]), "batch")
    table.commit([file], base_version=table.version, scope=Scope(symbols=()), run="batch")
    run.write(1)
    assert run.commit() == 2
    table.open().alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"})
    run.write(1)
    assert run.commit() == 4
    assert [number for number, _ in stored(lake, DEAD)] == [0, 1, 2, 3, 100]


def test_losing_the_race_for_a_version_is_tried_again(lake, monkeypatch):
    run = started(lake, DEAD)
    table = lake.table(tables.DEAD_LETTERS)
    put = run.commits._table.log.put
    rivals: list[int] = []

    def slow(*arguments):
        if not rivals:
            rivals.append(1)
            (file,) = write(lake, DEAD, rows_of(DEAD, [100]), "batch")
            table.commit([file], base_version=table.version, scope=Scope(symbols=()), run="batch")
        return put(*arguments)

    monkeypatch.setattr(run.commits._table.log, "put", slow)
    run.write(1)
    assert run.commit() == 2
    assert [number for number, _ in stored(lake, DEAD)] == [0, 1, 2, 100]


def test_a_tail_whose_version_has_expired_opens_the_table(lake):
    idle = started(lake, DEAD)
    table = lake.table(tables.DEAD_LETTERS)
    for number in range(12):
        (file,) = write(lake, DEAD, rows_of(DEAD, [100 + number]), f"batch{number}")
        table.commit([file], base_version=table.version, scope=Scope(symbols=()), run="batch")
    expire(lake, DEAD, *range(10))
    idle.write(1)
    assert idle.commit() == 13
    assert table.snapshot().rows == 15
