"""Runs that fail: one line that says why and what to do, and a lake as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fibflow.tests.pipelines.lakes import (
    DAYS_70,
    NEXT,
    Silver,
    World,
    command,
    without_progress,
)
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of, table_of

NAMES = "3d,34d"
ASKED = ("--timeframes", NAMES)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("base"), *ASKED)


@pytest.fixture
def world(base, tmp_path):
    return base.copy(tmp_path)


@dataclass
class Case:
    """A run that fails: its exit code, a part of its one line, and what is done to the raw folder before."""

    name: str
    code: int
    says: str
    options: tuple[str, ...]
    spoil: Callable[[Raw], object] = field(default=lambda raw: None)


def corrupt(raw):
    raw.text("symbol=A/data.parquet", "PAR1 this is no Parquet PAR1")


def cut(raw):
    path = raw.base / "symbol=A" / "data.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def empty(raw):
    shutil.rmtree(raw.base)
    raw.base.mkdir()


def gone(raw):
    shutil.rmtree(raw.base)


def without_close(raw):
    raw.put("symbol=B/data.parquet", table_of(rows_of("B", DAYS_70), False, close=None))


def texts(raw):
    raw.put("symbol=B/data.parquet", table_of(rows_of("B", DAYS_70), False, open=[["x"]] * len(DAYS_70)))


def other_symbol(raw):
    raw.put("symbol=B/data.parquet", table_of(rows_of("C", DAYS_70)))


def intervals(raw):
    raw.put("symbol=B/data.parquet", table_of(rows_of("B", DAYS_70), False, interval=["1h"] * len(DAYS_70)))


RAW = ("--input", "RAW", "--price-basis", "raw")
FILES = [
    Case("corrupt Parquet", 1, "data.parquet: cannot be read as Parquet", RAW, corrupt),
    Case("Parquet that was cut", 1, "data.parquet: cannot be read as Parquet", RAW, cut),
    Case("an empty folder", 1, "no .parquet, .csv or .csv.gz file is in it", RAW, empty),
    Case("no folder", 1, "there is no such folder", RAW, gone),
    Case("a missing column", 1, "no column for close", RAW, without_close),
    Case("a column of another type", 1, "the column for open has the type list", RAW, texts),
    Case(
        "a symbol that contradicts its folder", 1, "the path says symbol B, its rows say C", RAW, other_symbol
    ),
    Case("another interval", 1, "1h", RAW, intervals),
    Case("no symbol of those asked for", 1, "no file holds a symbol of --symbols", (*RAW, "--symbols", "Y")),
    Case("an undeclared price basis", 2, "--price-basis raw or", ("--input", "RAW")),
    Case("an unknown calendar", 2, "unknown calendar 'NOPE'", (*RAW, "--calendar", "NOPE")),
    Case(
        "an as-of date before the calendar",
        2,
        "--as-of 1850-01-01 is before",
        (*RAW, "--as-of", "1850-01-01"),
    ),
    Case("no bronze table", 1, "there is no such table", ()),
    Case("an unknown timeframe", 2, "unknown timeframe '7x'", ("--timeframes", "7x")),
    Case("a timeframe that divides no day", 2, "does not divide a day", ("--timeframes", "7h")),
    Case("no timeframe", 2, "no timeframe given", ("--timeframes", ",")),
    Case("a start after the end", 2, "is not before", ("--start", "2024-02-01", "--end", "2024-01-01")),
    Case("a date that is none", 2, "'soon' is no date: write YYYY-MM-DD", ("--start", "soon")),
    Case("an unknown runner", 2, "argument --runner: invalid choice: 'spark'", ("--runner", "spark")),
    Case("an unknown anchor", 2, "argument --anchor: invalid choice: 'moon'", ("--anchor", "moon")),
    Case("an unknown option", 2, "unknown option --time-frames", (*RAW, "--time-frames=5d")),
    Case("a shortened option", 2, "unknown option --symbol", (*RAW, "--symbol=A")),
    Case("no symbols", 2, "--symbols names no symbol", ("--symbols", "")),
    Case("no worker", 2, "--workers is 0: give 1 or more", ("--workers", "0")),
    Case("days and minutes from one input", 2, "--input names one source", (*RAW, "--timeframes", "5d,5m")),
]


@pytest.mark.parametrize("case", FILES, ids=[case.name for case in FILES])
def test_a_failed_run_says_one_line_and_makes_no_table(case, base, tmp_path):
    raw = Raw(tmp_path / "raw", base.raw.clock)
    shutil.copytree(base.raw.base, raw.base)
    case.spoil(raw)
    lake = Silver(str(tmp_path / "lake"))
    failed = lake.fail(*ASKED, *(str(raw) if option == "RAW" else option for option in case.options))
    assert failed.code == case.code
    (line,) = failed.lines
    assert case.says in line
    assert not lake.table.exists


OTHERS = [
    Case(
        "another anchor",
        1,
        "was made with anchor=exchange; this run asks for anchor=rows",
        ("--anchor", "rows"),
    ),
    Case("another calendar than bronze's", 2, "was landed with calendar XNYS", ("--calendar", "XLON")),
    Case("another basis than bronze's", 2, "holds raw prices", ("--price-basis", "split-adjusted")),
    Case(
        "another calendar", 1, "made with calendar=XNYS", (*RAW, "--timeframes", "5d", "--calendar", "XLON")
    ),
    Case(
        "another price basis",
        1,
        "made with price_basis=raw; this run asks for price_basis=split-adjusted",
        ("--input", "RAW", "--timeframes", "5d", "--price-basis", "split-adjusted"),
    ),
    Case(
        "another price basis for some symbols",
        1,
        "price_basis=split-adjusted",
        ("--input", "RAW", "--price-basis", "split-adjusted", "--full-refresh", "--symbols", "A"),
    ),
    Case("a raw folder over what is there", 2, "--full-refresh replaces them", RAW),
    Case("an as-of time that goes back", 2, "is as of 2024-01-23", ("--as-of", "2023-12-01")),
    Case("corrupt Parquet", 1, "cannot be read as Parquet", (*RAW, "--full-refresh"), corrupt),
    Case("corrupt Parquet of one symbol", 1, "cannot be read as Parquet", (*RAW, "--symbols", "A"), corrupt),
]


@pytest.mark.parametrize("case", OTHERS, ids=[case.name for case in OTHERS])
def test_a_failed_run_leaves_the_table_as_it_was(case, world):
    case.spoil(world.raw)
    before, version = world.lake.bars(), world.lake.version
    failed = world.lake.fail(
        *ASKED, *(str(world.raw) if option == "RAW" else option for option in case.options)
    )
    assert failed.code == case.code
    (line,) = failed.lines
    assert case.says in line
    assert world.lake.version == version
    assert world.lake.bars() == before


def test_a_table_of_another_release_is_refused(world):
    """Its columns are others; what another tool wrote is not overwritten."""
    log = Path(world.lake.table.storage.base) / "_delta_log" / f"{0:020}.json"
    log.write_text(log.read_text().replace("trade_count", "trades_count"))
    failed = world.lake.fail(*ASKED, "--full-refresh")
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "has other columns" in failed.lines[0]


@pytest.mark.parametrize("name", ["bronze.daily", "silver.bars"])
def test_a_data_file_that_is_gone(name, world):
    for path in (Path(world.lake.uri) / name).rglob("*.parquet"):
        path.unlink()
    world.put_all("day", rows_of("A", NEXT[:1], 70.0))
    Bronze(world.lake.uri).first(world.raw) if name == "silver.bars" else None
    failed = world.lake.fail(*ASKED, *(["--full-refresh"] if name == "bronze.daily" else []))
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert f"of {name}" in failed.lines[0]
    assert world.lake.version == 0


def test_in_a_process_of_its_own_with_several_workers(base, tmp_path):
    raw = Raw(tmp_path / "raw")
    corrupt(raw)
    said = subprocess.run(
        command("batch", *RAW[2:], "--input", str(raw), "--lake", str(tmp_path / "lake"), "--workers", "2"),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert said.returncode == 1
    assert said.stdout == ""
    (line,) = without_progress(said.stderr)
    assert line.startswith("batch: ")
    assert line.endswith("replace it, or move it away")
    assert not list(tmp_path.glob("fibflow-*"))
