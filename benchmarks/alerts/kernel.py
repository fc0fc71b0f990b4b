"""The kernel of alerts alone: a market's prices against very many alerts, on one core, without Beam.

Bundles are cut as a stream's are: each holds the prices of a tenth of a second, and goes to all buckets.
Prices walk at random around where the alerts were set; those are above and below them as users' are. Then
every symbol jumps, and all alerts between fire at once. Seconds are the processor's. Cells are kept in
memory; what a runner does with them is not in it.

Run as ``python -P -m fibflow.benchmarks.alerts.kernel``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.transforms.alerts.live import LiveAlerts, Memo, Plan
from fibflow.transforms.alerts.paths import of_trades, split_alerts
from fibflow.transforms.alerts.schema import ALWAYS, CHANGES, NEVER, Frequency, Operator, Reference
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import TRADE_INPUT

OPEN_US = 1_732_890_600_000_000
MICROS = 1_000_000
_PERCENTAGES = (Operator.PERCENT_UP, Operator.PERCENT_DOWN, Operator.PERCENT)
_UP = (Operator.ABOVE, Operator.CROSSES_UP, Operator.CROSSES)


class Cells:
    """A bucket's cells in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.bags: dict[str, list[bytes]] = {}
        self.written = 0

    def read(self, name: str) -> bytes | None:
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self.values[name] = value
        self.written += len(value)

    def parts(self, name: str) -> list[bytes]:
        return list(self.bags.get(name, []))

    def append(self, name: str, part: bytes) -> None:
        self.bags.setdefault(name, []).append(part)
        self.written += len(part)

    def clear(self, name: str) -> None:
        self.values.pop(name, None)
        self.bags.pop(name, None)

    def size(self) -> int:
        return sum(map(len, self.values.values())) + sum(
            len(part) for bag in self.bags.values() for part in bag
        )


class Market:
    """Symbols, their prices, and trades of them."""

    def __init__(self, symbols: int, seed: int) -> None:
        self.numbers = np.random.default_rng(seed)
        self.names = pa.array([f"S{number:04d}" for number in range(symbols)])
        self.prices = np.round(self.numbers.uniform(5, 500, symbols), 2)
        self.now, self.seq = OPEN_US, 0

    def changes(self, count: int) -> pa.Table:
        """Alerts of all kinds, half of them far from the price."""
        numbers = self.numbers
        code = numbers.integers(0, len(self.names), count).astype(np.int32)
        operator = numbers.integers(1, len(Operator), count)
        is_percentage = np.isin(operator, [int(each) for each in _PERCENTAGES])
        away = 1 + np.abs(numbers.normal(0, 0.05, count)) + 0.002
        level = np.where(np.isin(operator, [int(each) for each in _UP]), away, 2 - np.minimum(away, 1.9))
        frequency = numbers.choice([1, 1, 1, 1, 2, 3, 4, 4], count)
        own = {
            "symbol": self._words(code),
            "alert": np.arange(count),
            "version": np.ones(count),
            "revision": np.arange(count),
            "operator": operator,
            "value": np.where(is_percentage, (away - 1) * 100, np.round(self.prices[code] * level, 2)),
            "reference": np.where(is_percentage, int(Reference.CREATION_PRICE), 0),
            "reference_price": np.where(is_percentage, self.prices[code], np.nan),
            "extended": numbers.random(count) < 0.3,
            "frequency": frequency,
            "span": np.where(frequency == Frequency.BAR, 5, 0),
            "cooldown": numbers.choice([0, 60, 3600], count) * MICROS,
            "rearm": np.where(frequency == Frequency.EVERY_TIME, 0.1, 0.0),
            "since": np.full(count, OPEN_US - 1),
            "until": np.full(count, ALWAYS),
            "basis": np.full(count, OPEN_US // (86_400 * MICROS)),
            "fired": np.full(count, NEVER),
        }
        return _table(own, CHANGES)

    def trades(self, count: int, span_us: int) -> pa.Table:
        """The next trades, in the next so many microseconds."""
        numbers = self.numbers
        code = numbers.integers(0, len(self.names), count).astype(np.int32)
        step = np.exp(numbers.normal(0, 0.0002, count))
        np.multiply.at(self.prices, code, step)
        own: dict[str, Any] = {
            "symbol": self._words(code),
            "ts": self.now + np.sort(numbers.integers(0, span_us, count)),
            "seq": self.seq + np.arange(count),
            "price": np.round(self.prices[code], 2),
            "volume": np.full(count, 100 * MICROS),
            "rules": numbers.choice([63, 63, 63, 36], count),
            "sub": np.zeros(count),
            "place": np.arange(count),
            "shard": ["shardId-000000000000"] * count,
            "sequence": ["1"] * count,
        }
        self.now += span_us
        self.seq += count
        return _table(own, TRADE_INPUT)

    def jump(self, by: float) -> pa.Table:
        """One trade of each symbol, of another price."""
        self.prices *= by
        count = len(self.names)
        one = self.trades(count, MICROS)
        symbol = self._words(np.arange(count, dtype=np.int32))
        one = one.set_column(0, one.schema.field(0), symbol)
        rules = as_arrow(np.full(count, 63, np.uint8))
        return one.set_column(3, "price", as_arrow(self.prices)).set_column(5, "rules", rules)

    def _words(self, code: Any) -> Any:
        return pa.DictionaryArray.from_arrays(as_arrow(code), self.names)


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        column = columns[field.name]
        array = column if isinstance(column, pa.Array) else pa.array(column)
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        if pa.types.is_timestamp(field.type):
            array = array.cast(pa.int64())
        arrays.append(array.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


class Job:
    """All buckets of a job."""

    def __init__(self, buckets: int) -> None:
        self.plan = Plan(load_calendar(), buckets=buckets)
        self.cells = [Cells() for _ in range(buckets)]
        self.memos = [Memo() for _ in range(buckets)]

    def take(self, parts: list[tuple[int, pa.Table]]) -> int:
        """Return how many alerts fired."""
        fired = 0
        for bucket, part in parts:
            found = LiveAlerts(self.plan, self.cells[bucket], self.memos[bucket]).take(part)
            fired += 0 if found is None else len(found)
        return fired

    def timed(self, parts: list[tuple[int, pa.Table]]) -> tuple[float, int]:
        """Return the processor's seconds, and how many alerts fired."""
        began = time.process_time()
        fired = self.take(parts)
        return time.process_time() - began, fired

    def split(self, table: pa.Table) -> list[tuple[int, pa.Table]]:
        return list(split_alerts(table, self.plan.buckets))

    def written(self) -> int:
        return sum(cells.written for cells in self.cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=5350)
    parser.add_argument("--buckets", type=int, default=16)
    parser.add_argument("--rate", type=int, default=20_000, help="trades a second")
    parser.add_argument("--seconds", type=int, default=20, help="of the market, measured")
    parser.add_argument(
        "--page", type=int, default=200_000, help="changes an element while alerts are loaded"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    market, job = Market(options.symbols, options.seed), Job(options.buckets)
    changes = market.changes(options.alerts)
    load(job, changes, options.page)
    walk(job, market, options.rate, options.seconds)
    few = job.split(changes.slice(0, 100))
    took, _ = job.timed(few)
    print(f"changes: a hundred at once take {took * 1e3:.1f} ms")
    jump = job.split(of_trades(market.jump(1.04), job.plan.calendar))
    took, fired = job.timed(jump)
    print(f"jump: {fired:,} alerts fired in {took:.2f} s: {fired / took:,.0f} a second")
    job.memos = [Memo() for _ in job.memos]
    took, _ = job.timed([(bucket, part.slice(0, 1)) for bucket, part in jump])
    print(f"restore: {took:.2f} s to read all buckets out of their cells")


def load(job: Job, changes: pa.Table, page: int) -> None:
    began = time.process_time()
    for first in range(0, len(changes), page):
        job.take(job.split(changes.slice(first, page)))
    rate = len(changes) / (time.process_time() - began)
    size = sum(cells.size() for cells in job.cells) / len(changes)
    print(f"load: {rate:,.0f} alerts a second; {size:.1f} bytes of state an alert")


def walk(job: Job, market: Market, rate: int, seconds: int) -> None:
    calendar = job.plan.calendar
    for _ in range(20):
        job.take(job.split(of_trades(market.trades(rate // 10, MICROS // 10), calendar)))
    split_s = take_s = slowest = 0.0
    fired, written = 0, job.written()
    for _ in range(10 * seconds):
        trades = market.trades(rate // 10, MICROS // 10)
        began = time.process_time()
        parts = job.split(of_trades(trades, calendar))
        split_s += time.process_time() - began
        took, count = job.timed(parts)
        take_s, slowest, fired = take_s + took, max(slowest, took), fired + count
    total = split_s + take_s
    print(
        f"prices: {rate:,} trades a second take {total / seconds:.1%} of a core ({split_s / seconds:.1%} to "
        f"split, {take_s / seconds:.1%} to evaluate), {rate * seconds / total:,.0f} a second fill it; the "
        f"slowest bundle takes {slowest * 1e3:.1f} ms; {fired / seconds:,.0f} alerts fire a second; "
        f"{(job.written() - written) / seconds / 1e6:.1f} MB of state are written a second"
    )


if __name__ == "__main__":
    main()
