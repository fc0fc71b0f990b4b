"""What a load refuses: each in one line, with the lake as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fibflow.io import tables
from fibflow.io.files import InputError
from fibflow.io.lake import Lake, PropertyMismatch, Scope
from fibflow.io.storage import LakeError
from fibflow.pipelines.cli import UsageError
from fibflow.tests.pipelines.raws import DAYS, Bronze, rows_of, table_of
from fibflow.transforms.calendar import CalendarError

A, B = rows_of("A", DAYS, 10.0), rows_of("B", DAYS[2:], 500.0)
VALUES = {row.key: row.value for row in A + B}


def by_symbol(raw):
    raw.put("symbol=A/data.parquet", A)
    raw.put("symbol=B/data.parquet", B)


def refused(bronze, raw, kind, match, *options):
    """A load that fails with one line, and leaves the lake as it was."""
    before = bronze.versions()
    with pytest.raises(kind, match=match) as caught:
        bronze.load(raw, *options)
    assert "\n" not in str(caught.value)
    assert bronze.versions() == before


def test_the_price_basis_has_to_be_declared_and_stays(raw, bronze):
    by_symbol(raw)
    refused(bronze, raw, UsageError, "--price-basis raw, or --price-basis split-adjusted")
    bronze.first(raw)
    refused(bronze, raw, PropertyMismatch, "price_basis=raw", "--price-basis", "split-adjusted")
    refused(bronze, raw, PropertyMismatch, "calendar=XNYS", "--calendar", "XLON")
    refused(bronze, raw, CalendarError, "unknown calendar", "--calendar", "NOWHERE", "--full-refresh")
    bronze.load(raw, "--price-basis", "split-adjusted", "--full-refresh")
    assert bronze.table().properties[tables.PRICE_BASIS] == "split-adjusted"
    assert bronze.values() == VALUES


def test_a_changed_calendar_is_refused_until_a_full_refresh(raw, bronze):
    by_symbol(raw)
    bronze.first(raw)
    table = bronze.table()
    hashes = json.loads(table.properties[tables.CALENDAR_HASHES])
    moved = {tables.CALENDAR_HASHES: json.dumps(hashes | {"2023": "another"})}
    table.commit(base_version=table.version, scope=Scope(symbols=()), run="t", properties=moved)
    refused(bronze, raw, UsageError, "calendar XNYS changed in 2023")
    bronze.load(raw, "--full-refresh")
    assert json.loads(bronze.table().properties[tables.CALENDAR_HASHES]) == hashes


def corrupt(raw):
    raw.text("symbol=A/data.parquet", "this is no Parquet")


def no_close(raw):
    raw.put("symbol=A/data.parquet", table_of(A, False, close=None))


def minutes_as_days(raw):
    raw.put("symbol=A/data.parquet", table_of(A, False, interval=["1m"] * len(A)))


def empty_folder(raw):
    raw.base.mkdir()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (corrupt, "cannot be read as Parquet"),
        (no_close, "no column for close"),
        (minutes_as_days, "the rows' interval is 1m"),
        (empty_folder, "no .parquet, .csv or .csv.gz file"),
        (lambda raw: None, "there is no such folder"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_unusable_input_is_one_line(make, match, workers, raw, bronze):
    make(raw)
    refused(bronze, raw, InputError, match, "--price-basis", "raw", "--workers", workers)
    assert not Path(bronze.uri).exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--misspelt"], "unknown option --misspelt"),
        (["--direct_num_workers", "many"], "invalid int value"),
        (["--symbols", ","], "names no symbol"),
        (["--symbols", "A", "--full-refresh"], "leave --symbols out"),
        (["--workers", "0"], "give 1 or more"),
    ],
)
def test_bad_usage_is_one_line(options, match, raw, bronze):
    by_symbol(raw)
    refused(bronze, raw, UsageError, match, "--price-basis", "raw", *options)


def test_a_lake_within_its_input_is_refused(raw):
    by_symbol(raw)
    refused(Bronze(str(raw.base / "lake")), raw, UsageError, "lies within --input", "--price-basis", "raw")


def test_a_table_of_another_kind_of_lake_is_refused(raw, bronze, tmp_path):
    by_symbol(raw)
    with pytest.raises(LakeError, match="no folder and no s3:// address"):
        Bronze("gs://bucket/lake").first(raw)
    assert not Lake(bronze.uri).table(tables.DAILY).exists
