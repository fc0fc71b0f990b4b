"""Rows of a stream, cells in memory, and a driver that fires timers as a runner does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from fibflow.tests.transforms.tables import dicts
from fibflow.transforms.livebars import LiveBars, Output, Plan
from fibflow.transforms.livebucket import Memo
from fibflow.transforms.livecells import BASE, DAYS, HEAD, MINUTES, REVISIONS, SEEN
from fibflow.transforms.schemas import MINUTE_INPUT, TRADE_INPUT

MINUTE = 60_000_000
END = 1 << 61
#: Counts for everything, in regular hours and outside.
ALL = 0b111111
#: An odd lot: volume only.
ODD_LOT = 0b100100
#: What a bar holds, but for its revision.
PRICES = ("open", "high", "low", "close")
CONTENT = ("end", *PRICES, "volume", "vwap", "trade_count", "sessions", "complete", "final")


def origin(number: int) -> dict:
    sequence = str(10**55 + number // 4)
    return {"shard": f"shardId-{number % 3:012d}", "sequence": sequence, "sub": 0, "place": number}


def trade(symbol: str, ts: int, seq: int, price: float, shares: float = 100, **options: Any) -> dict:
    number = options.pop("number", seq)
    own = {"symbol": symbol, "ts": ts, "seq": seq, "price": price, "volume": round(shares * 1e6)}
    return {**own, "rules": ALL, **origin(number), **options}


def minute(symbol: str, ts: int, price: float, version: int, number: int, **options: Any) -> dict:
    own = {"symbol": symbol, "ts": ts, "open": price, "high": price, "low": price, "close": price}
    more = {"volume": 100.0, "vwap": price, "trade_count": 3, "version": version}
    return {**own, **more, **origin(number), **options}


def stream_table(rows: Sequence[dict], schema: pa.Schema | None = None) -> pa.Table:
    """A table of TRADE_INPUT or MINUTE_INPUT, by the first row unless told."""
    if schema is None:
        schema = TRADE_INPUT if "rules" in rows[0] else MINUTE_INPUT
    arrays = []
    for each in schema:
        values = [row[each.name] for row in rows]
        if pa.types.is_dictionary(each.type):
            arrays.append(pa.array(values, pa.string()).dictionary_encode().cast(each.type))
        elif pa.types.is_timestamp(each.type):
            arrays.append(pa.array(values, pa.int64()).cast(each.type))
        else:
            arrays.append(pa.array(values, each.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def identity(row: dict) -> tuple:
    return (row["shard"], row["sequence"], row["sub"], row["place"])


class MemoryCells:
    """Cells as bytes. A restored bag may come in another order: Beam promises none."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.bags: dict[str, list[bytes]] = {}
        self.written = 0

    def read(self, name: str) -> bytes | None:
        assert name in (HEAD, BASE, REVISIONS)
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        assert name in (HEAD, BASE, REVISIONS)
        self.values[name] = bytes(value)
        self.written += len(value)

    def parts(self, name: str) -> list[bytes]:
        assert name in (*MINUTES, *SEEN, DAYS)
        return list(self.bags.get(name, []))

    def append(self, name: str, part: bytes) -> None:
        assert name in (*MINUTES, *SEEN, DAYS)
        self.bags.setdefault(name, []).append(bytes(part))
        self.written += len(part)

    def clear(self, name: str) -> None:
        self.values.pop(name, None)
        self.bags.pop(name, None)

    def copy(self, numbers: random.Random | None = None) -> MemoryCells:
        """A checkpoint: equal bytes in other objects."""
        new = MemoryCells()
        new.values = {name: bytes(bytearray(value)) for name, value in self.values.items()}
        new.bags = {name: [bytes(bytearray(part)) for part in bag] for name, bag in self.bags.items()}
        if numbers:
            for bag in new.bags.values():
                numbers.shuffle(bag)
        return new

    def size(self, *names: str) -> int:
        chosen = names or (*self.values, *self.bags)
        return sum(len(b"".join((self.values.get(name, b""), *self.bags.get(name, [])))) for name in chosen)


class Bucket:
    """One bucket as a runner holds it: state, a timer, and all that came out."""

    def __init__(self, plan: Plan, numbers: random.Random | None = None) -> None:
        self.plan = plan
        self.cells = MemoryCells()
        self.memo = Memo()
        self.timer: int | None = None
        self.out: list[Output] = []
        self.fired: list[int] = []
        self.numbers = numbers
        #: The open bars as somebody sees them who is told of changes only.
        self.seen: dict[tuple[str, str, int], dict] = {}
        self._saved: Any = None

    def _keep(self, output: Output) -> Output:
        if output.timer is not None:
            self.timer = output.timer
        self.out.append(output)
        return output

    def add(self, rows: pa.Table | Sequence[dict]) -> Output:
        table = rows if isinstance(rows, pa.Table) else stream_table(rows)
        return self._keep(LiveBars(self.plan, self.cells, self.memo).add(table))

    def take_history(self, element: pa.Table) -> Output:
        return self._keep(LiveBars(self.plan, self.cells, self.memo).take_history(element))

    def look(self, marker: str = "") -> tuple[bool, list[dict]] | None:
        """Let open bars out; return whether they were all of their kind, of any kind, and the bars."""
        live = LiveBars(self.plan, self.cells, self.memo)
        told = [(of_days, live.let_out(marker, of_days)) for of_days in self.plan.kinds]
        found = [(of_days, *each) for of_days, each in told if each is not None]
        for of_days, whole, table in found:
            bars = dicts(table)
            told_of = {bar["symbol"] for bar in bars}
            assert all(bar["timeframe"].endswith("d") == of_days for bar in bars)
            self.seen = {
                name: bar
                for name, bar in self.seen.items()
                if name[1].endswith("d") != of_days or (not whole and name[0] not in told_of)
            }
            self.seen.update((key(bar), bar) for bar in bars)
            assert len(bars) == len({key(bar) for bar in bars})
        if not found:
            return None
        return any(whole for _, whole, _ in found), [bar for *_, bars in found for bar in dicts(bars)]

    def fire(self) -> Output:
        """Fire the timer."""
        assert self.timer is not None
        clock, self.timer = self.timer, None
        self.fired.append(clock)
        return self._keep(LiveBars(self.plan, self.cells, self.memo).advance(clock))

    def advance(self, watermark: int) -> None:
        """Fire what the watermark has reached, in order."""
        while self.timer is not None and self.timer <= watermark:
            self.fire()

    def checkpoint(self) -> None:
        self._saved = (self.cells.copy(), self.timer, len(self.out), len(self.fired))

    def restore(self, keep_memo: bool) -> None:
        """Go back to the checkpoint; a worker that lives on still has its memo."""
        cells, self.timer, outputs, fired = self._saved
        self.cells = cells.copy(self.numbers)
        del self.out[outputs:], self.fired[fired:]
        if not keep_memo:
            self.memo = Memo()

    def tables(self, name: str) -> list[pa.Table]:
        found = []
        for output in self.out:
            value = getattr(output, name)
            found += list(value) if isinstance(value, tuple) else [value] if value is not None else []
        return found

    def rows(self, name: str) -> list[dict]:
        return [row for table in self.tables(name) for row in dicts(table)]


def content(bar: dict) -> tuple:
    return tuple(bar[name] for name in CONTENT)


def key(bar: dict) -> tuple[str, str, int]:
    return (bar["symbol"], bar["timeframe"], bar["ts"])


def kept(bars: Iterable[dict]) -> dict[tuple[str, str, int], dict]:
    """What a reader keeps: the greatest (revision, final) of each key. Checks what the policy promises."""
    best: dict[tuple[str, str, int], dict] = {}
    for bar in bars:
        assert bar["complete"]
        assert bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"]
        old = best.get(key(bar))
        if old is None:
            # A bar may be new when it is final at once.
            assert bar["revision"] == 0
        else:
            assert not old["final"], f"a final bar changed: {old} {bar}"
            values, before = (content(each)[:-2] for each in (bar, old))
            if bar["final"]:
                assert (values, bar["revision"]) == (before, old["revision"])
            else:
                assert values != before
                assert bar["revision"] == old["revision"] + 1
        best[key(bar)] = bar
    return best


def compared(bars: Iterable[dict]) -> dict[tuple[str, str, int], tuple]:
    return {key(bar): content(bar) for bar in bars}


def letters(rows: Iterable[dict], *names: str) -> Counter:
    return Counter(tuple(row[name] for name in names) for row in rows)
