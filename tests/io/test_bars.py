import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import count

import numpy as np
import pyarrow.compute as pc
import pytest

from fibflow.io import tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake, LakeError
from fibflow.tests.io.barlakes import XNYS, commit_bars, daily_rows, make_bars, minute_rows
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.schemas import BARS

START = datetime(2024, 6, 1, tzinfo=UTC)
KEYS = [("symbol", "ascending"), ("ts", "ascending")]


def plain(bars):
    """What a reader should give for what was committed."""
    return bars.sort_by(KEYS)


def of(bars, symbol):
    return bars.filter(pc.field("symbol") == symbol)


@pytest.fixture
def lake(tmp_path):
    numbers = count()
    return Lake(str(tmp_path / "lake"), clock=lambda: START + timedelta(days=next(numbers)))


@pytest.fixture
def made():
    rows = daily_rows({"A": ("2023-01-03", "2023-12-29"), "B": ("2023-06-01", "2023-12-29")})
    return {bars["timeframe"][0].as_py(): bars for bars in make_bars(rows, "3d,5d")}


@pytest.fixture
def reader(lake, made):
    commit_bars(lake, list(made.values()))
    return BarReader(lake)


def test_all_bars_of_a_timeframe(reader, made):
    assert reader.bars(None, "5d").equals(plain(made["5d"]))
    assert reader.bars(["B", "A"], "5d").equals(plain(made["5d"]))


def test_bars_of_one_symbol(reader, made):
    expected = of(plain(made["3d"]), "B")
    assert reader.bars("B", "3d").equals(expected)
    assert reader.bars(["B"], "3d").equals(expected)


def test_order_is_by_symbol_and_time_over_files(lake, made):
    bars = plain(made["5d"])
    halves = [of(bars, name) for name in "BA"]
    commit_bars(lake, [halves[0][5:]], "1")
    commit_bars(lake, [halves[1]], "2")
    commit_bars(lake, [halves[0][:5]], "3")
    assert BarReader(lake).bars(None, "5d").equals(bars)
    assert BarReader(lake).last("B", "5d", 7).equals(halves[0][-7:])


def test_a_range_is_half_open(reader, made):
    ts = plain(made["5d"])["ts"].unique().to_pylist()
    found = reader.bars("A", "5d", ts[3], ts[6])
    assert found["ts"].to_pylist() == ts[3:6]
    micros = [int(stamp.timestamp() * 1_000_000) for stamp in ts]
    assert reader.bars("A", "5d", micros[3], micros[6]).equals(found)


def test_a_date_is_the_start_of_its_session(reader, made):
    ts = plain(made["5d"])["ts"].unique().to_pylist()
    # New York's midnights: the day before is a session too, or closed.
    dates = [stamp.date() for stamp in ts]
    assert reader.bars("A", "5d", dates[3], dates[6])["ts"].to_pylist() == ts[3:6]
    following = dates[3] + timedelta(days=1)
    assert reader.bars("A", "5d", following, dates[6])["ts"].to_pylist() == ts[4:6]
    assert reader.bars("A", "5d", end=date(2200, 1, 1)).num_rows == reader.bars("A", "5d").num_rows


def test_dates_follow_the_calendar_of_the_table(lake):
    tokyo = load_calendar("XTKS")
    rows = daily_rows({"7203": ("2024-01-04", "2024-02-29")}, tokyo)
    commit_bars(lake, make_bars(rows, "1d", calendar=tokyo), calendar=tokyo)
    # Tokyo's day of 10 January begins on the 9th in UTC.
    found = BarReader(lake).bars("7203", "1d", date(2024, 1, 10), date(2024, 1, 11))
    assert found["ts"].to_pylist() == [datetime(2024, 1, 9, 15, tzinfo=UTC)]


def test_a_range_without_bars_is_empty(reader):
    found = reader.bars(["A", "B"], "5d", date(1990, 1, 1), date(1991, 1, 1))
    assert (found.num_rows, found.schema) == (0, BARS)


def test_columns_and_limit(reader):
    found = reader.bars("B", "5d", columns=["close", "ts"], limit=3)
    assert found.column_names == ["close", "ts"]
    assert found.equals(reader.bars("B", "5d").select(["close", "ts"])[:3])
    assert reader.bars(None, "5d", columns=["close"]).equals(reader.bars(None, "5d").select(["close"]))


def test_complete_only(reader):
    everything, complete = reader.bars("A", "5d"), reader.bars("A", "5d", complete_only=True)
    assert pc.sum(pc.invert(everything["complete"])).as_py() == 1
    assert complete.equals(everything[:-1])
    assert reader.last("A", "5d", 4, complete_only=True).equals(everything[-5:-1])


def test_last(reader):
    everything = reader.bars("B", "3d")
    assert reader.last("B", "3d", 5).equals(everything[-5:])
    assert reader.last("B", "3d", 10_000).equals(everything)
    assert reader.last("B", "3d", 2, columns=["high"]).equals(everything[-2:].select(["high"]))


def test_the_last_bars_come_from_the_newest_periods(lake):
    days = [f"{year}-{month:02}-05T15:00" for year in (2022, 2023) for month in range(1, 13)]
    sessions = [
        day for day in days if XNYS.positions(np.array([day[:10]], "datetime64[D]").astype(np.int32))[0] >= 0
    ]
    rows = minute_rows("A", sessions, 30)
    commit_bars(lake, make_bars(rows, "5m"))
    reader = BarReader(lake)
    everything = reader.bars("A", "5m")
    snapshot = reader.snapshot()
    assert len(snapshot) == len(sessions)
    newest, stats = snapshot.tail(9, "A", where={"timeframe": "5m"})
    assert stats.files == 2
    assert reader.last("A", "5m", 9).equals(newest.select(BARS.names))
    assert newest.select(BARS.names).equals(everything[-9:])


def test_reading_as_of(lake, made):
    bars = plain(made["5d"])
    commit_bars(lake, [of(bars, "A")], "1")
    commit_bars(lake, [of(bars, "B")], "2")
    reader = BarReader(lake)
    assert reader.bars(None, "5d", as_of=0)["symbol"].unique().to_pylist() == ["A"]
    stamps = [commit["timestamp"] for commit in lake.table(tables.BARS).history()]
    between = datetime.fromtimestamp(stamps[1] / 1000, UTC) + timedelta(hours=1)
    assert reader.bars(None, "5d", as_of=between)["symbol"].unique().to_pylist() == ["A"]
    with pytest.raises(LakeError, match="no bars of B 5d in this lake; the symbol is not in it"):
        reader.last("B", "5d", 1, as_of=0)
    with pytest.raises(LakeError, match="version 7"):
        reader.bars("A", "5d", as_of=7)


def test_timeframes(lake, made):
    rows = minute_rows("A", ["2024-01-03T15:00"], 90)
    commit_bars(lake, [*made.values(), *make_bars(rows, "30m,1h,5m")])
    reader = BarReader(lake)
    assert reader.timeframes() == ["5m", "30m", "1h", "3d", "5d"]
    assert reader.timeframes("B") == ["3d", "5d"]
    assert reader.timeframes("X") == []


@pytest.mark.parametrize(
    ("symbols", "timeframe", "message"),
    [
        ("XYZ", "5d", "no bars of XYZ 5d in this lake; the symbol is not in it"),
        (["A", "XYZ"], "5d", "no bars of XYZ 5d in this lake; the symbol is not in it"),
        (["V", "W", "A", "X"], "5d", "no 5d bars of V, W, X in this lake"),
        ("C", "5d", "no bars of C 5d in this lake; it has 1h"),
        ("A", "8d", "no 8d bars in this lake; it has 1h, 3d, 5d"),
        (None, "8d", "no 8d bars in this lake; it has 1h, 3d, 5d"),
    ],
)
def test_what_is_not_there_is_said(lake, made, symbols, timeframe, message):
    commit_bars(lake, [*made.values(), *make_bars(minute_rows("C", ["2024-01-03T15:00"], 90), "1h")])
    reader = BarReader(lake)
    with pytest.raises(LakeError, match=f"^{message}$"):
        reader.bars(symbols, timeframe)
    with pytest.raises(LakeError, match=f"^{message}$"):
        reader.bars(symbols, timeframe, date(1990, 1, 1), date(1991, 1, 1))
    if isinstance(symbols, str):
        with pytest.raises(LakeError, match=f"^{message}$"):
            reader.last(symbols, timeframe, 10)


def test_a_lake_without_bars(lake):
    with pytest.raises(LakeError, match=r"there are no bars in .*: pipelines\.batch makes them"):
        BarReader(lake).bars("A", "5d")


def test_an_unknown_column_is_refused(reader):
    with pytest.raises(ValueError, match="bars have no column 'nope'"):
        reader.last("A", "5d", 1, columns=["nope"])


def test_neither_beam_nor_pandas_is_imported(reader, lake):
    script = (
        "import sys; from datetime import date\n"
        "from fibflow.io.bars import BarReader; from fibflow.io.lake import Lake\n"
        f"reader = BarReader(Lake({str(lake.uri)!r}))\n"
        "assert reader.last('A', '5d', 500).num_rows\n"
        "assert reader.bars(['A', 'B'], '3d', date(2023, 7, 3), complete_only=True).num_rows\n"
        "print(*({'pandas', 'apache_beam', 'exchange_calendars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_bars_in_a_bucket(s3, made):
    lake = Lake(s3.uri("lake"), s3.aws)
    commit_bars(lake, list(made.values()))
    assert BarReader(lake).bars(None, "5d").equals(plain(made["5d"]))
