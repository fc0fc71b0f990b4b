from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fibflow.tests.transforms.streams import MINUTE, minute, stream_table, trade
from fibflow.tests.transforms.tables import calendar, dicts, ny
from fibflow.transforms import tickrows
from fibflow.transforms.grid import Grid
from fibflow.transforms.livefeeds import Accepted, Rows, accept_minutes, accept_trades, register_rows
from fibflow.transforms.livekeys import decode_keys
from fibflow.transforms.livestate import REGISTERS, SEQ_FROM, SEQ_TO, TRADES, VOLUME, Ring
from fibflow.transforms.schemas import MINUTE_INPUT
from fibflow.transforms.timeframe import IntradayAnchor, parse_timeframes

OPEN = ny("2024-07-02T09:30")
GRID = Grid(parse_timeframes("1m"), calendar("XNYS"), IntradayAnchor.MIDNIGHT)
SYMBOLS = ["A", "B"]


def rows_of(told: list[dict]) -> Rows:
    minute_of = tickrows.minutes_of(np.array([row["ts"] for row in told]))
    minutes, at = np.unique(minute_of, return_inverse=True)
    symbol = np.array([SYMBOLS.index(row["symbol"]) for row in told])
    return Rows(stream_table(told), symbol, at, minutes, GRID.place(minutes))


def empty(feed: Any) -> Ring:
    ring = Ring(feed)
    ring.widen(len(SYMBOLS))
    return ring


def trades(told: list[dict]) -> Accepted:
    ring = empty(TRADES)
    return accept_trades(
        rows_of(told), ring, GRID.place(ring.minutes), lambda minutes: pytest.fail("read keys")
    )


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [3, 1, 0, 2], [0, 2, 1, 3]], ids=["in order", "mixed", "apart"]
)
def test_trades_become_entries_and_keys_by_minute(order):
    told = [
        trade("A", OPEN, 5, 10.0, 1),
        trade("A", OPEN + 1, 9, 11.0, 2),
        trade("B", OPEN, 3, 20.0, 4),
        trade("B", OPEN + MINUTE, 4, 21.0, 8),
    ]
    made = trades([told[place] for place in order])
    first, second = made.entries
    assert (first.minute, second.minute) == (OPEN, OPEN + MINUTE)
    of_symbol = dict(zip(first.index.tolist(), range(2), strict=True))
    a = of_symbol[0]
    assert first.prices[:, a].tolist() == [10.0, 11.0, 10.0, 11.0]
    assert first.sums[VOLUME, a] == 3_000_000
    assert (first.extra[SEQ_FROM, a], first.extra[SEQ_TO, a]) == (5, 9)
    assert second.index.tolist() == [1]
    for (at, part), expected in zip(made.keys, ({(0, 5), (0, 9), (1, 3)}, {(1, 4)}), strict=True):
        minute_of, symbol, counts, _, seq = decode_keys(part)
        assert minute_of == at
        assert set(zip(np.repeat(symbol, counts).tolist(), seq.tolist(), strict=True)) == expected
    assert made.dead_letters == []


def test_an_element_of_duplicates_alone():
    ring = empty(TRADES)
    told = [trade("A", OPEN, 5, 10.0)]
    first = accept_trades(rows_of(told), ring, GRID.place(ring.minutes), lambda _: [])
    ring.insert(np.array([OPEN]))
    ring.add(first.entries[0])
    parts = [part for _, part in first.keys]
    made = accept_trades(rows_of(told), ring, GRID.place(ring.minutes), lambda _: parts)
    assert (made.entries, made.keys) == ([], [])
    assert [len(each) for each in made.dead_letters] == [1]


def test_registers_keep_the_rows_that_they_were():
    told = [
        minute("A", OPEN, 10.0, 3, 1, volume=0.1234567, vwap=None, trade_count=None),
        minute("B", OPEN, 11.0, 2**62, 2, vwap=-5.0, trade_count=-7),
    ]
    shards: list[str] = ["other"]
    made = accept_minutes(rows_of(told), empty(REGISTERS), SYMBOLS, shards)
    (entries,) = made.entries
    back = register_rows(entries, SYMBOLS, shards)
    assert back.schema.equals(MINUTE_INPUT)
    assert dicts(back) == told
    assert shards[0] == "other"


def test_a_register_that_loses_changes_nothing():
    ring = empty(REGISTERS)
    shards: list[str] = []
    made = accept_minutes(rows_of([minute("A", OPEN, 10.0, 5, 1)]), ring, SYMBOLS, shards)
    ring.insert(np.array([OPEN]))
    ring.add(made.entries[0])
    for version, wins in ((4, False), (5, False), (6, True)):
        # One sequence number: the place decides where versions are equal.
        row = minute("A", OPEN, 11.0, version, 1) | {"place": 0}
        made = accept_minutes(rows_of([row]), ring, SYMBOLS, shards)
        assert bool(made.entries) is wins
        (lost,) = (pa.concat_tables(made.dead_letters)["close"].to_pylist(),)
        assert lost == ([10.0] if wins else [11.0])
