"""The lakes that the page shows: the demo's real history, with names, splits and some minutes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from bokeh_sampledata import stocks

from fibflow.io.lake import Lake
from fibflow.io.reference import SPLITS, upsert
from fibflow.pipelines import batch, demo, load, reference
from fibflow.tests.pipelines.raws import FAST

#: The Monday after the history's last session, 10:32 in New York.
NOW = datetime(2013, 3, 4, 15, 32, tzinfo=UTC)
#: The last session's open, UTC microseconds.
OPEN = 1_362_148_200_000_000
MINUTE = 60_000_000
#: Two shares for one, made up, and today.
SPLIT = {
    "symbol": ["FB"],
    "execution_date": [date(2013, 3, 4)],
    "split_from": [1.0],
    "split_to": [2.0],
    "id": ["made-up"],
}


def now() -> datetime:
    """The tests' clock."""
    return NOW


def page_lake(folder: Path) -> Lake:
    """Thirteen years of days of five symbols, raw, their Fibonacci bars, and minutes of AAPL's last day."""
    raw = folder.with_name(folder.name + "-raw")
    history: dict[str, Any] = {symbol: getattr(stocks, symbol) for symbol in demo.SYMBOLS}
    demo.write_history(history, raw / "days")
    _land(raw / "days", folder, "raw")
    (raw / "minutes").mkdir()
    pq.write_table(_minutes("AAPL", 438.0, 430.47), raw / "minutes" / "minutes.parquet")
    _land(raw / "minutes", folder, "raw", "--kind", "minutes")
    for timeframes in ("fibonacci", "1m,5m,1h"):
        assert batch.run(["--lake", str(folder), "--timeframes", timeframes, *FAST]) == 0
    lake = Lake(str(folder))
    names, splits = demo.write_reference(raw)
    assert reference.run(["--lake", str(folder), "--symbols", str(names), "--splits", str(splits)]) == 0
    upsert(lake.table(SPLITS), pa.table(SPLIT), "made-up")
    return lake


def adjusted_lake(folder: Path) -> Lake:
    """One symbol on the split-adjusted basis."""
    raw = folder.with_name(folder.name + "-raw")
    history: dict[str, Any] = {"FB": stocks.FB}
    demo.write_history(history, raw)
    _land(raw, folder, "split-adjusted")
    assert batch.run(["--lake", str(folder), "--timeframes", "fibonacci", *FAST]) == 0
    return Lake(str(folder))


def _land(raw: Path, folder: Path, basis: str, *options: str) -> None:
    assert (
        load.run(["--input", str(raw), "--lake", str(folder), "--price-basis", basis, *options, *FAST]) == 0
    )


def _minutes(symbol: str, first: float, last: float) -> pa.Table:
    """A session's minutes that wander from one price to another, to the cent."""
    rng = np.random.default_rng(7)
    count = 390
    steps = np.concatenate(([0.0], np.cumsum(rng.normal(0, 0.35, count))))
    drift = np.linspace(first, last, count + 1) - np.linspace(steps[0], steps[-1], count + 1)
    path: npt.NDArray[np.float64] = (steps + drift).round(2)
    opens, closes = path[:-1], path[1:]
    wick = rng.uniform(0, 0.3, (2, count)).round(2)
    return pa.table(
        {
            "symbol": [symbol] * count,
            "timestamp": pa.array(OPEN + np.arange(count) * MINUTE, pa.timestamp("us", "UTC")),
            "open": opens,
            "high": (np.maximum(opens, closes) + wick[0]).round(2),
            "low": (np.minimum(opens, closes) - wick[1]).round(2),
            "close": closes,
            "volume": rng.integers(10_000, 90_000, count),
            "vwap": ((opens + closes) / 2).round(4),
            "trade_count": rng.integers(50, 900, count),
        }
    )
