"""The bars before a job's own, out of lakes that batch, streams and loads have left."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io.alerts.history import BarHistory
from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.tests.io.test_readbars import Tables
from fibflow.tests.pipelines.raws import DAYS, Bronze, Raw, rows_of
from fibflow.tests.serving.conftest import small_lake
from fibflow.tests.transforms.tables import days
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.partials import BAR_BATCH

XNYS = load_calendar()


def day(text: str) -> tuple[int, int]:
    """A session's bounds."""
    (at,) = (XNYS.position_on_or_before(number) for number in days(text))
    return int(XNYS.day_starts[at]), int(XNYS.day_ends[at])


def micros(bars: pa.Table, name: str) -> list[Any]:
    return list(bars[name].cast(pa.int64()).to_pylist())


def expected(lake: Lake, symbols: list[str], timeframe: str, end: int, count: int) -> list[dict]:
    """By reading everything."""
    bars = LakeReader(lake).bars(symbols, timeframe, complete_only=True)
    ended = [row for row, at in zip(bars.to_pylist(), micros(bars, "end"), strict=True) if at <= end]
    return [
        row for symbol in symbols for row in [each for each in ended if each["symbol"] == symbol][-count:]
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return small_lake(tmp_path_factory.mktemp("history") / "lake")


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "1d", "13d"])
@pytest.mark.parametrize("count", [1, 3, 60, 500])
def test_the_last_bars_of_each_symbol(small, timeframe, count):
    bars = LakeReader(small).bars(["AAPL", "MSFT"], timeframe, complete_only=True)
    ends = sorted(set(micros(bars, "end")))
    for end in (ends[-1] + 1, ends[-1], ends[-1] - 1, ends[len(ends) // 2]):
        found = BarHistory(small, XNYS)(["AAPL", "MSFT", "NONE"], timeframe, end, count)
        assert found is not None
        assert found.schema.equals(BAR_BATCH)
        assert found.to_pylist() == expected(small, ["AAPL", "MSFT"], timeframe, end, count)


def test_one_that_has_not_traded_for_a_while_is_looked_for_further_back(small):
    """Z has its last day weeks before the others'."""
    _, end = day("2024-01-23")
    found = BarHistory(small, XNYS)(["AAPL", "Z"], "1d", end, 3)
    assert found is not None
    assert found.to_pylist() == expected(small, ["AAPL", "Z"], "1d", end, 3)
    assert found["symbol"].to_pylist() == ["AAPL"] * 3 + ["Z"] * 3


def test_days_are_official_where_they_were_landed(tmp_path: Path):
    raw = Raw(tmp_path / "raw")
    raw.put("all.parquet", [*rows_of("A", DAYS), *rows_of("B", DAYS[:-2], 100.0)])
    bronze = Bronze(str(tmp_path / "lake"))
    bronze.first(raw)
    lake = Lake(bronze.uri)
    history = BarHistory(lake, XNYS)
    _, end = day("2024-01-12")
    found = history(["A", "B"], "1d", end, 2)
    assert found is not None
    assert found["close"].to_pylist() == [20.5, 21.5, 108.5, 109.5]
    before = history(["A"], "1d", end - 1, 2)
    assert before is not None
    assert before["close"].to_pylist() == [19.5, 20.5]
    # What the stream says of the same day counts less, what it says of others is there.
    start, stop = day("2024-01-12")
    after, over = day("2024-01-16")
    Tables(lake).live(*(_live("A", *bounds) for bounds in ((start, stop), (after, over))))
    found = history(["A", "B"], "1d", over, 2)
    assert found is not None
    assert found["close"].to_pylist() == [21.5, 1.0, 108.5, 109.5]


def test_windows_of_several_sessions_are_whole(tmp_path: Path):
    raw = Raw(tmp_path / "raw")
    raw.put("all.parquet", rows_of("A", DAYS))
    bronze = Bronze(str(tmp_path / "lake"))
    bronze.first(raw)
    history = BarHistory(Lake(bronze.uri), XNYS)
    for timeframe in ("2d", "3d", "5d"):
        every = history(["A"], timeframe, day("2024-03-01")[1], 100)
        assert every is not None
        assert all(every["complete"].to_pylist())
        for count in (1, 2, 3):
            some = history(["A"], timeframe, day("2024-03-01")[1], count)
            assert some is not None
            assert some.to_pylist() == every.to_pylist()[-count:]
        assert max(micros(every, "end")) <= day("2024-01-12")[1]
        assert len(every) >= len(DAYS) // int(timeframe[0]) - 1


def _live(symbol: str, ts: int, end: int) -> dict[str, Any]:
    flags = {"complete": True, "final": True, "revision": 0, "sessions": 1}
    values = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    return {"symbol": symbol, "timeframe": "1d", "ts": ts, "end": end, **values, **flags}


def test_a_lake_that_is_empty_has_none_and_one_that_is_away_is_asked_again(tmp_path, caplog):
    _, end = day("2024-01-23")
    nothing = BarHistory(Lake(str(tmp_path / "nothing")), XNYS)(["A"], "1d", end, 3)
    assert nothing is not None
    assert (nothing.schema, len(nothing)) == (BAR_BATCH, 0)
    lake = small_lake(tmp_path / "lake")
    history = pickle.loads(pickle.dumps(BarHistory(Lake(lake.uri), XNYS)))  # noqa: S301 - our own bytes
    assert len(history(["AAPL"], "13d", end, 3)) == 3
    data = tmp_path / "lake" / "silver.bars" / "timeframe=13d"
    shutil.move(data, tmp_path / "away")
    assert history(["AAPL"], "13d", end, 3) is None
    assert "bars before those of the stream were not read" in caplog.text
    shutil.move(tmp_path / "away", data)
    assert len(history(["AAPL"], "13d", end, 3)) == 3
