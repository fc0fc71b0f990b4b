"""Random markets with alerts: prices that come late and twice, edits at any instant, splits and closes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from fibflow.tests.transforms.alerts.tables import NAN, change, close, price, renumber, split
from fibflow.tests.transforms.tables import calendar, days, ny
from fibflow.transforms.alerts.schema import NEVER, Frequency, Operator, Reference

XNYS = calendar("XNYS")
#: A half day among them, a holiday and a weekend between.
DATES = ("2024-07-02", "2024-07-03", "2024-07-05", "2024-07-08")
DAYS = days(*DATES)
TIMES = ("04:00", "09:29", "09:30", "10:00", "12:59", "13:00", "15:59", "16:00", "19:59")
SECOND = 1_000_000
OPERATORS = [each for each in Operator if each is not Operator.ENDED]
PERCENTAGES = (Operator.PERCENT_UP, Operator.PERCENT_DOWN, Operator.PERCENT)


@dataclass
class World:
    """Rows in the order in which they come, of all kinds."""

    rows: list[dict]
    numbers: random.Random = field(repr=False)

    def tables(self, rows: list[dict] | None = None) -> list[list[dict]]:
        """Rows cut into tables of one kind, anyhow."""
        found: list[list[dict]] = []
        limit = self.numbers.choice([1, 3, 20, 1000])
        for row in self.rows if rows is None else rows:
            full = not found or len(found[-1]) >= limit or self.numbers.random() < 0.05
            if full or found[-1][0].keys() != row.keys():
                found.append([])
            found[-1].append(row)
        return found


def is_regular(ts: int) -> bool:
    return any(ny(f"{day}T09:30") <= ts < ny(f"{day}T{end}") for day, end in zip(DATES, CLOSES, strict=True))


CLOSES = ("16:00", "13:00", "16:00", "16:00")


class Maker:
    """Makes a world from random numbers."""

    def __init__(self, seed: int, alerts: int, prices: int) -> None:
        self.told = seed, alerts, prices
        self.numbers = random.Random(seed)
        self.names = ["A", "BB"][: self.numbers.choice([1, 2])]
        self.alerts, self.prices = alerts, prices
        self.grid = self.numbers.choice([2, 5, 20])
        self.splits: list[dict] = []

    def __repr__(self) -> str:
        return f"Maker{self.told}"

    def make(self, punctual: bool = False) -> World:
        """Return a world.

        Args:
            punctual: changes come before the first price that they are for.
        """
        numbers = self.numbers
        if numbers.random() < 0.6:
            chosen = numbers.sample(DAYS[1:], numbers.choice([1, 2]))
            self.splits = [split(day, numbers.choice([0.25, 0.5, 3.0]), self.names[0]) for day in chosen]
        rows = self.path()
        instants = [row["ts"] for row in rows]
        for alert in range(1, self.alerts + 1):
            self.insert(rows, instants, alert, punctual)
        for fact in self.splits:
            before = next(
                (at for at, row in enumerate(rows) if row.get("ts", 0) >= stamp(fact["day"])), len(rows)
            )
            rows.insert(numbers.randint(0, before if numbers.random() < 0.8 else len(rows)), fact)
        for name in self.names:
            for day in DAYS:
                if numbers.random() < 0.5:
                    value = self.value(name, stamp(day))
                    rows.insert(numbers.randint(0, len(rows)), close(day, value, name))
        renumber(rows)
        return World(rows, numbers)

    def path(self) -> list[dict]:
        numbers = self.numbers
        stamps = [ny(f"{day}T{time}") for day in DATES for time in TIMES]
        chosen = numbers.sample(stamps, numbers.randint(2, 8))
        instants = sorted(
            numbers.choice(chosen) + numbers.randint(0, 4) * SECOND * numbers.choice([1, 60, 300])
            for _ in range(self.prices)
        )
        if numbers.random() < 0.2:
            instants.append(ny("2024-07-06T12:00"))
        rows = []
        for number, ts in enumerate(instants):
            name = numbers.choice(self.names)
            rows.append(price(ts, self.value(name, ts), number % 3, name, is_regular(ts)))
        for _ in range(numbers.choice([0, 0, 3, len(rows) // 4])):
            # Late, or twice, or with another price.
            at = numbers.randrange(len(rows))
            row = dict(rows[at])
            if numbers.random() < 0.5:
                row["price"] = self.value(row["symbol"], row["ts"])
            rows.insert(min(len(rows), at + numbers.randint(1, 6)), row)
        return rows

    def value(self, name: str, ts: int) -> float:
        """A price near 100 of before all splits."""
        found = float(100 + self.numbers.randint(-self.grid, self.grid))
        for each in self.splits:
            if each["symbol"] == name and ts >= stamp(each["day"]):
                found *= each["value"]
        return found

    def insert(self, rows: list[dict], instants: list[int], alert: int, punctual: bool) -> None:
        """Insert the versions of an alert."""
        numbers = self.numbers
        name, at, since = numbers.choice(self.names), 0, 0
        for version in range(1, numbers.choice([1, 1, 2, 4]) + 1):
            at = numbers.randint(at, len(rows)) if version > 1 or numbers.random() < 0.6 else 0
            near = numbers.choice(instants) if punctual or at >= len(instants) else instants[at]
            # A later version counts later, where it matters where it comes.
            least = since if punctual else 0
            since = 0 if not at and version == 1 else max(least, near + numbers.randint(-2, 5) * SECOND)
            row = self.version(alert, version, name, since)
            if punctual:
                first = (n for n, each in enumerate(rows) if "seq" in each and each["ts"] > since)
                at = min(at, next(first, len(rows)))
                row["fired"] = NEVER
            rows.insert(at, row)
            at += 1
            if not punctual and numbers.random() < 0.1:
                rows.insert(at, dict(row))
                at += 1

    def version(self, alert: int, version: int, name: str, since: int) -> dict:
        numbers = self.numbers
        own: dict[str, Any] = {"symbol": name, "version": version, "since": since}
        if version > 1 and numbers.random() < 0.25:
            return change(alert, Operator.ENDED, 1.0, **own)
        operator, frequency = numbers.choice(OPERATORS), numbers.choice(list(Frequency))
        own["extended"], own["frequency"] = numbers.random() < 0.6, frequency
        value = float(100 + numbers.randint(-self.grid, self.grid))
        own["basis"] = numbers.choice([0, DAYS[0], DAYS[2]])
        if operator in PERCENTAGES:
            reference = numbers.choice([Reference.PREVIOUS_CLOSE, Reference.CREATION_PRICE])
            own["reference"], value = reference, numbers.choice([1.0, 2.0, 5.0])
            own["reference_price"] = 100.0 if reference is Reference.CREATION_PRICE else NAN
        if frequency is Frequency.BAR:
            own["span"] = numbers.choice([1, 5, 60, 240])
        if frequency is Frequency.EVERY_TIME:
            own["rearm"] = numbers.choice([0.0, 0.0, 1.0, 2.5])
        own["cooldown"] = numbers.choice([0, 0, 2, 60, 7200]) * SECOND
        if numbers.random() < 0.25:
            own["until"] = (
                ny(f"{numbers.choice(DATES)}T{numbers.choice(TIMES)}") + numbers.randint(0, 3) * SECOND
            )
        if numbers.random() < 0.15:
            own["fired"] = max(since, ny(f"{DATES[0]}T09:30")) + numbers.randint(0, 600) * SECOND
        return change(alert, operator, value, **own)


def stamp(day: int) -> int:
    return ny(f"{DATES[DAYS.index(day)]}T00:00")


def makers() -> st.SearchStrategy[Maker]:
    return st.builds(Maker, st.integers(0, 1 << 32), st.integers(1, 30), st.integers(1, 120))
