"""Lakes of bars as ``pipelines.batch`` leaves them, and random histories that grow and change from step to step."""

from __future__ import annotations

import contextlib
import io
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.lake import Lake, LakeTable
from fibflow.pipelines import batch, cli
from fibflow.tests.pipelines.raws import FAST, Bronze, Raw, Row, table_of
from fibflow.tests.transforms.tables import by_key
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.schemas import BARS

XNYS = load_calendar()

#: (symbol, timeframe, ts in UTC microseconds)
Key = tuple[str, str, int]
Bar = dict[str, Any]


def sessions(first: str, last: str) -> list[date]:
    """The sessions of XNYS on ``[first, last]``."""
    days = XNYS.days.astype("datetime64[D]")
    return days[(days >= np.datetime64(first)) & (days <= np.datetime64(last))].tolist()


@dataclass
class Silver:
    """A lake, seen by the bars that runs leave in it."""

    uri: str
    aws: AwsConfig | None = None
    source: tuple[str, ...] = ()

    def batch(self, *options: str) -> int:
        """Run in this process and one thread."""
        return batch.run(["--lake", self.uri, *FAST, *self.source, *options])

    @property
    def table(self) -> LakeTable:
        return Lake(self.uri, self.aws).table(tables.BARS)

    @property
    def version(self) -> int:
        return self.table.version

    def bars(self, version: int | None = None) -> dict[Key, Bar]:
        """All bars by key, each key once; none where there is no table."""
        if not self.table.exists:
            return {}
        snapshot = self.table.snapshot(version)
        assert all(file.rows for file in snapshot.select())
        return by_key([snapshot.read(BARS.names)[0]])

    def content(self, version: int | None = None) -> dict[Key, Bar]:
        """All bars, every column but ``revision``."""
        return contents(self.bars(version))

    def paths(self, timeframe: str, complete: bool = True) -> frozenset[str]:
        """The files that hold bars of ended windows, or of open ones."""
        where = {"timeframe": timeframe, "complete": complete}
        return frozenset(file.path for file in self.table.snapshot().select(where=where))


def contents(bars: Mapping[Key, Bar]) -> dict[Key, Bar]:
    return {key: {name: bar[name] for name in bar if name != "revision"} for key, bar in bars.items()}


def revised(before: Mapping[Key, Bar], after: Mapping[Key, Bar]) -> set[Key]:
    """The keys whose revision went up; each by one, because its content changed, and nothing else differs."""
    raised = {key for key in before.keys() & after.keys() if before[key] != after[key]}
    for key in raised:
        assert after[key]["revision"] == before[key]["revision"] + 1
        assert contents({key: before[key]}) != contents({key: after[key]})
    return raised


def window(bar: Bar) -> tuple[date, date]:
    """The first and the last session of a bar's window."""
    first = XNYS.positions_at(np.array([bar["ts"]]))[0]
    last = np.searchsorted(XNYS.day_ends, bar["end"])
    days = XNYS.days.astype("datetime64[D]")
    return days[first].item(), days[last].item()


def holds(bar: Bar, *days: date) -> bool:
    """Whether a bar's window holds any of some sessions."""
    first, last = window(bar)
    return any(first <= day <= last for day in days)


@dataclass
class Failed:
    """How a command line ended."""

    code: int
    lines: list[str]


def fail(run: Callable[[Any], int], *argv: str) -> Failed:
    """Run a command line as ``python -m`` does; return its code and what it said on standard error but progress."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        cli.run_main(run, list(argv))
    assert isinstance(ended.value.code, int)
    progress = ("bars of about", "loading about")
    lines = [line for line in said.getvalue().splitlines() if not line.startswith(progress)]
    return Failed(ended.value.code, lines)


def command(module: str, *argv: str) -> list[str]:
    """A command line for a process of its own."""
    return [sys.executable, "-P", "-m", f"fibflow.pipelines.{module}", *argv]


# Histories ---------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """Raw files that grow and change, and what they come to.

    Attributes:
        raw: where the files are.
        days: all sessions; the first ``known`` of them have happened.
        numbers: draws everything.
        listed: each symbol's first session and the one after its last, as places in ``days``.
        gaps: which of its sessions a symbol has no row of.
        files: rows by file.
    """

    raw: Raw
    days: list[date]
    numbers: random.Random
    known: int = 0
    listed: dict[str, tuple[int, int]] = field(default_factory=dict)
    gaps: dict[str, set[int]] = field(default_factory=dict)
    files: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def draw(cls, base: Path, seed: int) -> History:
        """Six symbols over half a year: listed in mid-window, delisted, halted, and with gaps."""
        numbers = random.Random(seed)
        made = cls(Raw(base), sessions("2023-10-12", "2024-04-30"), numbers)
        far = len(made.days)
        made.listed = {
            "A": (0, far),
            "AA": (numbers.randrange(1, 30), far),
            "BRK.B": (numbers.randrange(30, 50), far),
            "GONE": (0, numbers.randrange(20, 55)),
            "HALT": (numbers.randrange(5), far),
            "THIN": (numbers.randrange(10), far),
        }
        halted = numbers.randrange(20, 40)
        made.gaps = {name: set() for name in made.listed}
        made.gaps["HALT"] = set(range(halted, halted + numbers.randrange(10, 40)))
        made.gaps["THIN"] = {place for place in range(far) if numbers.random() < 0.6}
        return made

    def rows(self, symbol: str, first: int, stop: int) -> list[Row]:
        listed, delisted = self.listed[symbol]
        return [
            self.row(symbol, place)
            for place in range(max(first, listed), min(stop, delisted))
            if place not in self.gaps[symbol]
        ]

    def row(self, symbol: str, place: int) -> Row:
        return Row(symbol, self.days[place], round(self.numbers.uniform(5, 500), 2))

    def put(self, name: str, rows: list[Row]) -> None:
        """Write a file; half of the symbols have a vwap and a count of trades."""
        self.files[name] = rows
        full = [row.symbol in ("A", "BRK.B", "NEW") for row in rows]
        pairs = list(zip(rows, full, strict=True))
        vwap = pa.array([row.value + 0.25 if has else None for row, has in pairs], pa.float64())
        count = pa.array([int(row.value) if has else None for row, has in pairs], pa.int64())
        self.raw.put(name, table_of(rows, "symbol=" not in name, vwap=vwap, transactions=count))

    # Steps ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The history so far, one file a symbol, two of them with a file of their own for each of the last sessions."""
        self.known = 58
        for symbol in self.listed:
            own = self.rows(symbol, 0, self.known)
            self.put(f"symbol={symbol}/data.parquet", own)
            if symbol in ("A", "THIN"):
                for row in own[-3:]:
                    late = row._replace(value=row.value + 1)
                    self.put(f"symbol={symbol}/date={row.day}.parquet", [late])

    def new_sessions(self, count: int) -> None:
        """Sessions that follow, a file for each with all symbols."""
        for _ in range(count):
            rows = [row for name in self.listed for row in self.rows(name, self.known, self.known + 1)]
            self.put(f"daily/{self.days[self.known]}.parquet", rows)
            self.known += 1

    def correct(self) -> None:
        """Other values in old rows of two symbols, far from each other."""
        for symbol, share in (("A", 0.1), ("THIN", 0.7)):
            name = f"symbol={symbol}/data.parquet"
            rows = self.files[name]
            place = int(len(rows) * share)
            self.put(name, [*rows[:place], self._other(rows[place]), *rows[place + 1 :]])

    def backfill(self, symbol: str) -> None:
        """Rows before a symbol's first."""
        first, last = self.listed[symbol]
        earlier = max(0, first - self.numbers.randrange(1, 9))
        self.listed[symbol] = (earlier, last)
        self.put(f"symbol={symbol}/backfill-{earlier}.parquet", self.rows(symbol, earlier, first))

    def list_symbol(self, symbol: str) -> None:
        """A new symbol with history of some sessions."""
        self.listed[symbol] = (self.known - self.numbers.randrange(5, 25), len(self.days))
        self.gaps[symbol] = set()
        self.put(f"symbol={symbol}/data.parquet", self.rows(symbol, 0, self.known))

    def late_file(self) -> None:
        """A ``date=`` file of an old session that was a gap, and one of a session that had a row."""
        gap = self.numbers.choice(sorted(place for place in self.gaps["HALT"] if place < self.known))
        self.gaps["HALT"].discard(gap)
        self.put(f"symbol=HALT/date={self.days[gap]}.parquet", [self.row("HALT", gap)])
        held = self.numbers.choice(self.files["symbol=GONE/data.parquet"])
        self.put(f"symbol=GONE/date={held.day}.parquet", [self._other(held)])

    def _other(self, row: Row) -> Row:
        return row._replace(value=round(row.value + self.numbers.uniform(1, 50), 2))

    def steps(self) -> Iterable[tuple[str, Callable[[], None]]]:
        """What happens after the start, by name; in an order that is drawn."""

        def much_at_once() -> None:
            self.backfill("BRK.B")
            self.correct()
            self.new_sessions(1)

        steps: list[tuple[str, Callable[[], None]]] = [
            ("one session", lambda: self.new_sessions(1)),
            ("several sessions", lambda: self.new_sessions(4)),
            ("corrections", self.correct),
            ("a backfill", lambda: self.backfill("AA")),
            ("a new symbol, and a session", lambda: (self.list_symbol("NEW"), self.new_sessions(1))[1]),
            ("late files", self.late_file),
            ("much at once", much_at_once),
        ]
        self.numbers.shuffle(steps)
        return [*steps, ("a jump", lambda: self.new_sessions(37))]


def landed(lake: str) -> Bronze:
    return Bronze(lake)
