"""Alerts for the benchmark's symbols, and a feed whose prices walk at random around where they were set.

The feed is a process of its own: ``python -m benchmarks.alerts.market``, with the options of
``benchmarks.streaming.pacer``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.benchmarks.streaming import pacer
from fibflow.io.postgresql.binary import Stream, slices
from fibflow.io.postgresql.session import connect
from fibflow.transforms.partials import as_arrow

SEED = 11
#: Of a price, from one trade of a symbol to the next.
STEP = 0.0002
_UP, _DOWN = ("above", "crosses_up"), ("below", "crosses_down")
_COLUMNS = (
    ("revision", pa.int64()),
    ("owner", pa.string()),
    ("symbol", pa.string()),
    ("operator", pa.string()),
    ("value", pa.float64()),
    ("hours", pa.string()),
    ("frequency", pa.string()),
    ("rearm", pa.float64()),
    ("basis", pa.date32()),
    ("since", pa.int64()),
)
#: Alerts of an owner.
_OF_OWNER = 1_000


def base_prices(symbols: int) -> Any:
    """Return the price of each symbol at which alerts are set, shape (symbols,)."""
    return np.random.default_rng(SEED).uniform(10, 500, symbols).round(2)


class Walk(pacer.Feed):
    """Trades of symbols whose prices walk at random."""

    def __init__(self, symbols: int, shards: int, seed: int) -> None:
        super().__init__(symbols, shards, seed)
        self._prices = base_prices(symbols)

    def record(self, shard: int, messages: int, micros: int) -> tuple[bytes, Any]:
        """Return a record of trades at an instant, each of another symbol, and their symbols."""
        symbol = self._rng.choice(self._of_shard[shard], messages, replace=False)
        self._prices[symbol] *= np.exp(self._rng.normal(0, STEP, messages))
        number = pa.array(self._sent + np.arange(messages)).cast(pa.string())
        self._sent += messages
        lines = pc.binary_join_element_wise(
            self._heads.take(pa.array(symbol)),
            number,
            '","z":1,"p":',
            pa.array(self._prices[symbol].round(4)).cast(pa.string()),
            ',"s":100,"t":',
            str(micros),
            ',"q":',
            number,
            "}",
            "",
        )
        return "\n".join(lines.to_pylist()).encode(), symbol.astype(np.int32)


def alerts_of(names: Sequence[str], prices: Any, count: int, since: int) -> pa.Table:
    """Return alerts above and below the prices of symbols, as rows of the table ``alerts``.

    Half wait within a few percent of the price, the others farther off. Nine in ten fire once, the others
    each time.

    Args:
        names: the symbols.
        prices: of each, shape (symbols,).
        count: how many.
        since: in force for prices after it, UTC microseconds.
    """
    rng = np.random.default_rng(SEED + 1)
    code = rng.integers(0, len(names), count)
    away = np.abs(rng.normal(0, np.where(rng.random(count) < 0.5, 0.03, 0.2), count)) + 0.0005
    up = rng.random(count) < 0.5
    edge = rng.integers(0, 2, count)
    operator = np.where(up, np.array(_UP)[edge], np.array(_DOWN)[edge])
    again = rng.random(count) < 0.1
    value = prices[code] * np.where(up, 1 + away, np.maximum(1 - away, 0.01))
    columns = {
        "revision": np.arange(1, count + 1),
        "owner": np.char.add("owner", (np.arange(count) // _OF_OWNER).astype("U8")),
        "symbol": pa.array(list(names)).take(as_arrow(code)),
        "operator": operator,
        "value": value.round(4),
        "hours": np.full(count, "extended"),
        "frequency": np.where(again, "every_time", "once"),
        "rearm": np.where(again, prices[code] * 0.001, 0.0),
        "basis": pa.array(np.full(count, since // 86_400_000_000, np.int32)).cast(pa.date32()),
        "since": np.full(count, since),
    }
    return pa.table(
        [pa.array(columns[name]).cast(kind) for name, kind in _COLUMNS], names=[n for n, _ in _COLUMNS]
    )


def fill(url: str, alerts: pa.Table) -> None:
    """Put alerts in the place of all that a database holds."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE alerts, alert_changes, alert_events, alert_deliveries, alert_tries")
        columns = ", ".join(alerts.column_names)
        cursor.copy_expert(
            f"COPY alerts ({columns}) FROM STDIN (FORMAT binary)", Stream(slices(alerts)), 1 << 20
        )
        cursor.execute("UPDATE alert_feed SET revision = %s", (len(alerts),))
    with closing(connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE alerts")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: as the pacer's."""
    pacer.Feed = Walk  # type: ignore[misc]
    return pacer.main(argv)


if __name__ == "__main__":
    sys.exit(main())
