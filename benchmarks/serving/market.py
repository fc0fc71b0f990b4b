"""What is written to the live store, by a seed: last prices, open days, and minutes of every symbol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io.liverecords import PRICES
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import TIMESTAMP

Floats = npt.NDArray[np.float64]

MINUTE_US = 60_000_000
#: Monday, 2025-10-06: its trading day (04:00 to 20:00 in New York), and its open. The history ends before it.
DAY_US = (1_759_737_600_000_000, 1_759_795_200_000_000)
OPEN_US = 1_759_757_400_000_000
_LONGEST = 360


def last_prices(symbols: int, seed: int) -> Floats:
    """Return a last price of each symbol, whole cents."""
    return np.random.default_rng([seed, 0]).integers(1_000, 50_000, symbols) / 100


def closes(symbols: int, seed: int, minute: int) -> Floats:
    """Return the close of each symbol's ``minute``-th minute, whole cents."""
    return np.random.default_rng([seed, 1, minute]).integers(1_000, 50_000, symbols) / 100


def start_of(minute: int) -> int:
    """Return when a minute begins, UTC microseconds.

    Raises:
        ValueError: it is not in the session.
    """
    if not 0 <= minute < _LONGEST:
        raise ValueError(f"minute {minute}: a run has at most {_LONGEST}")
    return OPEN_US + minute * MINUTE_US


def price_table(names: Sequence[str], seed: int) -> pa.Table:
    """Return last prices, of ``liverecords.PRICES``."""
    count = len(names)
    columns: list[Any] = [
        pa.array(names, pa.string()),
        pa.array(last_prices(count, seed)),
        pa.array(np.full(count, 100.0)),
        pa.array(np.full(count, OPEN_US)).view(TIMESTAMP),
        pa.array(np.arange(count)),
        pa.repeat("trade", count),
    ]
    return pa.table(columns, schema=PRICES)


def minute_table(names: Sequence[str], seed: int, minute: int) -> pa.Table:
    """Return the closed bars of a minute, one a symbol, of ``partials.BAR_BATCH``."""
    start = start_of(minute)
    return _bars(names, "1m", start, start + MINUTE_US, closes(len(names), seed, minute), True)


def day_table(names: Sequence[str], seed: int) -> pa.Table:
    """Return the open bars of the day, one a symbol, of ``partials.BAR_BATCH``."""
    return _bars(names, "1d", *DAY_US, last_prices(len(names), seed), False)


def _bars(names: Sequence[str], timeframe: str, ts: int, end: int, close: Floats, complete: bool) -> pa.Table:
    count = len(names)

    def same(value: Any) -> Any:
        return pa.repeat(value, count)

    codes = np.arange(count, dtype=np.int32)
    values: dict[str, Any] = {
        "symbol": pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())),
        "timeframe": pa.DictionaryArray.from_arrays(codes * 0, pa.array([timeframe])),
        "ts": pa.array(np.full(count, ts)).view(TIMESTAMP),
        "end": pa.array(np.full(count, end)).view(TIMESTAMP),
        "open": pa.array(close),
        "high": pa.array(close + 0.25),
        "low": pa.array(close - 0.25),
        "close": pa.array(close),
        "volume": same(12_300.0),
        "vwap": pa.array(np.round(close + 0.0123, 4)),
        "trade_count": same(41),
        "sessions": same(1),
        "complete": same(complete),
        "final": same(False),
        "revision": same(0),
    }
    columns = [values[field.name].cast(field.type) for field in BAR_BATCH]
    return pa.table(columns, schema=BAR_BATCH)
