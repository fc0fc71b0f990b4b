"""The batch job with its lake and its raw files in a bucket."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from fibflow.io import maintenance, tables
from fibflow.io.bars import BarReader
from fibflow.io.failpoints import VARIABLE
from fibflow.io.lake import Lake
from fibflow.pipelines import batch, load
from fibflow.tests.pipelines.lakes import (
    DAYS_70,
    NEXT,
    ROWS,
    Silver,
    command,
    contents,
    daily_bars,
    fail,
    revised,
    with_counts,
)
from fibflow.tests.pipelines.raws import FAST, parquet_bytes, rows_of

NAMES = "3d,34d"
ASKED = ("--timeframes", NAMES)


@pytest.fixture
def silver(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return Silver(s3.uri("lake"), aws=s3.aws)


def put(s3, name, rows):
    s3.put(f"history/{name}.parquet", parquet_bytes(with_counts(rows, "symbol=" not in name)))


def land(s3):
    load.run(["--input", s3.uri("history"), "--lake", s3.uri("lake"), "--price-basis", "raw", *FAST])


def test_load_batch_kill_and_point_reads(s3, silver, tmp_path):
    for symbol in "ABZ":
        put(s3, f"symbol={symbol}/data", [row for row in ROWS if row.symbol == symbol])
    land(s3)
    silver.batch(*ASKED)
    before = silver.bars()
    assert contents(before) == daily_bars(ROWS, NAMES)
    assert silver.version == 0

    # A session that follows, and a correction: a run that is killed leaves the table as it was, or complete.
    new = rows_of("A", NEXT[:1], 70.0)
    put(s3, "day", new)
    put(s3, "symbol=B/date=2023-11-01", rows_of("B", [DAYS_70[14]], 240.0))
    land(s3)
    rows = [*(row for row in ROWS if (row.symbol, row.day) != ("B", DAYS_70[14])), *new]
    rows += rows_of("B", [DAYS_70[14]], 240.0)
    wanted = daily_bars(rows, NAMES)
    for failpoint, landed in (("after-files", False), ("before-commit", False), ("after-commit", True)):
        killed = subprocess.run(
            command("batch", "--lake", silver.uri, *FAST, *ASKED),
            env=os.environ | {"TMPDIR": str(tmp_path), VARIABLE: failpoint},
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert silver.content() == (wanted if landed else contents(before))
    silver.batch(*ASKED)
    now = silver.bars()
    assert contents(now) == wanted
    assert silver.version == 1
    assert {key[0] for key in revised(before, now)} == {"A", "B"}

    # What the killed runs left goes; what readers need stays.
    lake = Lake(silver.uri, s3.aws)
    # The store's clock is the service's own.
    held = {entry["Key"]: entry["LastModified"] for entry in list_objects(s3, "lake/silver.bars/timeframe=")}
    orphans = {key.removeprefix("lake/silver.bars/") for key in held} - lake.table(
        tables.BARS
    ).snapshot().paths
    assert orphans
    gone = maintenance.vacuum(
        lake.table(tables.BARS), max(held.values()).replace(year=2100), 0, dry_run=False
    )
    assert set(gone.paths) == orphans
    last = BarReader(lake).last("A", "34d", 500)
    assert last["close"].to_pylist() == [
        bar["close"] for key, bar in sorted(wanted.items()) if key[:2] == ("A", "34d")
    ]
    assert not [entry for entry in list_objects(s3, "lake/") if "_staging" in entry["Key"]]


def list_objects(s3, prefix):
    return s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])


def test_a_raw_folder_and_a_staging_place_in_the_bucket(s3, silver):
    put(s3, "all", ROWS)
    raw = ("--input", s3.uri("history"), "--price-basis", "raw", "--staging", s3.uri("temporary"))
    silver.batch(*raw, *ASKED)
    assert silver.content() == daily_bars(ROWS, NAMES)
    assert not [entry for entry in list_objects(s3, "temporary/") if entry["Size"]]


def test_of_runs_at_once_on_other_symbols_both_land(s3, silver, tmp_path):
    put(s3, "all", ROWS)
    land(s3)
    processes = []
    for symbols in ("A", "B,Z"):
        folder = tmp_path / symbols
        folder.mkdir()
        run = command("batch", "--lake", silver.uri, *FAST, *ASKED, "--symbols", symbols)
        quiet = subprocess.DEVNULL
        environment = os.environ | {"TMPDIR": str(folder)}
        processes.append(subprocess.Popen(run, env=environment, stdout=quiet, stderr=quiet))
    assert [process.wait() for process in processes] == [0, 0]
    assert silver.content() == daily_bars(ROWS, NAMES)
    assert not [entry["Key"] for entry in list_objects(s3, "lake/") if "lock" in entry["Key"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--lake", "s3://no-such-bucket/lake"), "no-such-bucket"),
        (
            ("--lake", "LAKE", "--input", "s3://no-such-bucket/history", "--price-basis", "raw"),
            "no-such-bucket",
        ),
        (("--lake", "LAKE", "--input", "LAKE/nothing", "--price-basis", "raw"), "nothing"),
        (("--lake", "LAKE"), "there is no such table"),
    ],
    ids=["of the lake", "of the input", "a folder", "no bronze table"],
)
def test_a_wrong_bucket_is_one_line(options, says, s3, silver):
    failed = fail(batch.run, *(option.replace("LAKE", silver.uri) for option in options), *FAST)
    assert failed.code == 1
    (line,) = failed.lines
    assert says in line
    assert not list_objects(s3, "")


def test_without_credentials(s3, silver, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    failed = fail(batch.run, "--lake", silver.uri)
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "credentials" in failed.lines[0]
