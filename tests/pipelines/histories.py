"""Random histories of raw files that grow and change in steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from fibflow.tests.pipelines.lakes import sessions, with_counts
from fibflow.tests.pipelines.raws import Raw, Row, expected


@dataclass
class History:
    """Raw files that grow and change, and what they come to.

    Attributes:
        raw: where the files are.
        days: all sessions; the first ``known`` of them have happened.
        numbers: draws everything.
        listed: each symbol's first session and the one after its last, as places in ``days``.
        gaps: which of its sessions a symbol has no row of.
        files: modification time and rows by file.
    """

    raw: Raw
    days: list[date]
    numbers: random.Random
    known: int = 0
    listed: dict[str, tuple[int, int]] = field(default_factory=dict)
    gaps: dict[str, set[int]] = field(default_factory=dict)
    files: dict[str, tuple[int, list[Row]]] = field(default_factory=dict)

    @classmethod
    def draw(cls, base: Path, seed: int) -> History:
        """Six symbols over half a year: listed in mid-window, delisted, halted, and with gaps."""
        numbers = random.Random(seed)
        made = cls(Raw(base), sessions("2023-10-12", "2024-04-30"), numbers)
        far = len(made.days)
        made.listed = {
            "A": (0, far),
            "AA": (numbers.randrange(9, 30), far),
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

    @property
    def winners(self) -> list[Row]:
        """The rows that count."""
        return [Row(symbol, day, value) for (symbol, day), value in expected(self.files).items()]

    def rows(self, symbol: str, first: int, stop: int) -> list[Row]:
        listed, delisted = self.listed[symbol]
        places = range(max(first, listed), min(stop, delisted))
        return [self.row(symbol, place) for place in places if place not in self.gaps[symbol]]

    def row(self, symbol: str, place: int) -> Row:
        return Row(symbol, self.days[place], round(self.numbers.uniform(5, 500), 2))

    def put(self, name: str, rows: list[Row]) -> None:
        self.raw.put(name, with_counts(rows, "symbol=" not in name))
        self.files[name] = (self.raw.clock, rows)

    # Steps -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The history so far: a file a symbol, and for two of them one for each of the last sessions too."""
        self.known = 58
        for symbol in self.listed:
            own = self.rows(symbol, 0, self.known)
            self.put(f"symbol={symbol}/data.parquet", own)
            if symbol in ("A", "THIN"):
                for row in own[-3:]:
                    self.put(f"symbol={symbol}/date={row.day}.parquet", [self._other(row)])

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
            rows = self.files[name][1]
            place = int(len(rows) * share)
            self.put(name, [*rows[:place], self._other(rows[place]), *rows[place + 1 :]])

    def backfill(self, symbol: str) -> None:
        """Rows before a symbol's first."""
        first, last = self.listed[symbol]
        earlier = first - self.numbers.randrange(1, 9)
        self.listed[symbol] = (earlier, last)
        self.put(f"symbol={symbol}/backfill.parquet", self.rows(symbol, earlier, first))

    def list_symbol(self, symbol: str) -> None:
        """A new symbol with history of some sessions."""
        self.listed[symbol] = (self.known - self.numbers.randrange(5, 25), len(self.days))
        self.gaps[symbol] = set()
        self.put(f"symbol={symbol}/data.parquet", self.rows(symbol, 0, self.known))

    def late_files(self) -> None:
        """A ``date=`` file of an old session that was a gap, and one of a session that had a row."""
        gap = self.numbers.choice(sorted(place for place in self.gaps["HALT"] if place < self.known))
        self.gaps["HALT"].discard(gap)
        self.put(f"symbol=HALT/date={self.days[gap]}.parquet", [self.row("HALT", gap)])
        held = self.numbers.choice(self.files["symbol=GONE/data.parquet"][1])
        self.put(f"symbol=GONE/date={held.day}.parquet", [self._other(held)])

    def _other(self, row: Row) -> Row:
        return row._replace(value=round(row.value + self.numbers.uniform(1, 50), 2))

    def steps(self) -> Iterable[tuple[str, Callable[[], None]]]:
        """What happens after the start, by name; in an order that is drawn."""

        def listing() -> None:
            self.list_symbol("NEW")
            self.new_sessions(1)

        def much_at_once() -> None:
            self.backfill("BRK.B")
            self.correct()
            self.new_sessions(1)

        steps: list[tuple[str, Callable[[], None]]] = [
            ("one session", lambda: self.new_sessions(1)),
            ("several sessions", lambda: self.new_sessions(4)),
            ("corrections", self.correct),
            ("a backfill", lambda: self.backfill("AA")),
            ("a new symbol, and a session", listing),
            ("late files", self.late_files),
            ("much at once", much_at_once),
        ]
        self.numbers.shuffle(steps)
        return [*steps, ("a jump", lambda: self.new_sessions(37))]
