"""Differences of bars, and which windows hold an event."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.reconciliation import differences, holding, with_reasons
from fibflow.tests.transforms.tables import calendar, dicts, ny
from fibflow.transforms.schemas import BARS, RECONCILIATION

XNYS = calendar("XNYS")
OPEN = ny("2024-07-02T09:30")
STEP = 300_000_000
VALUES = ("open", "high", "low", "close", "volume", "vwap", "trade_count")


def table(bars: list[dict]) -> pa.Table:
    columns: list[Any] = []
    for field in BARS:
        values = [bar.get(field.name) for bar in bars]
        kind = pa.int64() if pa.types.is_timestamp(field.type) else field.type
        columns.append(pa.array(values, kind).cast(field.type))
    return pa.Table.from_arrays(columns, schema=BARS)


def bar(symbol: str, number: int, price: float, **values: Any) -> dict:
    ts = OPEN + number * STEP
    own = {"symbol": symbol, "timeframe": "5m", "ts": ts, "end": ts + STEP, "sessions": 1}
    return own | dict.fromkeys(("open", "high", "low", "close", "volume"), price) | values


@given(st.integers(0, 2**32))
def test_differences_are_those_of_dictionaries(seed):
    numbers = random.Random(seed)
    sides: list[dict] = [{}, {}]
    for side in sides:
        for symbol in ("A", "AA", "é"):
            for number in numbers.sample(range(12), numbers.randrange(12)):
                values = {"vwap": numbers.choice([None, 1.0]), "trade_count": numbers.choice([None, 0, 7])}
                # Flags and revisions say nothing.
                flags = {"revision": numbers.randrange(9), "final": numbers.random() < 0.5}
                side[symbol, number] = bar(symbol, number, numbers.choice([1.0, 2.0]), **values, **flags)
    old, new = sides
    before, after = (table(numbers.sample(list(side.values()), len(side))) for side in sides)
    rows = differences(before, after, XNYS)
    assert rows.schema.equals(RECONCILIATION)
    found = {(row["symbol"], row["ts"]): row for row in dicts(rows)}
    assert len(found) == len(rows)
    expected = {}
    for key in old.keys() | new.keys():
        a, b = ([side[key].get(name) for name in VALUES] if key in side else None for side in sides)
        if a != b:
            change = "missing" if a is None else "surplus" if b is None else "different"
            expected[key[0], OPEN + key[1] * STEP] = (change, a or [None] * 7, b or [None] * 7)
    told = {
        key: (row["change"], *([row[f"{side}_{name}"] for name in VALUES] for side in ("old", "new")))
        for key, row in found.items()
    }
    assert told == expected
    assert {str(row["session"]) for row in found.values()} <= {"2024-07-02"}
    assert {row["end"] - row["ts"] for row in found.values()} <= {STEP}
    assert {(row["run"], row["why"], row["timeframe"]) for row in found.values()} <= {(None, None, "5m")}


@given(st.integers(0, 2**32))
def test_windows_that_hold_an_event(seed):
    numbers = random.Random(seed)
    picked = {(numbers.choice("ABC"), numbers.randrange(20)) for _ in range(numbers.randrange(20))}
    rows = differences(table([]), table([bar(symbol, number, 1.0) for symbol, number in picked]), XNYS)
    places = [
        OPEN + numbers.choice([-(10**12), -1, 0, 1, 10**12]) + numbers.randrange(20) * STEP for _ in range(30)
    ]
    events = [(numbers.choice("ABCD"), ts) for ts in places]
    told = pa.table(
        {
            "symbol": pa.array([symbol for symbol, _ in events], pa.string()),
            "ts": pa.array([ts for _, ts in events], pa.int64()).cast(BARS.field("ts").type),
        }
    )
    expected = [
        any(name == row["symbol"] and row["ts"] <= ts < row["end"] for name, ts in events)
        for row in dicts(rows)
    ]
    assert holding(rows, told).tolist() == expected
    assert not holding(rows, told.slice(0, 0)).any()


def test_reasons_are_named_in_order():
    rows = differences(table([]), table([bar("A", number, 1.0) for number in range(4)]), XNYS)
    late, cancelled = np.array([True, True, False, False]), np.array([False, True, True, False])
    otherwise = np.array(["a", "b", "c", "official"])
    found = with_reasons(rows, {"late": late, "cancelled": cancelled}, otherwise)
    assert found["why"].to_pylist() == ["late", "late,cancelled", "cancelled", "official"]
    assert found.schema.equals(RECONCILIATION)
