"""Watermarks move forward only, and every step is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.postgresql import watermarks
from fibflow.io.postgresql.ohlcv import upsert_ohlcv
from fibflow.io.postgresql.session import connect
from fibflow.tests.io.postgresql.databases import bars, closes, execute

NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def connection(server):
    with closing(connect(server.make("migrated"))) as made:
        yield made


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=12))
def test_a_watermark_is_the_greatest_that_was_said_and_each_step_is_kept(connection, steps):
    steps_of: dict[str, list[int]] = {}
    for key, hours in steps:
        best = steps_of.setdefault(key, [])
        moved = watermarks.advance(connection, "job", key, NOW + timedelta(hours=hours), f"r{hours}")
        assert moved == (not best or hours > best[-1])
        if moved:
            best.append(hours)
    assert {mark.key: mark.watermark for mark in watermarks.read_all(connection, "job")} == {
        key: NOW + timedelta(hours=hours[-1]) for key, hours in steps_of.items()
    }
    for key, hours in steps_of.items():
        told = watermarks.history(connection, "job", key)
        assert [step.after for step in told] == [NOW + timedelta(hours=hour) for hour in hours]
        assert [step.before for step in told] == [None, *(step.after for step in told[:-1])]
        assert [step.run for step in told] == [f"r{hour}" for hour in hours]
    connection.rollback()


def test_jobs_and_keys_are_apart_and_what_is_not_there_is_none(url):
    assert watermarks.advance(url, "backfill", "AAPL", date(2024, 1, 2), "r", position="page 7")
    assert watermarks.read(url, "backfill", "MSFT") is watermarks.read(url, "load", "AAPL") is None
    mark = watermarks.read(url, "backfill", "AAPL")
    assert mark is not None
    assert (mark.watermark, mark.position, mark.run) == (datetime(2024, 1, 2, tzinfo=UTC), "page 7", "r")
    with pytest.raises(ValueError, match="no zone"):
        watermarks.advance(url, "backfill", "AAPL", NOW.replace(tzinfo=None), "r")


def test_of_many_at_once_the_greatest_stays(url):
    with ThreadPoolExecutor(8) as pool:
        moved = list(
            pool.map(lambda n: watermarks.advance(url, "j", "k", NOW + timedelta(n % 7), "r"), range(28))
        )
    mark = watermarks.read(url, "j", "k")
    assert mark is not None
    assert mark.watermark == NOW + timedelta(6)
    told = watermarks.history(url, "j", "k")
    assert len(told) == sum(moved)
    assert [step.before for step in told[1:]] == [step.after for step in told[:-1]]


def test_it_moves_with_the_rows_or_not_at_all(url):
    with closing(connect(url)) as connection:
        upsert_ohlcv(connection, bars(("A", 0, 1.0)), "1d")
        watermarks.advance(connection, "j", "k", NOW, "r")
        connection.rollback()
    assert closes(url) == {}
    assert watermarks.read(url, "j", "k") is None
    assert watermarks.history(url, "j", "k") == []


def test_what_is_done_by_hand_is_kept_too(url):
    watermarks.advance(url, "j", "k", NOW, "r")
    execute(
        url,
        "UPDATE data_ingestion_watermark SET watermark = '2020-01-01Z', run = 'ada'",
        "DELETE FROM data_ingestion_watermark",
    )
    back = datetime(2020, 1, 1, tzinfo=UTC)
    assert [step[:2] for step in watermarks.history(url, "j", "k")] == [
        (None, NOW),
        (NOW, back),
        (back, None),
    ]
