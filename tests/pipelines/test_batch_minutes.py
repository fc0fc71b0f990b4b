"""Minutes to intraday bars: around half days and changes of the clocks, in one run and in steps."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.pipelines import job
from fibflow.pipelines.plan import plan_bronze, plan_raw
from fibflow.tests.pipelines.lakes import Silver, contents, instant, minute_bars, revised
from fibflow.tests.pipelines.raws import Bronze, Raw

NAMES = "5m,15m,1h,4h"
ANCHORS = ("midnight", "open")
NEW_YORK = ZoneInfo("America/New_York")
#: Sessions next to a change of the clocks, at the turn of a quarter, a half day, and the end of a year.
DAYS = ["2024-03-08", "2024-03-11", "2024-06-28", "2024-07-02", "2024-07-03", "2024-12-31"]


def draw(symbol, day, numbers):
    """A price by (symbol, instant): before, in and after regular hours."""
    values = {}
    for clock, count in (("07:28", 4), ("09:30", 12), ("12:55", 10), ("15:50", 15), ("19:57", 2)):
        begin = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=NEW_YORK).astimezone(UTC)
        for number in range(count):
            if numbers.random() < 0.9:
                values[symbol, begin + timedelta(minutes=number)] = round(numbers.uniform(5, 50), 2)
    return values


def table_of(values):
    prices = np.array(list(values.values()))
    return pa.table(
        {
            "ticker": [symbol for symbol, _ in values],
            "window_start": pa.array([ts for _, ts in values], pa.timestamp("us", "UTC")),
            **dict.fromkeys(("open", "high", "low", "close"), prices),
            "volume": [100] * len(values),
        }
    )


def of_day(values, *days):
    return {key: price for key, price in values.items() if str(key[1].astimezone(NEW_YORK).date()) in days}


@pytest.fixture(scope="module")
def values():
    numbers = random.Random(5)
    return {
        key: price for day in DAYS for symbol in "ABC" for key, price in draw(symbol, day, numbers).items()
    }


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path / "raw")


@pytest.fixture
def bronze(tmp_path):
    return Bronze(str(tmp_path / "bronze"), spec=tables.MINUTES)


def land(bronze, raw):
    bronze.first(raw, "--kind", "minutes")


def lake(tmp_path, bronze, anchor="midnight", name="lake", names=NAMES):
    source = ("--input", f"{bronze.uri}/bronze.minutes", "--timeframes", names, "--intraday-anchor", anchor)
    return Silver(str(tmp_path / f"{name}-{anchor}"), source)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_steps_leave_what_a_full_run_makes(anchor, values, raw, bronze, tmp_path):
    silver = lake(tmp_path, bronze, anchor)
    late = of_day(values, DAYS[1])
    held = {}

    def step(name, some):
        raw.put(f"{name}.parquet", table_of(some))
        held.update(some)
        land(bronze, raw)
        before = silver.bars()
        silver.batch()
        now = silver.bars()
        assert contents(now) == minute_bars(held, NAMES, anchor), name
        return before, now

    step("start", of_day(values, DAYS[0]) | {key: late[key] for key in late if key[0] != "C"})
    step("one session", of_day(values, DAYS[2]))
    step("several sessions", of_day(values, DAYS[3], DAYS[4]))
    key = next(key for key in held if key[0] == "B")
    before, now = step("a correction", {key: 44.0})
    at = int(key[1].timestamp()) * 1_000_000
    assert revised(before, now) == {
        k for k, bar in now.items() if k[0] == "B" and bar["ts"] <= at < bar["end"]
    }
    assert len(revised(before, now)) == 4
    before, now = step("a symbol that is late", {key: late[key] for key in late if key[0] == "C"})
    assert not revised(before, now)
    assert {k[0] for k in now.keys() - before.keys()} == {"C"}
    step("another year", of_day(values, DAYS[5]))
    fresh = Silver(str(tmp_path / f"fresh-{anchor}"), ("--input", str(raw), "--price-basis", "raw"))
    fresh.batch("--timeframes", NAMES, "--intraday-anchor", anchor)
    assert fresh.content() == silver.content()
    version = silver.version
    silver.batch()
    assert silver.version == version


def test_hours_stand_at_whole_hours_before_and_after_the_clocks_change(values, raw, bronze, tmp_path):
    raw.put("all.parquet", table_of(of_day(values, DAYS[0], DAYS[1], DAYS[4])))
    land(bronze, raw)
    for anchor in ANCHORS:
        silver = lake(tmp_path, bronze, anchor, names="1h")
        silver.batch()
        starts = {datetime.fromtimestamp(key[2] / 1e6, NEW_YORK) for key in silver.bars()}
        ends = {datetime.fromtimestamp(bar["end"] / 1e6, NEW_YORK) for bar in silver.bars().values()}
        assert {at.minute for at in starts} == ({0} if anchor == "midnight" else {0, 30})
        assert {at.hour for at in starts if str(at.date()) == DAYS[0]} == {
            at.hour for at in starts if str(at.date()) == DAYS[1]
        }
        if anchor == "open":
            # The half day's last regular bar is cut at its close.
            assert datetime.fromisoformat(f"{DAYS[4]}T13:00").replace(tzinfo=NEW_YORK) in ends


def test_an_as_of_time_moves_forward_without_new_rows(values, raw, bronze, tmp_path, capsys):
    raw.put("all.parquet", table_of(values))
    land(bronze, raw)
    silver = lake(tmp_path, bronze)
    for number in (2, 4, 6):
        silver.batch("--as-of", DAYS[number - 1])
        assert silver.content() == minute_bars(of_day(values, *DAYS[:number]), NAMES)
    capsys.readouterr()
    silver.batch()
    assert "no new data" in capsys.readouterr().out


def test_start_and_end_and_symbols(values, raw, bronze, tmp_path):
    raw.put("all.parquet", table_of(values))
    land(bronze, raw)
    silver = lake(tmp_path, bronze)
    first, last = (datetime.fromisoformat(day).date() for day in (DAYS[1], DAYS[3]))
    silver.batch("--start", DAYS[1], "--end", DAYS[3], "--symbols", "A,C")
    assert silver.content() == {
        key: bar
        for key, bar in minute_bars(values, NAMES).items()
        if instant(first) <= key[2] < instant(last) and key[0] != "B"
    }


@pytest.mark.parametrize("workers", ["1", "3"])
def test_many_small_units_of_narrow_and_wide_files(workers, values, raw, bronze, tmp_path, monkeypatch):
    """A session's minutes of a symbol lie in a file of its own and in one of all symbols."""
    monkeypatch.setattr(job, "plan_raw", partial(plan_raw, unit_rows=50))
    monkeypatch.setattr(job, "plan_bronze", partial(plan_bronze, unit_rows=50))
    places = list(values)
    raw.put("A.parquet", table_of({key: values[key] for key in places[::2] if key[0] == "A"}))
    raw.put(
        "rest.parquet",
        table_of({key: values[key] for key in places if key[0] != "A" or key not in places[::2]}),
    )
    land(bronze, raw)
    # One that is landed later is a narrow file of the bronze table.
    extra = {
        (symbol, ts + timedelta(seconds=60 * 60)): price
        for (symbol, ts), price in of_day(values, DAYS[0]).items()
    }
    extra = {key: price for key, price in extra.items() if key[0] == "A" and key not in values}
    raw.put("extra.parquet", table_of(extra))
    land(bronze, raw)
    wanted = minute_bars(values | extra, NAMES)
    silver = lake(tmp_path, bronze)
    files = Silver(
        str(tmp_path / "files"), ("--input", str(raw), "--price-basis", "raw", "--timeframes", NAMES)
    )
    for each in (silver, files):
        each.batch("--workers", workers)
        assert each.content() == wanted


def test_bars_of_days_and_of_minutes_share_a_table(values, raw, tmp_path):
    raw.put("minutes/all.parquet", table_of(of_day(values, DAYS[0])))
    raw.text("days/A.csv", "symbol,date,open,high,low,close,volume\nA,2024-03-08,1,1,1,1,1\n")
    silver = Silver(str(tmp_path / "lake"))
    Bronze(silver.uri).first(raw.base / "days")
    # Where one of the two would be refused, the other is not begun.
    failed = silver.fail("--timeframes", "3d,1h")
    assert (failed.code, len(failed.lines)) == (1, 1)
    assert "bronze.minutes: there is no such table" in failed.lines[0]
    assert not silver.table.exists
    Bronze(silver.uri).first(raw.base / "minutes", "--kind", "minutes")
    silver.batch("--timeframes", "3d,1h", "--anchor", "rows", "--intraday-anchor", "open")
    assert {key[1] for key in silver.bars()} == {"3d", "1h"}
    assert silver.version == 1
    properties = silver.table.properties
    assert (properties[tables.ANCHOR], properties[tables.INTRADAY_ANCHOR]) == ("rows", "open")
    assert silver.fail("--timeframes", "1h").code == 1
    # An anchor of hours is none of days: it may change while those stay.
    silver.batch("--timeframes", "1h", "--full-refresh")
    assert silver.content().keys() >= minute_bars(of_day(values, DAYS[0]), "1h").keys()
    assert silver.table.properties[tables.ANCHOR] == "rows"
    failed = silver.fail("--timeframes", "3d,1h", "--input", "bronze.minutes")
    assert (failed.code, len(failed.lines)) == (2, 1)
    for name in ("bronze.minutes", f"{silver.uri}/bronze.minutes/"):
        failed = silver.fail("--timeframes", "3d", "--input", name)
        assert (failed.code, len(failed.lines)) == (2, 1)
        assert "does not hold the rows of these timeframes: bronze.daily does" in failed.lines[0]
