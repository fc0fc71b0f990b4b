"""Worlds of raw rows, drawn by hypothesis: files that overlap, in any order and cut, with their faults."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pyarrow as pa
from hypothesis import strategies as st

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import raw

NAMES = ["A", "AA", "AAPL", "BRK.B", "Z", "é", "a"]
WRONG = (
    {"symbol": None},
    {"symbol": ""},
    {"ts": None},
    {"open": None},
    {"close": float("nan")},
    {"high": float("inf")},
    {"low": 0.0},
    {"open": -1.0},
    {"high": 1e-3},
    {"low": 1e9},
    {"volume": None},
    {"volume": float("nan")},
    {"volume": -1.0},
    {"volume": 1.0000001e11},
)
ODD = (
    {"vwap": float("nan")},
    {"vwap": float("inf")},
    {"vwap": 0.0},
    {"vwap": -3.0},
    {"trade_count": -1},
)


@dataclass(frozen=True)
class World:
    """Raw rows of files by rank, and the pieces in which they come: (rank, first row, stop)."""

    kind: str
    name: str
    closed: tuple[date, ...]
    files: list[list[dict]]
    pieces: list[tuple[int, int, int]]
    first: int
    last: int
    numbers: random.Random

    @cached_property
    def oracle(self) -> oracle.Calendar:
        return oracle.calendar(self.name).without(*self.closed)

    @property
    def origins(self) -> list[str]:
        return [f"file {rank}" for rank in range(len(self.files))]

    def tables(self) -> list[pa.Table]:
        """The pieces as RAW tables with rank, in the order in which they come."""
        return [raw(self.files[rank][first:stop]) for rank, first, stop in self.pieces]

    def verdict(self) -> tuple[list[dict], list[tuple]]:
        """The rows that count, and what is refused: (reason, file, symbol, open) sorted."""
        accepted, refused = [], []
        of = self.oracle
        for row in (row for file in self.files for row in file):
            reason = oracle.refusal(row, of, self.kind)
            if reason:
                refused.append((reason, f"file {row['rank']}", row["symbol"], row["open"]))
            else:
                accepted.append(oracle.accept(row, of, self.kind))
        won, lost = oracle.winners(accepted)
        refused += [("duplicate", f"file {row['rank']}", row["symbol"], row["open"]) for row in lost]
        return won, sorted(refused, key=repr)


def _values(numbers: random.Random, price: float, vwap: float, counts: float, whole: bool) -> dict:
    prices = [price * numbers.uniform(0.9, 1.1) for _ in range(4)]
    if whole:
        prices = [round(p, 2) or 0.01 for p in prices]
    volume = numbers.choice([0.0, 1.0, 100.0, 1e11, numbers.randrange(10**7), numbers.uniform(0, 1e6), 5e-7])
    return {
        "open": prices[0],
        "close": prices[1],
        "high": max(prices),
        "low": min(prices),
        "volume": float(volume),
        "vwap": numbers.uniform(min(prices), max(prices)) if numbers.random() < vwap else None,
        "trade_count": numbers.choice([0, 1, 7, 2**40]) if numbers.random() < counts else None,
    }


def _cut(numbers: random.Random, files: list[list[dict]], chunks: int) -> list[tuple[int, int, int]]:
    """Cut each file into pieces, and shuffle: only the pieces of one file keep their order."""
    pieces = []
    for rank, file in enumerate(files):
        cuts = sorted([0, len(file), *(numbers.randint(0, len(file)) for _ in range(chunks))])
        pieces.append([(rank, first, stop) for first, stop in itertools.pairwise(cuts)])
    turns = [rank for rank, own in enumerate(pieces) for _ in own]
    numbers.shuffle(turns)
    queues = [iter(own) for own in pieces]
    return [next(queues[rank]) for rank in turns]


@dataclass(frozen=True)
class Shape:
    """What is drawn of a world: few numbers, so that hypothesis can make it small."""

    seed: int
    symbols: int
    files: int
    chunks: int
    overlap: float
    gaps: float
    wrong: float
    vwap: float
    counts: float


shapes = st.builds(
    Shape,
    seed=st.integers(0, 2**32),
    symbols=st.integers(1, 4),
    files=st.integers(1, 4),
    chunks=st.integers(0, 4),
    overlap=st.sampled_from([0.0, 0.05, 0.5]),
    gaps=st.sampled_from([0.0, 0.1, 0.6]),
    wrong=st.sampled_from([0.0, 0.1]),
    vwap=st.sampled_from([0.0, 0.9, 1.0]),
    counts=st.sampled_from([0.0, 0.9, 1.0]),
)


def _world(
    shape: Shape, kind: str, name: str, closed: tuple[date, ...], times: dict[str, list[int]]
) -> World:
    """Write rows of each symbol's times into files, some of them into several, and spoil some."""
    numbers = random.Random(shape.seed)
    files: list[list[dict]] = [[] for _ in range(shape.files)]
    for symbol, stamps in times.items():
        price = numbers.choice([0.0004, 12.5, 700_000.0])
        for stamp in stamps:
            while True:
                row = {"symbol": symbol, "ts": stamp}
                row |= _values(numbers, price, shape.vwap, shape.counts, numbers.random() < 0.5)
                if kind == "minutes":
                    row |= {
                        "version": numbers.choice([None, 1, 2, 5]),
                        "ts": stamp + numbers.randrange(60_000_000),
                    }
                if numbers.random() < shape.wrong:
                    row |= numbers.choice(WRONG + ODD)
                    row |= numbers.choice(({}, *WRONG))
                files[numbers.randrange(shape.files)].append(row)
                if numbers.random() >= shape.overlap:
                    break
    for rank, file in enumerate(files):
        if numbers.random() < 0.5:
            numbers.shuffle(file)
        elif numbers.random() < 0.5:
            file.sort(key=lambda row: row["ts"] or 0)
        for place, row in enumerate(file):
            row.update(rank=rank, place=place)
    stamps = [stamp for own in times.values() for stamp in own] or [0]
    pieces = _cut(numbers, files, shape.chunks)
    return World(kind, name, closed, files, pieces, min(stamps), max(stamps), numbers)


#: Sessions at which a world of days begins: the calendar's first, around session 0, half days, closures.
BEGINNINGS = [
    date(1900, 1, 2),
    date(1962, 1, 2),
    date(1999, 11, 1),
    date(1999, 12, 31),
    date(2000, 1, 3),
    date(2001, 8, 30),
    date(2024, 6, 20),
    date(2025, 10, 3),
]


@st.composite
def worlds_of_days(draw: st.DrawFn) -> World:
    """Daily rows of symbols that are listed and delisted in mid-window, halted, and have gaps."""
    shape = draw(shapes)
    numbers = random.Random(shape.seed + 1)
    planned = oracle.calendar("XNYS").sessions
    begin = oracle.calendar("XNYS").index[draw(st.sampled_from(BEGINNINGS))]
    span = planned[begin : begin + draw(st.sampled_from([40, 75, 3, 1]))]
    closed = tuple(
        numbers.sample([session.day for session in span], min(len(span), numbers.choice([0, 0, 1, 2])))
    )
    times: dict[str, list[int]] = {}
    for symbol in numbers.sample(NAMES, shape.symbols):
        listed = numbers.choice([0, 0, numbers.randrange(len(span))])
        delisted = numbers.choice([len(span), len(span), numbers.randint(listed, len(span))])
        halt = range(halted := numbers.randrange(len(span)), halted + numbers.choice([0, 0, 3, 15]))
        times[symbol] = [
            # Midnight in New York or in UTC, the close, or the session's last instant: all of them name it.
            numbers.choice(
                [
                    session.start,
                    oracle.DAY * (session.day - date(1970, 1, 1)).days,
                    session.closes,
                    session.end - 1,
                ]
            )
            for number, session in enumerate(span)
            if listed <= number < delisted and number not in halt and numbers.random() >= shape.gaps
        ]
    return _world(shape, "daily", "XNYS", closed, times)


#: Sessions of minutes: usual ones, a half day, days next to a change of clocks, and days that hold one.
DAYS_OF_MINUTES = {
    "XNYS": [date(2024, 7, 2), date(2024, 7, 3), date(2024, 3, 8), date(2024, 3, 11), date(2024, 11, 4)],
    "XIST": [date(2014, 3, 28), date(2014, 3, 31)],
    "AIXK": [date(2024, 2, 28), date(2024, 2, 29)],
}


@st.composite
def worlds_of_minutes(draw: st.DrawFn) -> World:
    """Minute rows before, in and after regular hours, thick and thin, with versions."""
    shape = draw(shapes)
    name = draw(st.sampled_from(sorted(DAYS_OF_MINUTES)))
    numbers = random.Random(shape.seed + 1)
    of = oracle.calendar(name)
    own = numbers.sample(DAYS_OF_MINUTES[name], numbers.randint(1, 2))
    closed = tuple(own[1:] if numbers.random() < 0.2 else ())
    times: dict[str, list[int]] = {}
    for symbol in numbers.sample(NAMES, shape.symbols):
        stamps: set[int] = set()
        for session in (of.sessions[of.index[day]] for day in own):
            for edge in (session.start, session.opens, session.closes, session.end - 30 * oracle.MINUTE):
                thick = numbers.randrange(edge, edge + 5 * oracle.MINUTE, oracle.MINUTE)
                stamps.update(thick + number * oracle.MINUTE for number in range(numbers.choice([0, 3, 12])))
            stamps.update(
                numbers.choices(range(session.start, session.end, oracle.MINUTE), k=numbers.choice([0, 20]))
            )
        times[symbol] = sorted(stamp for stamp in stamps if numbers.random() >= shape.gaps)
    return _world(shape, "minutes", name, closed, times)
