"""Changes, facts and prices as dicts to tables, a bucket's cells in memory, and a bucket to feed them to."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.transforms.alerts.cells import BAGS, VALUES
from fibflow.transforms.alerts.live import LiveAlerts, Memo, Plan
from fibflow.transforms.alerts.schema import (
    ALWAYS,
    CHANGES,
    EVENTS,
    FACTS,
    NEVER,
    PRICES,
    Fact,
    Frequency,
    Operator,
    Reference,
)

NAN = float("nan")
_REVISIONS = itertools.count(1)


def change(alert: int, operator: Operator, value: float, **options: Any) -> dict:
    """A version of an alert of symbol A: fires once, in all hours, unless told otherwise.

    Those that are made later stand later in the feed.
    """
    return {
        "symbol": "A",
        "alert": alert,
        "version": 1,
        "revision": next(_REVISIONS),
        "operator": operator,
        "value": value,
        "reference": Reference.NONE,
        "reference_price": NAN,
        "extended": True,
        "frequency": Frequency.ONCE,
        "span": 0,
        "cooldown": 0,
        "rearm": 0.0,
        "since": 0,
        "until": ALWAYS,
        "basis": 0,
        "fired": NEVER,
        **options,
    }


def price(ts: int, price: float, seq: int = 0, symbol: str = "A", regular: bool = True) -> dict:
    return {"symbol": symbol, "ts": ts, "seq": seq, "price": price, "regular": regular}


def renumber(rows: Sequence[dict]) -> None:
    """Have changes among rows stand in the feed in their order; one that comes again keeps its revision."""
    changes = [row for row in rows if "alert" in row]
    numbers = sorted({row["revision"] for row in changes})
    keys = dict.fromkeys((row["alert"], row["version"]) for row in changes)
    of_key = dict(zip(keys, numbers, strict=True))
    for row in changes:
        row["revision"] = of_key[row["alert"], row["version"]]


def split(day: int, factor: float, symbol: str = "A") -> dict:
    return {"symbol": symbol, "kind": Fact.SPLIT, "day": day, "value": factor}


def close(day: int, value: float, symbol: str = "A") -> dict:
    return {"symbol": symbol, "kind": Fact.CLOSE, "day": day, "value": value}


def table(rows: Sequence[dict]) -> pa.Table:
    """A table of the schema that the first row has."""
    schema = next(each for each in (CHANGES, FACTS, PRICES) if set(each.names) == set(rows[0]))
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        is_word = pa.types.is_dictionary(field.type)
        arrays.append(
            pa.array(values, pa.string()).dictionary_encode() if is_word else pa.array(values, field.type)
        )
    return pa.Table.from_arrays(arrays, schema=schema)


class MemoryCells:
    """Cells as bytes. A restored bag may come in another order: Beam promises none."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.bags: dict[str, list[bytes]] = {}
        self.reads: list[str] = []
        self.writes: list[str] = []

    def read(self, name: str) -> bytes | None:
        assert name in VALUES
        self.reads.append(name)
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        assert name in VALUES
        self.writes.append(name)
        self.values[name] = bytes(value)

    def parts(self, name: str) -> list[bytes]:
        assert name in BAGS
        self.reads.append(name)
        return list(self.bags.get(name, []))

    def append(self, name: str, part: bytes) -> None:
        assert name in BAGS
        self.writes.append(name)
        self.bags.setdefault(name, []).append(bytes(part))

    def clear(self, name: str) -> None:
        self.values.pop(name, None)
        self.bags.pop(name, None)

    def copy(self, numbers: random.Random) -> MemoryCells:
        """A checkpoint, in which bags have another order."""
        new = MemoryCells()
        new.values = dict(self.values)
        new.bags = {name: numbers.sample(bag, len(bag)) for name, bag in self.bags.items()}
        return new

    def size(self) -> int:
        return sum(map(len, self.values.values())) + sum(len(b"".join(bag)) for bag in self.bags.values())


class Bucket:
    """A bucket as a runner holds it, and all that it said."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.cells, self.memo = plan, MemoryCells(), Memo()
        self.events: list[dict] = []

    def take(self, rows: Sequence[dict]) -> list[dict]:
        """Feed rows of one kind; return what fired."""
        fired = LiveAlerts(self.plan, self.cells, self.memo).take(table(rows))
        assert fired is None or (len(fired) and fired.schema.equals(EVENTS))
        found = [] if fired is None else fired.to_pylist()
        self.events += found
        return found

    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


def same(one: Any, other: Any) -> bool:
    """Whether two numbers are equal, NaN to itself."""
    return bool(one == other or (np.isnan(one) and np.isnan(other)))
