"""One run of ``pipelines.batch``: what it makes, and what each option changes."""

from __future__ import annotations

import math
from collections import Counter
from datetime import date
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake, Scope
from fibflow.pipelines import job
from fibflow.pipelines.plan import plan_bronze, plan_raw
from fibflow.tests.pipelines.lakes import (
    DAYS_70,
    NEXT,
    ROWS,
    Silver,
    World,
    contents,
    daily_bars,
    files_in,
    instant,
)
from fibflow.tests.pipelines.raws import Bronze, Raw, Row, rows_of

NAMES = "3d,5d,34d"
ANCHORS = ("exchange", "listing", "rows")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("base"), "--timeframes", NAMES)


@pytest.fixture
def world(base, tmp_path):
    return base.copy(tmp_path)


@pytest.fixture
def bronze(base, tmp_path):
    """A lake of its own that takes its rows from the bronze table of the shared one."""
    return Silver(str(tmp_path / "lake"), ("--input", f"{base.lake.uri}/bronze.daily"))


@pytest.fixture
def raw(base, tmp_path):
    """A lake of its own that takes its rows from the raw files."""
    return Silver(str(tmp_path / "raw-lake"), ("--input", str(base.raw), "--price-basis", "raw"))


@pytest.mark.parametrize("complete_only", [False, True])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_full_run_makes_what_the_kernel_makes(anchor, complete_only, bronze, raw):
    options = ["--timeframes", NAMES, "--anchor", anchor, *(["--complete-only"] if complete_only else [])]
    wanted = daily_bars(ROWS, NAMES, anchor, complete_only=complete_only)
    for lake in (bronze, raw):
        lake.batch(*options)
        bars = lake.bars()
        assert contents(bars) == wanted
        assert {bar["revision"] for bar in bars.values()} == {0}
        assert lake.version == 0


def test_a_run_says_what_it_did(base, bronze, capsys):
    bronze.batch("--timeframes", "5d")
    told = {name.strip(): value.strip() for name, value in rows_of_table(capsys.readouterr().out)}
    bars = bronze.content()
    assert told.pop("seconds")
    assert told == {
        "rows read": str(len(ROWS)),
        "bars 5d": str(len(bars)),
        "files written": "2",
        "table version": "0",
    }


def rows_of_table(printed):
    return [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]


def test_by_default_a_run_makes_the_fibonacci_timeframes(bronze):
    bronze.batch()
    assert {key[1] for key in bronze.bars()} == {"3d", "5d", "8d", "13d", "21d", "34d"}


def test_the_table_remembers_how_it_was_made(world):
    properties = world.lake.table.properties
    assert properties[tables.CALENDAR] == "XNYS"
    assert properties[tables.ANCHOR] == "exchange"
    assert properties[tables.PRICE_BASIS] == "raw"
    assert tables.INTRADAY_ANCHOR not in properties


@pytest.mark.parametrize("complete_only", [False, True])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_number_of_units_and_workers_changes_no_bar(anchor, complete_only, bronze, raw, monkeypatch):
    """Each unit knows the newest session of its own symbols only: Z's last one is an old one."""
    monkeypatch.setattr(job, "plan_raw", partial(plan_raw, unit_rows=20))
    monkeypatch.setattr(job, "plan_bronze", partial(plan_bronze, unit_rows=20))
    options = ["--timeframes", NAMES, "--anchor", anchor, "--workers", "3"]
    for lake in (bronze, raw):
        lake.batch(*options, *(["--complete-only"] if complete_only else []))
        assert lake.content() == daily_bars(ROWS, NAMES, anchor, complete_only=complete_only)
        assert len(lake.paths("3d", complete=True)) > 1


def test_refused_rows_are_kept_with_their_reasons(base, tmp_path, capsys):
    folder = Raw(tmp_path / "files")
    folder.put("symbol=A/data.parquet", [row for row in ROWS if row.symbol == "A"])
    folder.put("symbol=A/date=2023-10-12.parquet", [Row("A", DAYS_70[0], 99.0)])
    folder.put("bad.parquet", [Row("A", DAYS_70[1], -5.0), Row("A", DAYS_70[1].replace(day=15), 5.0)])
    lake = Silver(str(tmp_path / "lake"), ("--input", str(folder), "--price-basis", "raw"))
    lake.batch("--timeframes", "3d")
    printed = capsys.readouterr().out
    for reason in ("duplicate", "non_positive_price", "not_a_session"):
        assert f"rejected: {reason}" in printed
    dead = [(reason, value) for reason, _, _, value in Bronze(lake.uri).dead()]
    assert dead == [("duplicate", 10.0), ("non_positive_price", -5.0), ("not_a_session", 5.0)]
    # Made anew, the same rows are refused; they are there once.
    lake.batch("--timeframes", "3d", "--full-refresh")
    assert len(Bronze(lake.uri).dead()) == 3


# Anchors ---------------------------------------------------------------------------------------------------


def test_rows_keeps_the_trailing_window_unless_told_otherwise(bronze):
    held = Counter(row.symbol for row in ROWS)
    bronze.batch("--anchor", "rows", "--timeframes", NAMES)
    counted = Counter(key[:2] for key in bronze.bars())
    assert counted == {(s, f"{n}d"): math.ceil(held[s] / n) for s in held for n in (3, 5, 34)}
    bronze.batch("--anchor", "rows", "--timeframes", NAMES, "--full-refresh", "--complete-only")
    counted = Counter(key[:2] for key in bronze.bars())
    assert counted == {(s, f"{n}d"): held[s] // n for s in held for n in (3, 5, 34)}


def test_another_anchor_may_replace_all_bars(world):
    assert world.lake.fail("--timeframes", NAMES, "--anchor", "rows").code == 1
    assert world.lake.fail("--timeframes", "3d", "--anchor", "rows", "--full-refresh").code == 1
    world.lake.batch("--timeframes", NAMES, "--anchor", "rows", "--full-refresh")
    assert world.lake.content() == daily_bars(ROWS, NAMES, "rows")
    assert world.lake.table.properties[tables.ANCHOR] == "rows"


# Which windows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "bounds"),
    [
        ("exchange", (21, None)),
        ("exchange", (None, 44)),
        ("exchange", (0, 1)),
        ("exchange", (21, 44)),
        ("listing", (21, 44)),
        ("rows", (21, 44)),
    ],
    ids=str,
)
def test_start_and_end_choose_windows_and_move_no_anchor(anchor, bounds, bronze):
    first, last = (None if place is None else DAYS_70[place] for place in bounds)
    options = [*(["--start", str(first)] if first else []), *(["--end", str(last)] if last else [])]
    bronze.batch("--timeframes", NAMES, "--anchor", anchor, *options)
    assert bronze.content() == {
        key: bar
        for key, bar in daily_bars(ROWS, NAMES, anchor).items()
        if (first is None or key[2] >= instant(first)) and (last is None or key[2] < instant(last))
    }


def test_windows_are_added_range_by_range_and_then_all(bronze):
    wanted = daily_bars(ROWS, NAMES)
    middle = str(DAYS_70[35])
    bronze.batch("--timeframes", NAMES, "--end", middle)
    bronze.batch("--timeframes", NAMES, "--start", middle)
    assert bronze.content() == wanted
    assert {bar["revision"] for bar in bronze.bars().values()} == {0}
    # Ranges say nothing of the windows between them: the next run for all makes all.
    bronze.batch("--timeframes", NAMES)
    assert bronze.content() == wanted


def test_a_range_of_what_changed(world):
    rows = [
        row._replace(value=row.value + 7) if row.day in (DAYS_70[15], DAYS_70[60]) else row for row in ROWS
    ]
    world.put([row for row in rows if row.symbol == "A"])
    world.land()
    early, late = daily_bars(ROWS, NAMES), daily_bars([*rows[:70], *ROWS[70:]], NAMES)
    world.lake.batch("--timeframes", NAMES, "--start", str(DAYS_70[40]))
    edge = instant(DAYS_70[40])
    assert world.lake.content() == {key: (late if key[2] >= edge else early)[key] for key in early}
    # The rest is still to be made.
    world.lake.batch("--timeframes", NAMES)
    assert world.lake.content() == late


def test_start_on_a_day_without_session_is_the_next_session(bronze):
    bronze.batch("--timeframes", "1d", "--start", "2024-01-13", "--end", "2024-01-17")
    assert sorted({key[2] for key in bronze.bars()}) == [instant(date(2024, 1, 16))]


def test_only_some_symbols(bronze):
    wanted = daily_bars(ROWS, NAMES)
    bronze.batch("--timeframes", NAMES, "--symbols", "B, Z")
    assert bronze.content() == {key: bar for key, bar in wanted.items() if key[0] in "BZ"}
    kept = bronze.bars()
    bronze.batch("--timeframes", NAMES, "--symbols", "A")
    assert bronze.content() == wanted
    assert {key: bar for key, bar in bronze.bars().items() if key[0] in "BZ"} == kept
    version = bronze.version
    for symbols in ("B,Z", "Z,B", "A"):
        bronze.batch("--timeframes", NAMES, "--symbols", symbols)
        assert bronze.version == version


def test_some_symbols_first_and_then_all(world, capsys):
    rows = rows_of("A", NEXT[:1], 70.0) + rows_of("B", NEXT[:1], 270.0)
    world.put_all("day", rows)
    world.land()
    old, new = daily_bars(ROWS, NAMES), daily_bars([*ROWS, *rows], NAMES)
    world.lake.batch("--timeframes", NAMES, "--symbols", "A")
    assert world.lake.content() == {
        key: (new if key[0] == "A" else old)[key] for key in new if key[0] == "A" or key in old
    }
    capsys.readouterr()
    world.lake.batch("--timeframes", NAMES, "--symbols", "A")
    assert "no new data" in capsys.readouterr().out
    world.lake.batch("--timeframes", NAMES)
    assert world.lake.content() == new


# As-of -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", ANCHORS)
def test_rows_after_the_as_of_time_are_not_used(anchor, bronze, raw):
    options = ("--timeframes", NAMES, "--anchor", anchor, "--as-of", str(DAYS_70[44]))
    for lake in (bronze, raw):
        lake.batch(*options)
        assert lake.content() == daily_bars(ROWS, NAMES, anchor, as_of=DAYS_70[44])


def test_an_as_of_time_without_session_or_data_is_the_session_before(bronze):
    bronze.batch("--timeframes", NAMES, "--as-of", "2024-01-15")
    assert bronze.content() == daily_bars(ROWS, NAMES, as_of=date(2024, 1, 12))
    bronze.batch("--timeframes", NAMES, "--as-of", "2030-01-01")
    assert all(bar["complete"] for bar in bronze.bars().values())
    assert bronze.content() == daily_bars(ROWS, NAMES, as_of=date(2030, 1, 1))


def test_the_as_of_time_goes_back_only_with_a_full_refresh(world):
    early = str(DAYS_70[44])
    version = world.lake.version
    failed = world.lake.fail("--timeframes", NAMES, "--as-of", early)
    assert failed.code == 2
    (line,) = failed.lines
    assert "silver.bars is as of 2024-01-23" in line
    assert "--full-refresh" in line
    assert world.lake.version == version
    world.lake.batch("--timeframes", NAMES, "--as-of", early, "--full-refresh")
    assert world.lake.content() == daily_bars(ROWS, NAMES, as_of=DAYS_70[44])
    # From there on it goes forward again, for some symbols too, whose bars were ahead before.
    world.lake.batch("--timeframes", NAMES, "--symbols", "A")
    world.lake.batch("--timeframes", NAMES)
    assert world.lake.content() == daily_bars(ROWS, NAMES)


def test_marks_of_some_symbols_end_when_all_are_made_anew(bronze):
    """The symbols were ahead of all others; a full refresh brings them back."""
    early = ("--timeframes", NAMES, "--as-of", str(DAYS_70[44]))
    bronze.batch(*early)
    bronze.batch("--timeframes", NAMES, "--symbols", "A")
    bronze.batch("--timeframes", NAMES, "--as-of", str(DAYS_70[30]), "--full-refresh")
    bronze.batch("--timeframes", NAMES, "--symbols", "A")
    wanted, others = daily_bars(ROWS, NAMES), daily_bars(ROWS, NAMES, as_of=DAYS_70[30])
    assert bronze.content() == {
        **{key: bar for key, bar in wanted.items() if key[0] == "A"},
        **{key: bar for key, bar in others.items() if key[0] != "A"},
    }


# Anew ------------------------------------------------------------------------------------------------------


def test_a_full_refresh_replaces_everything(world):
    files = world.lake.paths("3d")
    world.lake.batch("--timeframes", NAMES, "--full-refresh")
    assert world.lake.content() == daily_bars(ROWS, NAMES)
    assert not files & world.lake.paths("3d")


def test_timeframes_that_are_added_later(world, capsys):
    files = {name: world.lake.paths(name) for name in NAMES.split(",")}
    world.lake.batch("--timeframes", f"{NAMES},8d")
    assert "no new data" not in capsys.readouterr().out
    assert world.lake.content() == daily_bars(ROWS, f"{NAMES},8d")
    assert {name: world.lake.paths(name) for name in files} == files
    # Each goes on from where it is.
    rows = rows_of("A", NEXT[:2], 70.0)
    world.put_all("day", rows)
    world.land()
    world.lake.batch("--timeframes", "8d")
    world.lake.batch("--timeframes", f"{NAMES},8d,2d")
    assert world.lake.content() == daily_bars([*ROWS, *rows], f"{NAMES},8d,2d")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no new data"),
        (("--full-refresh",), "would read about 181 rows"),
        (("--timeframes", "8d"), "would read about 181 rows"),
    ],
    ids=["nothing new", "anew", "another timeframe"],
)
def test_a_dry_run_writes_nothing(options, says, world, capsys):
    before = files_in(world.lake.uri)
    capsys.readouterr()
    world.lake.batch("--timeframes", NAMES, *options, "--dry-run")
    printed = capsys.readouterr().out
    assert says in " ".join(printed.replace("│", " ").split())
    assert f"table version │ {world.lake.version}" in " ".join(printed.split())
    assert files_in(world.lake.uri) == before


def test_a_dry_run_says_from_when_on_windows_change(world, capsys):
    world.put_all("day", rows_of("A", NEXT[:1], 70.0))
    world.land()
    before = files_in(world.lake.uri)
    world.lake.batch("--timeframes", NAMES, "--dry-run")
    assert f"changed from {NEXT[0]} on" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert files_in(world.lake.uri) == before


def test_a_dry_run_makes_no_lake(raw, bronze, tmp_path):
    for lake in (raw, bronze):
        lake.batch("--timeframes", NAMES, "--dry-run")
        assert not (tmp_path / lake.uri).exists()


# Raw folders -----------------------------------------------------------------------------------------------


def test_a_raw_folder_replaces_bars_only_when_told_to(world):
    raw = ("--input", str(world.raw), "--price-basis", "raw", "--timeframes", NAMES)
    failed = world.lake.fail(*raw)
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert "holds 3d, 5d, 34d bars" in failed.lines[0]
    world.put(rows_of("A", DAYS_70, 500.0))
    new = daily_bars([*rows_of("A", DAYS_70, 500.0), *ROWS[70:]], NAMES)
    world.lake.batch(*raw, "--symbols", "A")
    assert world.lake.content() == new
    assert {bar["revision"] for key, bar in world.lake.bars().items() if key[0] == "A"} == {1}
    world.lake.batch(*raw, "--full-refresh")
    assert world.lake.content() == new
    # Bronze has not landed that: its bars come back, all of them.
    world.lake.batch("--timeframes", NAMES)
    assert world.lake.content() == daily_bars(ROWS, NAMES)
    version = world.lake.version
    world.lake.batch("--timeframes", NAMES)
    assert world.lake.version == version


def test_only_some_symbols_of_a_raw_folder(raw, base):
    raw.batch("--timeframes", NAMES, "--symbols", "B")
    own = [row for row in ROWS if row.symbol == "B"]
    assert raw.content() == daily_bars(own, NAMES)
    assert (lambda failed: (failed.code, len(failed.lines)))(raw.fail("--symbols", "Y")) == (1, 1)


# Bronze tables ---------------------------------------------------------------------------------------------


def test_a_bronze_table_that_was_made_anew_is_another_one(world):
    """Its versions begin again, so that they say nothing."""
    bronze = Bronze(world.lake.uri)
    for name in ("bronze.daily", "bronze.ledger"):
        (world.folder / "lake" / name).rename(world.folder / name)
    other = rows_of("A", DAYS_70[:50], 900.0)
    files = Raw(world.folder / "other")
    files.put("other.parquet", other)
    bronze.first(files)
    world.lake.batch("--timeframes", NAMES)
    assert {key[0] for key in world.lake.bars()} == {"A"}
    assert {key[2] for key in world.lake.bars()} == {key[2] for key in daily_bars(other, NAMES)}


def test_after_a_load_anew_the_bars_have_to_be_made_anew(world):
    Bronze(world.lake.uri).first(world.raw, "--full-refresh")
    version = world.lake.version
    failed = world.lake.fail("--timeframes", NAMES)
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "was landed anew since the last run: run with --full-refresh" in failed.lines[0]
    assert world.lake.version == version
    world.lake.batch("--timeframes", NAMES, "--full-refresh")
    assert world.lake.content() == daily_bars(ROWS, NAMES)


def test_the_reader_reads_what_a_run_made(world):
    bars = BarReader(Lake(world.lake.uri)).last("A", "34d", 500)
    found = bars["ts"].cast(pa.int64()).to_pylist()
    assert found == sorted(key[2] for key in world.lake.bars() if key[:2] == ("A", "34d"))


def test_an_empty_bronze_table(world):
    table = Bronze(world.lake.uri).table()
    snapshot = table.snapshot()
    table.commit([], snapshot.select(), base_version=snapshot.version, scope=Scope(), run="none")
    failed = world.lake.fail("--timeframes", NAMES)
    assert failed.code == 1
    assert "holds no rows" in failed.lines[0]
    assert np.unique([key[1] for key in world.lake.bars()]).tolist() == ["34d", "3d", "5d"]
