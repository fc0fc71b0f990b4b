"""A calendar that changes after bars were made with it: refused, and made anew when told to."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from fibflow.io import tables
from fibflow.io.lake import Scope
from fibflow.tests.pipelines.lakes import (
    NEXT,
    ROWS,
    XNYS,
    Silver,
    World,
    contents,
    daily_bars,
    holds,
)
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of
from fibflow.tests.pipelines.test_batch_minutes import table_of
from fibflow.transforms.calendar import load_calendar

NAMES = "3d,34d"
ASKED = ("--timeframes", NAMES)
ANCHORS = ("exchange", "listing", "rows")
#: Planned sessions that did not take place: B's first one is among them, and the last one of all.
CLOSED = [date(2023, 10, 25), date(2024, 1, 8), date(2024, 1, 23)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    world = World.make(tmp_path_factory.mktemp("base"), *ASKED)
    for anchor in ANCHORS[1:]:
        lake = Silver(str(world.folder / anchor), ("--input", f"{world.lake.uri}/bronze.daily"))
        lake.batch(*ASKED, "--anchor", anchor)
    return world


@pytest.fixture
def lakes(base, tmp_path):
    """The lakes by anchor, which are all made of one bronze table."""
    world = base.copy(tmp_path / "world")
    for anchor in ANCHORS[1:]:
        Silver(str(base.folder / anchor)).copy(world.folder / anchor)
    source = ("--input", f"{world.lake.uri}/bronze.daily", *ASKED)
    names = {"exchange": "lake", "listing": "listing", "rows": "rows"}
    return {a: Silver(str(world.folder / names[a]), (*source, "--anchor", a)) for a in ANCHORS}


@pytest.fixture
def close(tmp_path, monkeypatch):
    """Take sessions out of the calendar, as a newer release of the library may: out of what is kept of it."""

    def close(*days):
        kept = tmp_path / "cache" / "fibflow"
        # The one that runs of this year take.
        load_calendar("XNYS", datetime.now(UTC).year + 2, kept)
        (path,) = kept.glob("*.npz")
        with np.load(path) as stored:
            arrays = dict(stored)
        held = ~np.isin(arrays["days"], np.array(days, "datetime64[D]").astype(np.int32))
        for name in ("days", "opens", "closes", "day_starts", "day_ends"):
            arrays[name] = arrays[name][held]
        np.savez(path, **arrays)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    return close


def open_rows():
    return [row for row in ROWS if row.day not in CLOSED]


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_changed_calendar_is_refused_until_its_windows_are_made_anew(anchor, lakes, close):
    lake = lakes[anchor]
    before, version = lake.bars(), lake.version
    close(*CLOSED)
    few: tuple[tuple[str, ...], ...] = ((), ("--symbols", "A"), ("--timeframes", "5d"))
    for options in few:
        failed = lake.fail(*options)
        assert failed.code == 2
        (line,) = failed.lines
        assert "calendar XNYS changed in 2023, 2024 since silver.bars was made: --rewrite-calendar" in line
    # All at once, so that no window of the old calendar stays beside the new ones.
    for options in (
        ("--rewrite-calendar", "--symbols", "A"),
        ("--rewrite-calendar", "--start", "2024-01-01"),
        ("--rewrite-calendar", "--timeframes", "3d"),
        ("--full-refresh", "--timeframes", "3d"),
        ("--full-refresh", "--symbols", "A"),
    ):
        failed = lake.fail(*options)
        assert failed.code == 2
        (line,) = failed.lines
        assert "made anew at once: ask for --timeframes 3d,34d, without --symbols, --start and --end" in line
    assert (lake.version, lake.bars()) == (version, before)
    lake.batch("--rewrite-calendar")
    wanted = daily_bars(open_rows(), NAMES, anchor, calendar=XNYS.without(*map(str, CLOSED)))
    assert lake.content() == wanted
    lake.batch()
    assert lake.version == version + 1


def test_a_rewrite_touches_only_what_moves(lakes, close):
    lake = lakes["exchange"]
    before = lake.bars()
    close(CLOSED[2])
    lake.batch("--rewrite-calendar")
    now = lake.bars()
    assert contents(now) == daily_bars(
        [row for row in ROWS if row.day != CLOSED[2]], NAMES, calendar=XNYS.without(str(CLOSED[2]))
    )
    differing = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    assert differing == {key for key in before if key[1] == "3d" and holds(before[key], CLOSED[2])} | {
        key for key in before if key[1] == "34d" and holds(before[key], CLOSED[2])
    }


@pytest.mark.parametrize("anchor", ANCHORS)
def test_new_rows_come_with_the_rewrite(anchor, lakes, close):
    lake = lakes[anchor]
    new = rows_of("A", NEXT[:4], 70.0)
    world = Path(lake.source[1]).parent
    table = Bronze(str(world)).table()
    held = table.properties[tables.CALENDAR_HASHES]
    files = Raw(world.parent / "raw", 1_800_000_000)
    files.put("symbol=A/new.parquet", rows_of("A", NEXT[:4], 70.0))
    Bronze(str(world)).load(files)
    assert table.properties[tables.CALENDAR_HASHES] == held
    close(*CLOSED)
    lake.batch("--rewrite-calendar")
    wanted = daily_bars([*open_rows(), *new], NAMES, anchor, calendar=XNYS.without(*map(str, CLOSED)))
    unknown = ("vwap", "trade_count")
    assert {k: {n: b[n] for n in b if n not in unknown} for k, b in lake.content().items()} == {
        k: {n: b[n] for n in b if n not in unknown} for k, b in wanted.items()
    }


def test_a_full_refresh_takes_the_new_calendar(lakes, close):
    lake = lakes["exchange"]
    close(*CLOSED)
    lake.batch("--full-refresh")
    assert lake.content() == daily_bars(open_rows(), NAMES, calendar=XNYS.without(*map(str, CLOSED)))


def test_a_year_that_no_bar_reaches_may_change(lakes, close):
    lake = lakes["exchange"]
    years = json.loads(lake.table.properties[tables.CALENDAR_HASHES])
    assert max(years) == "2024"
    close(date(2025, 1, 9))
    version = lake.version
    lake.batch()
    assert lake.version == version


def test_the_last_window_may_end_in_the_next_year(base, tmp_path, close):
    """Its end moves when that year does."""
    lake = Silver(str(tmp_path / "lake"), ("--input", f"{base.lake.uri}/bronze.daily", *ASKED))
    lake.batch("--as-of", "2023-12-20")
    assert max(json.loads(lake.table.properties[tables.CALENDAR_HASHES])) == "2024"
    close(CLOSED[1])
    assert lake.fail("--as-of", "2023-12-20").code == 2
    lake.batch("--as-of", "2023-12-20", "--rewrite-calendar")
    calendar = XNYS.without(str(CLOSED[1]))
    assert lake.content() == daily_bars(ROWS, NAMES, as_of=date(2023, 12, 20), calendar=calendar)


def test_a_change_before_the_count_begins_needs_a_full_refresh(tmp_path, close):
    raw = Raw(tmp_path / "raw")
    early = [date(1999, 12, day) for day in (27, 28, 29, 30, 31)]
    raw.put("symbol=A/data.parquet", rows_of("A", early, 20.0))
    lake = Silver(str(tmp_path / "lake"), ASKED)
    Bronze(lake.uri).first(raw)
    lake.batch()
    close(early[1])
    failed = lake.fail("--rewrite-calendar")
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert "before its count begins: run with --full-refresh" in failed.lines[0]
    lake.batch("--full-refresh")
    assert {bar["sessions"] for bar in lake.bars().values()} == {1, 3, 4}


def test_hashes_that_differ_are_a_changed_calendar(lakes):
    lake = lakes["exchange"]
    hashes = json.loads(lake.table.properties[tables.CALENDAR_HASHES])
    lake.table.commit(
        base_version=lake.version,
        scope=Scope(symbols=()),
        run="older",
        properties={tables.CALENDAR_HASHES: json.dumps(hashes | {"2023": "another"})},
    )
    before = lake.bars()
    failed = lake.fail()
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert "changed in 2023" in failed.lines[0]
    lake.batch("--rewrite-calendar")
    # The sessions are the same after all: nothing differs.
    assert lake.bars() == before
    assert json.loads(lake.table.properties[tables.CALENDAR_HASHES]) == hashes


@pytest.mark.parametrize("anchor", ["midnight", "open"])
def test_minutes_of_a_session_that_was_none_go(anchor, tmp_path, close):
    """Bars of days and of minutes are made anew apart: one rewrite is not the other's."""
    days = [date(2024, 1, 5), *CLOSED[1:]]
    noon = [datetime(day.year, day.month, day.day, 17, tzinfo=UTC) for day in days]
    raw = Raw(tmp_path / "raw")
    raw.put("minutes/all.parquet", table_of({("A", at): 10.0 for at in noon}))
    raw.put("days/all.parquet", rows_of("A", days, 10.0))
    lake = Silver(str(tmp_path / "lake"), ("--timeframes", "5m,1h,3d", "--intraday-anchor", anchor))
    Bronze(lake.uri).first(raw.base / "days")
    Bronze(lake.uri, spec=tables.MINUTES).first(raw.base / "minutes", "--kind", "minutes")
    lake.batch()
    assert len([key for key in lake.bars() if key[1] in ("5m", "1h")]) == 6
    close(*CLOSED)
    lake.batch("--timeframes", "3d", "--rewrite-calendar")
    failed = lake.fail("--timeframes", "5m,1h")
    assert (failed.code, len(failed.lines)) == (2, 1)
    assert "changed in 2023, 2024" in failed.lines[0]
    lake.batch("--timeframes", "5m,1h", "--rewrite-calendar")
    assert len([key for key in lake.bars() if key[1] in ("5m", "1h")]) == 2
    # The newest minute is of no session now: the run is as of the one before.
    assert lake.table.app_version("as-of:bronze.minutes:1h") == (date(2024, 1, 22) - date(1970, 1, 1)).days
    version = lake.version
    lake.batch()
    assert lake.version == version
