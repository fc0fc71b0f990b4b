"""Seeded daily history of the predecessor's size and shape.

5,350 symbols, 22,609,541 rows, the XNYS sessions from 1962-01-02 to 2025-10-03; symbols list late, get
delisted, miss single sessions and are halted for weeks. It is written twice, as the predecessor laid its raw
data out::

    <out>/by_symbol/symbol=AAA/data.parquet    sorted by time
    <out>/by_year/year=1962/data.parquet       sorted by time, symbol

Each layout holds ``corrections.parquet`` too: 1 % of the rows again, most of them with other values, in a
file that was modified a day later and therefore wins. The same parameters give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import exchange_calendars
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20251003
SYMBOLS, ROWS = 5_350, 22_609_541
FIRST, LAST = "1962-01-02", "2025-10-03"
FORMAT = 2  # raise when the same parameters would give other bytes
LAYOUTS = ("by_symbol", "by_year")
CORRECTIONS = "corrections.parquet"
CORRECTED_SHARE, IDENTICAL_SHARE = 0.01, 0.1
MIN_ROWS = 5
MTIME = 1_759_622_400  # 2025-10-05T00:00Z: of every main file
DAY_S = 86_400
PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Parameters:
    """What determines the bytes of a history."""

    symbols: int
    rows: int
    seed: int = SEED
    first: str = FIRST
    last: str = LAST
    format: int = FORMAT

    @classmethod
    def at_scale(cls, scale: float, seed: int = SEED) -> Parameters:
        """Full size times ``scale``, in symbols and in rows, over all sessions."""
        return cls(max(1, round(SYMBOLS * scale)), max(MIN_ROWS, round(ROWS * scale)), seed)


@dataclass
class History:
    """Rows sorted by (symbol, session), column by column.

    ``symbol`` and ``session`` index ``names`` (sorted) and ``sessions`` (datetime64[D]); symbol ``i`` has the
    rows ``offsets[i]`` up to ``offsets[i + 1]``. Prices are whole cents as doubles, volumes whole shares.
    """

    names: list[str]
    sessions: np.ndarray
    offsets: np.ndarray
    columns: dict[str, np.ndarray]

    def table(self, rows: slice | np.ndarray) -> pa.Table:
        """The chosen rows in the predecessor's columns."""
        picked = {name: column[rows] for name, column in self.columns.items()}
        stamps = self.sessions[picked["session"]].astype("datetime64[us]")
        symbols = pa.DictionaryArray.from_arrays(picked["symbol"], pa.array(self.names))
        return pa.table(
            {
                "symbol": symbols.cast(pa.string()),
                **{name: picked[name] for name in (*PRICES, "volume")},
                "timestamp": pa.array(stamps, pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
                "interval": pa.repeat("1d", len(stamps)),
            }
        )


def exchange_sessions(first: str = FIRST, last: str = LAST) -> np.ndarray:
    """The XNYS sessions from ``first`` to ``last``, both included, as datetime64[D]."""
    calendar = exchange_calendars.get_calendar("XNYS", start=first, end=last)
    sessions = calendar.sessions
    # The library's sessions hold the regular holidays of the years before 1970.
    holidays = calendar.regular_holidays.holidays(sessions[0], sessions[-1])
    return sessions[~sessions.isin(holidays)].values.astype("datetime64[D]")


def tickers(rng: np.random.Generator, count: int) -> list[str]:
    """``count`` distinct names of one to five capitals, sorted."""
    names: set[str] = set()
    while len(names) < count:
        length = rng.choice([1, 2, 3, 4, 5], p=[0.004, 0.04, 0.4, 0.45, 0.106])
        names.add(bytes(rng.integers(65, 91, length, dtype=np.uint8)).decode())
    return sorted(names)


def row_counts(rng: np.random.Generator, symbols: int, rows: int, sessions: int) -> np.ndarray:
    """Rows a symbol: skewed, each from MIN_ROWS to ``sessions``, ``rows`` in sum; one is as long as can be.

    Raises ValueError when no such counts exist.
    """
    if not symbols * MIN_ROWS <= rows <= symbols * sessions:
        raise ValueError(f"{rows} rows do not fit {symbols} symbols of {MIN_ROWS} to {sessions} rows")
    weights = rng.lognormal(0, 0.9, symbols)
    weights[rng.integers(symbols)] = 1e6
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        fits = np.floor(np.clip(weights * middle, MIN_ROWS, sessions)).sum() <= rows
        low, high = (middle, high) if fits else (low, middle)
    counts = np.floor(np.clip(weights * low, MIN_ROWS, sessions)).astype(np.int64)
    while missing := rows - int(counts.sum()):
        room = np.flatnonzero(counts < sessions)
        counts[room[:missing]] += 1
    return counts


def traded_sessions(rng: np.random.Generator, rows: int, sessions: int, alive: bool) -> np.ndarray:
    """Indices of the sessions that a symbol trades in, listing to delisting or the last, with holes."""
    spare = sessions - rows
    halt = int(rng.integers(5, 60)) if rng.random() < 0.1 else 0
    halt = min(halt, spare)
    singles = min(int(rng.integers(0, 4) if rng.random() < 0.8 else rng.integers(0, 60)), spare - halt)
    span = rows + halt + singles
    stop = sessions if alive else int(rng.integers(span, sessions + 1))
    kept = np.ones(span - halt, bool)
    kept[1 + rng.choice(span - halt - 2, singles, replace=False)] = False
    index = np.arange(stop - span, stop - halt)[kept]
    index[int(rng.integers(1, rows)) :] += halt
    return index


def market_rows(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """A random walk of daily prices in cents, and volumes."""
    close = np.exp(np.log(rng.uniform(5, 150)) + np.cumsum(rng.normal(0, 0.02, rows)))
    close = np.clip(close, 0.5, 5_000)
    opening = close * np.exp(rng.normal(0, 0.005, rows))
    high = np.maximum(opening, close) * np.exp(np.abs(rng.normal(0, 0.008, rows)))
    low = np.minimum(opening, close) * np.exp(-np.abs(rng.normal(0, 0.008, rows)))
    volume = np.exp(rng.normal(rng.uniform(9, 16), 0.6, rows))
    prices = zip(PRICES, (opening, high, low, close), strict=True)
    return {
        **{name: np.round(price, 2) for name, price in prices},
        "volume": np.round(volume).astype(np.int64),
    }


def make(parameters: Parameters, threads: int = 2) -> History:
    """Draw the main rows. A symbol's rows depend on the seed and its number: threads change nothing."""
    sessions = exchange_sessions(parameters.first, parameters.last)
    rng = np.random.default_rng(parameters.seed)
    names = tickers(rng, parameters.symbols)
    counts = row_counts(rng, parameters.symbols, parameters.rows, len(sessions))
    alive = rng.random(parameters.symbols) < 0.7
    alive[np.argmax(counts)] = True
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns: dict[str, np.ndarray] = {name: np.empty(parameters.rows) for name in PRICES}
    columns |= {"volume": np.empty(parameters.rows, np.int64), "session": np.empty(parameters.rows, np.int32)}
    columns["symbol"] = np.repeat(np.arange(parameters.symbols, dtype=np.int32), counts)

    def draw(symbol: int) -> None:
        own = np.random.default_rng([parameters.seed, symbol])
        rows = slice(offsets[symbol], offsets[symbol + 1])
        columns["session"][rows] = traded_sessions(
            own, int(counts[symbol]), len(sessions), bool(alive[symbol])
        )
        for name, values in market_rows(own, int(counts[symbol])).items():
            columns[name][rows] = values

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(draw, range(parameters.symbols)))
    return History(names, sessions, offsets, columns)


def corrections(history: History, seed: int) -> History:
    """1 % of the rows once more: most with higher prices and another volume, a tenth of them unchanged."""
    rng = np.random.default_rng([seed, len(history.names)])
    total = len(history.columns["symbol"])
    rows = np.sort(rng.choice(total, max(1, int(total * CORRECTED_SHARE)), replace=False))
    columns = {name: column[rows] for name, column in history.columns.items()}
    changed = rng.random(len(rows)) >= IDENTICAL_SHARE
    for name in PRICES:
        columns[name] = np.where(changed, np.round(columns[name] * 1.01 + 0.01, 2), columns[name])
    columns["volume"] = columns["volume"] + np.where(changed, 100, 0)
    offsets = np.searchsorted(columns["symbol"], np.arange(len(history.names) + 1))
    return History(history.names, history.sessions, offsets, columns)


def _write(table: pa.Table, path: Path, modified: int = MTIME) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="snappy")
    os.utime(path, (modified, modified))


def write(history: History, fixes: History, out: Path, threads: int = 2) -> None:
    """Write both layouts below ``out``."""
    offsets = history.offsets
    by_time = np.argsort(
        history.columns["session"].astype(np.uint16), kind="stable"
    )  # radix; keeps symbols in order
    years = history.sessions.astype("datetime64[Y]").astype(int) + 1970
    numbers = np.arange(years[0], years[-1] + 1)
    starts = np.searchsorted(
        history.columns["session"][by_time], np.searchsorted(years, [*numbers, years[-1] + 1])
    )

    def symbol_file(symbol: int) -> None:
        path = out / "by_symbol" / f"symbol={history.names[symbol]}" / "data.parquet"
        _write(history.table(slice(offsets[symbol], offsets[symbol + 1])), path)

    def year_file(year: int) -> None:
        rows = by_time[starts[year] : starts[year + 1]]
        if len(rows):
            _write(history.table(rows), out / "by_year" / f"year={numbers[year]}" / "data.parquet")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(symbol_file, range(len(history.names))))
        list(pool.map(year_file, range(len(numbers))))
    for layout in LAYOUTS:
        _write(fixes.table(slice(None)), out / layout / CORRECTIONS, MTIME + DAY_S)


def generate(out: Path, parameters: Parameters, threads: int = 2) -> bool:
    """Make the history below ``out`` unless the same is there already; True when it was made."""
    marker = out / "history.json"
    wanted = asdict(parameters)
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return False
    marker.unlink(missing_ok=True)
    for layout in LAYOUTS:
        shutil.rmtree(out / layout, ignore_errors=True)
    history = make(parameters, threads)
    write(history, corrections(history, parameters.seed), out, threads)
    marker.write_text(json.dumps(wanted))
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: make a history."""
    parser = argparse.ArgumentParser(prog="benchmarks.history", description="Make the benchmark's history.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size (default 1)")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args(argv)
    began = time.perf_counter()
    parameters = Parameters.at_scale(args.scale, args.seed)
    made = generate(args.out, parameters)
    print(
        f"history: {parameters.rows:,} rows, {parameters.symbols:,} symbols, "
        + (f"made in {time.perf_counter() - began:.0f} s" if made else "there already")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
