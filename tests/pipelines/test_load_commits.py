"""Loads that are killed, loads at once, loads on S3, and loads of minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import ConflictError
from fibflow.io.storage import LakeError
from fibflow.pipelines import landing
from fibflow.tests.pipelines.raws import DAYS, FAST, Bronze, Raw, Row, parquet_bytes, rows_of, table_of

A, B = rows_of("A", DAYS, 10.0), rows_of("B", DAYS[2:], 500.0)
VALUES = {row.key: row.value for row in A + B}
BAD = Row("A", DAYS[0], -5.0)


def command(raw, bronze, *options, env=()):
    """A load in a process of its own."""
    arguments = ["--input", str(raw), "--lake", bronze.uri, *FAST, *options]
    return subprocess.run(
        [sys.executable, "-P", "-m", "fibflow.pipelines.load", *arguments],
        env={**os.environ, **dict(env)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("failpoint", "landed"),
    [
        ("after-files", False),
        ("before-commit", False),
        ("after-commit", True),
        ("before-commit:2", True),
        ("after-commit:2", True),
        ("before-commit:3", True),
        ("after-commit:3", True),
    ],
)
def test_a_killed_load_leaves_the_lake_as_before_or_as_after(failpoint, landed, raw, bronze, capsys):
    raw.put("symbol=A/data.parquet", A)
    bronze.first(raw)
    before = bronze.values()
    raw.put("symbol=A/data.parquet", [A[0]._replace(value=77.0), *A[1:]])
    raw.put("symbol=B/data.parquet", [*B, BAD._replace(symbol="B")])
    after = VALUES | {A[0].key: 77.0}
    killed = command(raw, bronze, env={VARIABLE: failpoint}.items())
    assert killed.returncode == -signal.SIGKILL
    assert bronze.values() == (after if landed else before)
    bronze.load(raw)
    assert bronze.values() == after
    assert bronze.dead() == [("non_positive_price", "data.parquet", "B", -5.0)]
    bronze.load(raw)
    assert "every file was landed before" in capsys.readouterr().out


def test_a_first_load_that_is_killed_leaves_no_table(raw, bronze):
    raw.put("symbol=A/data.parquet", A)
    assert command(raw, bronze, "--price-basis", "raw", env={VARIABLE: "after-files"}.items()).returncode < 0
    assert not bronze.table().exists
    assert list(Path(bronze.uri).rglob("*.parquet"))
    bronze.first(raw)
    assert bronze.values() == {row.key: row.value for row in A}


def test_errors_are_one_line_on_standard_error(raw, bronze):
    raw.text("symbol=A/data.parquet", "this is no Parquet")
    failed = command(raw, bronze, "--price-basis", "raw", "--workers", "2")
    assert failed.returncode == 1
    said = [line for line in failed.stderr.splitlines() if line and not line.startswith("loading about")]
    assert len(said) == 1
    assert "cannot be read as Parquet" in said[0]
    bad = command(raw, bronze)
    assert (bad.returncode, len(bad.stderr.splitlines())) == (2, 1)


def meanwhile(monkeypatch, other):
    """Let another load land when the first one has written its files."""
    waiting = [other]

    def now(name):
        if name == "after-files" and waiting:
            waiting.pop()()

    monkeypatch.setattr(landing, "hit", now)


def test_two_loads_of_other_sessions_both_land(raw, bronze, tmp_path, monkeypatch):
    raw.put("a.parquet", A[:2])
    other = Raw(tmp_path / "other")
    other.put("b.parquet", A[2:] + B)
    meanwhile(monkeypatch, lambda: bronze.first(other))
    bronze.first(raw)
    assert bronze.values() == VALUES
    assert bronze.table().properties == bronze.table().snapshot(1).properties


def test_two_loads_of_other_symbols_both_land(raw, bronze, tmp_path, monkeypatch):
    raw.put("symbol=A/data.parquet", A)
    other = Raw(tmp_path / "other")
    other.put("symbol=B/data.parquet", B)
    meanwhile(monkeypatch, lambda: bronze.first(other))
    bronze.first(raw)
    assert bronze.values() == VALUES
    assert len(bronze.rows(tables.LEDGER)) == 2


def test_of_two_loads_of_the_same_sessions_one_lands(raw, bronze, tmp_path, monkeypatch):
    raw.put("symbol=A/data.parquet", [*A, BAD])
    other = Raw(tmp_path / "other")
    other.put("symbol=A/data.parquet", [row._replace(value=90.0) for row in A])
    meanwhile(monkeypatch, lambda: bronze.first(other))
    with pytest.raises(ConflictError, match="another run wrote bronze") as caught:
        bronze.first(raw)
    assert "\n" not in str(caught.value)
    assert set(bronze.values().values()) == {90.0}
    assert bronze.dead() == []
    bronze.first(raw)
    assert set(bronze.values()) == {row.key for row in A}


def test_a_load_is_merged_again_where_another_one_rewrote_its_file(raw, bronze, tmp_path, monkeypatch):
    year = [row for row in A if row.day.year == 2024]
    raw.put("first.parquet", year)
    bronze.first(raw)
    early, late = Raw(tmp_path / "early", raw.clock + 100), Raw(tmp_path / "late", raw.clock + 100)
    early.put("early.parquet", [year[0]._replace(value=77.0)])
    late.put("late.parquet", [year[-1]._replace(value=88.0)])
    meanwhile(monkeypatch, lambda: bronze.first(late))
    bronze.first(early)
    wanted = {row.key: row.value for row in year} | {year[0].key: 77.0, year[-1].key: 88.0}
    assert bronze.values() == wanted
    assert len(bronze.paths()) == 1
    assert bronze.landed()[year[0].key] > bronze.landed()[year[-1].key] > 1


@pytest.fixture
def s3_lake(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return Bronze(s3.uri("lake"), s3.aws)


def test_a_bucket_is_loaded_and_corrected(s3, s3_lake, capsys):
    source = s3.uri("history")
    s3.put("history/symbol=A/data.parquet", parquet_bytes(table_of(A, False)))
    s3.put("history/symbol=B/data.parquet", parquet_bytes(table_of(B, False)))
    s3_lake.first(source)
    assert s3_lake.values() == VALUES
    s3_lake.load(source)
    assert "every file was landed before" in capsys.readouterr().out
    s3.put(
        f"history/symbol=A/date={DAYS[0]}.parquet", parquet_bytes(table_of([A[0]._replace(value=7.0)], False))
    )
    s3_lake.load(source)
    assert s3_lake.values() == VALUES | {A[0].key: 7.0}
    assert s3_lake.dead() == [("duplicate", "data.parquet", "A", 10.0)]


def test_a_load_to_a_bucket_that_is_killed_can_be_made_again(s3, s3_lake, raw):
    raw.put("symbol=A/data.parquet", A)
    options = ("--price-basis", "raw", "--staging", s3.uri("staging"))
    killed = command(raw, s3_lake, *options, env={**s3.env, VARIABLE: "before-commit"}.items())
    assert killed.returncode == -signal.SIGKILL
    assert not s3_lake.table().exists
    s3_lake.load(raw, *options)
    assert s3_lake.values() == {row.key: row.value for row in A}


def test_a_wrong_bucket_is_one_line(s3, s3_lake, raw):
    raw.put("symbol=A/data.parquet", A)
    with pytest.raises(LakeError, match="no such bucket") as caught:
        Bronze("s3://no-such-bucket/lake", s3.aws).first(raw)
    assert "\n" not in str(caught.value)


def minutes(symbol, start, count, close=5.0, **more):
    stamps = [start + timedelta(minutes=number) for number in range(count)]
    values = np.full(count, close)
    columns = {
        "ticker": [symbol] * count,
        "window_start": pa.array(stamps, pa.timestamp("us", "UTC")),
        "open": values,
        "high": values + 1,
        "low": values - 1,
        "close": values,
        "volume": [100] * count,
    }
    return pa.table(columns | more)


def test_minutes_lie_in_the_month_of_their_session(raw, tmp_path):
    bronze = Bronze(str(tmp_path / "lake"), spec=tables.MINUTES)
    # Eight in the evening of the last of January, New York, is the first of February in UTC.
    evening = datetime(2024, 2, 1, 0, 0, tzinfo=UTC)
    raw.put("a.parquet", minutes("A", evening - timedelta(minutes=3), 6))
    raw.put("b.parquet", minutes("A", datetime(2024, 2, 1, 15, 0, tzinfo=UTC), 2))
    bronze.first(raw, "--kind", "minutes")
    assert [(row["period"], row["ts"].hour) for row in bronze.rows()] == [
        ("2024-01", 23),
        ("2024-01", 23),
        ("2024-01", 23),
        ("2024-01", 0),
        ("2024-01", 0),
        ("2024-01", 0),
        ("2024-02", 15),
        ("2024-02", 15),
    ]
    assert bronze.table().properties["fibflow.kind"] == "minutes"
    assert not bronze.table(tables.DAILY).exists


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ((2, 5.0), (1, 6.0), 5.0),
        ((1, 5.0), (2, 6.0), 6.0),
        ((None, 5.0), (1, 6.0), 6.0),
        ((1, 5.0), (1, 6.0), 6.0),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_the_greater_version_of_a_minute_wins(first, second, winner, at_once, raw, tmp_path):
    bronze = Bronze(str(tmp_path / "lake"), spec=tables.MINUTES)
    start = datetime(2024, 1, 3, 15, 0, tzinfo=UTC)
    for number, (version, close) in enumerate((first, second)):
        stamped = pa.array([version], pa.int64())
        raw.put(f"{number}.parquet", minutes("A", start, 1, close, version=stamped))
        if not at_once:
            bronze.first(raw, "--kind", "minutes")
    if at_once:
        bronze.first(raw, "--kind", "minutes")
    assert [row["close"] for row in bronze.rows()] == [winner]
    assert [dead[0] for dead in bronze.dead()] == ["duplicate"]


def test_days_and_minutes_share_a_lake_and_a_ledger(raw, tmp_path):
    days, by_minute = Bronze(str(tmp_path / "lake")), Bronze(str(tmp_path / "lake"), spec=tables.MINUTES)
    raw.put("days/symbol=A/data.parquet", A)
    raw.put("minutes/a.parquet", minutes("A", datetime(2024, 1, 3, 15, 0, tzinfo=UTC), 3))
    days.first(raw.base / "days")
    by_minute.first(raw.base / "minutes", "--kind", "minutes")
    days.load(raw.base / "days", "--full-refresh")
    entries = days.rows(tables.LEDGER)
    assert sorted((e["table"], e["landed"]) for e in entries) == [("bronze.daily", 2), ("bronze.minutes", 1)]
