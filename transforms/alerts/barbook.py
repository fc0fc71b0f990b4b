"""The alerts on bars of a bucket in memory: versions, and their terms, as arrays."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms.alerts.barcondition import BarCondition
from fibflow.transforms.alerts.barterm import COMPARES, CROSSINGS, FIELDS, KINDS, Operand, Term
from fibflow.transforms.alerts.errors import DefinitionError
from fibflow.transforms.alerts.groups import ranges
from fibflow.transforms.alerts.rows import end_by_later
from fibflow.transforms.alerts.schema import KIND, NEVER, Frequency
from fibflow.transforms.partials import numbers
from fibflow.transforms.schemas import SYMBOL
from fibflow.transforms.tickrows import words

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.void]

#: More bars of another timeframe are kept than are asked for: the trigger's bar may come after them.
_SPARE = 20
#: One version of an alert on the close of bars, in force for bars that end later than ``since``, up to the
#: next version's ``since``. The fields are those of ``schema.CHANGES``; ``condition``: JSON of
#: ``BarCondition``, null where the alert has ended; ``frequency``: ``ONCE``, ``DAILY``, else ``BAR``;
#: ``fired``: the end of the last bar that this version is known to have fired at, ``NEVER`` for none.
BAR_CHANGES = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("alert", pa.int64()),
        pa.field("version", pa.int32()),
        pa.field("revision", pa.int64()),
        pa.field("condition", pa.string()),
        pa.field("frequency", pa.int8()),
        pa.field("cooldown", pa.int64()),
        pa.field("since", pa.int64()),
        pa.field("until", pa.int64()),
        pa.field("basis", pa.int32()),
        pa.field("fired", pa.int64()),
    ],
    metadata={KIND: b"bar_changes"},
)

#: A version: no bar that ends up to ``floor`` counts for it, nor any that ends after ``end``. ``series``: of
#: the bars that it is judged at, -1 where it waits for nothing; ``first``, ``terms``: where its terms are.
VERSION = np.dtype(
    [
        ("symbol", "<i4"),
        ("alert", "<i8"),
        ("version", "<i4"),
        ("series", "<i4"),
        ("frequency", "i1"),
        ("all", "i1"),
        ("cooldown", "<i8"),
        ("since", "<i8"),
        ("floor", "<i8"),
        ("end", "<i8"),
        ("basis", "<i4"),
        ("fired", "<i8"),
        ("first", "<i4"),
        ("terms", "<i4"),
    ]
)
#: An operand: ``series`` is -1 for a number, which ``times`` holds; ``count`` is how many bars back, or how
#: many.
OPERAND = np.dtype([("kind", "i1"), ("field", "i1"), ("series", "<i4"), ("count", "<i4"), ("times", "<f8")])
#: A term: ``list`` counts the lists of its condition.
TERM = np.dtype([("list", "<i4"), ("operator", "i1"), ("unit", "i1"), ("left", OPERAND), ("right", OPERAND)])
#: What changes of a version when it fires.
MOVE = np.dtype([("alert", "<i8"), ("version", "<i4"), ("fired", "<i8")])


class Compiled:
    """A condition as arrays, its series being numbers of timeframes.

    Attributes:
        timeframe: number of the trigger's.
        joins_all: whether all lists must hold.
        terms: of ``TERM``.
        content: their bytes.
    """

    def __init__(self, condition: BarCondition, numbers_of: dict[str, int]) -> None:
        """Raises KeyError for a timeframe that has no number."""
        self.timeframe = numbers_of[condition.timeframe]
        self.joins_all = condition.join == "all"
        self.terms = np.zeros(len(condition.terms), TERM)
        place = 0
        for number, terms in enumerate(condition.lists):
            for term in terms:
                self._put(place, number, term, numbers_of)
                place += 1
        self.content = self.terms.tobytes()

    def _put(self, place: int, number: int, term: Term, numbers_of: dict[str, int]) -> None:
        row = self.terms[place : place + 1]
        row["list"], row["operator"], row["unit"] = number, COMPARES[term.operator], term.unit
        for side in ("left", "right"):
            operand: Operand = getattr(term, side)
            own = row[side]
            own["kind"] = KINDS[operand.kind]
            own["field"] = FIELDS.index(operand.field) if operand.field else 0
            own["series"] = numbers_of[operand.timeframe] if operand.timeframe else -1
            own["count"] = operand.back + operand.bars
            own["times"] = operand.times * (operand.value if operand.kind == "value" else 1.0)


@lru_cache(maxsize=1 << 12)
def compiled(text: str, timeframes: tuple[str, ...]) -> Compiled | None:
    """Return the condition of a text; None for one that cannot be judged by bars of these timeframes."""
    numbers_of = {name: number for number, name in enumerate(timeframes)}
    try:
        return Compiled(BarCondition.from_json(json.loads(text)), numbers_of)
    except (DefinitionError, KeyError, ValueError):
        return None


class Book:
    """The alerts of a bucket.

    A series' number is its symbol's place times the timeframes that there are, and the timeframe's number.

    Attributes:
        timeframes: names, by number.
        names: the symbols of alerts, by place.
        versions, terms: of ``VERSION`` and ``TERM``.
    """

    def __init__(self, timeframes: tuple[str, ...]) -> None:
        self.timeframes = timeframes
        self.names: list[str] = []
        self.places: dict[str, int] = {}
        self.versions: Rows = np.zeros(0, VERSION)
        self.terms: Rows = np.zeros(0, TERM)
        self._latest: dict[int, int] = {}
        self._by_series: Int64 | None = None
        self._firsts: Any = np.zeros(0, np.int64)

    def add_names(self, names: list[str]) -> None:
        """Give symbols a place."""
        for name in names:
            if name not in self.places:
                self.places[name] = len(self.names)
                self.names.append(name)

    def places_of(self, table: pa.Table) -> Int64:
        """Return the place of each row's symbol, -1 for one that no alert is of; shape (n,)."""
        known, codes = words(table, "symbol")
        return np.array([self.places.get(name, -1) for name in known.to_pylist()], np.int64)[codes]

    # --- changes --------------------------------------------------------------------------------------------

    def take_changes(self, table: pa.Table) -> tuple[Rows, Rows, int]:
        """Read versions that are greater than any known of their alert.

        Args:
            table: of ``BAR_CHANGES``.

        Returns:
            The new versions and their terms, for ``add``; and how many conditions there were that cannot be
            judged: they wait for nothing.
        """
        symbols: list[Any] = words(table, "symbol")[0].to_pylist()
        self.add_names(symbols)
        new: Rows = np.zeros(len(table), VERSION)
        for name in ("alert", "version", "frequency", "cooldown", "basis", "fired"):
            new[name] = numbers(table, name)
        new["symbol"] = self.places_of(table)
        other = ~np.isin(new["frequency"], (Frequency.ONCE, Frequency.DAILY))
        new["frequency"][other] = Frequency.BAR
        new["since"] = numbers(table, "since")
        new["floor"] = np.maximum(new["since"], new["fired"])
        new["end"] = numbers(table, "until")
        kept: list[int] = []
        found: list[Compiled | None] = []
        refused = 0
        texts: list[Any] = table["condition"].to_pylist()
        told = zip(new["alert"].tolist(), new["version"].tolist(), texts, strict=True)
        for row, (alert, version, text) in enumerate(told):
            if version > self._latest.get(alert, -1):
                self._latest[alert] = version
                kept.append(row)
                found.append(None if text is None else compiled(text, self.timeframes))
                refused += text is not None and found[-1] is None
        new = new[kept]
        base: Any = new["symbol"] * len(self.timeframes)
        new["series"] = [-1 if each is None else each.timeframe for each in found]
        new["series"] += np.where(new["series"] < 0, 0, base)
        new["all"] = [each is not None and each.joins_all for each in found]
        new["terms"] = [0 if each is None else len(each.terms) for each in found]
        # Together as bytes: structured arrays one by one are slow.
        terms = np.frombuffer(b"".join(each.content for each in found if each is not None), TERM).copy()
        base = np.repeat(base, new["terms"])
        for side in ("left", "right"):
            terms[side]["series"] += np.where(terms[side]["series"] < 0, 0, base)
        return new, terms, refused

    def add(self, new: Rows, terms: Rows) -> None:
        """Add versions, and their terms in the same order; versions end where later ones begin."""
        if not len(new):
            return
        new = new.copy()
        counts = new["terms"].astype(np.int64)
        new["first"] = np.cumsum(counts) - counts + len(self.terms)
        self.terms = np.concatenate((self.terms, terms))
        self.versions = np.concatenate((self.versions, new))
        where = np.flatnonzero(np.isin(self.versions["alert"], new["alert"]))
        own = self.versions[where]
        order = np.lexsort((own["version"], own["alert"]))
        own = own[order]
        end_by_later(own)
        self.versions["end"][where[order]] = own["end"]
        self._latest.update(zip(own["alert"].tolist(), own["version"].tolist(), strict=True))
        self._by_series = None

    def needs(self) -> tuple[Int64, Int64]:
        """Return the series that bars are needed of, and how many; a series may come several times."""
        judged = self.versions[self.versions["series"] >= 0]
        terms = self.terms[ranges(judged["first"].astype(np.int64), judged["terms"].astype(np.int64))]
        trigger = np.repeat(judged["series"], judged["terms"])
        # The close before goes out with each event.
        series: list[Any] = [judged["series"]]
        counts: list[Any] = [np.full(len(judged), 2)]
        for side in ("left", "right"):
            own = terms[side]
            there = own["series"] >= 0
            count = own["count"] + 1 + np.isin(terms["operator"], CROSSINGS)
            count += np.where(own["series"] == trigger, 0, _SPARE)
            series.append(own["series"][there])
            counts.append(count[there])
        return np.concatenate(series).astype(np.int64), np.concatenate(counts).astype(np.int64)

    def of_series(self, series: npt.NDArray[Any]) -> tuple[Int64, Int64]:
        """Return the versions that are judged at bars of series, and for each the place of its series."""
        if self._by_series is None:
            self._by_series = np.argsort(self.versions["series"], kind="stable")
            bounds = np.arange(len(self.names) * len(self.timeframes) + 1)
            self._firsts = np.searchsorted(self.versions["series"][self._by_series], bounds)
        first = self._firsts[series]
        counts = self._firsts[series + 1] - first
        return self._by_series[ranges(first, counts)], np.repeat(np.arange(len(series)), counts)

    # --- what moves -----------------------------------------------------------------------------------------

    def move(self, where: Int64, fired: Int64) -> Rows:
        """Say at which bars versions fired; return what state must know of it, of ``MOVE``."""
        self.versions["fired"][where] = fired
        found = np.zeros(len(where), MOVE)
        for name in MOVE.names or ():
            found[name] = self.versions[name][where]
        return found

    def take_moves(self, moves: Rows) -> None:
        """Let versions have fired; of several moves of one the last counts."""
        place = {key: n for n, key in enumerate(self.versions[["alert", "version"]].tolist())}
        for alert, version, fired in moves.tolist():
            at = place.get((alert, version))
            if at is not None:
                self.versions["fired"][at] = fired

    def sweep(self, judged_until: Int64) -> None:
        """Forget versions that no bar can touch again.

        Args:
            judged_until: the end of the newest bar of each series.
        """
        rows = self.versions
        waits = rows["series"] >= 0
        live = waits & ~((rows["frequency"] == Frequency.ONCE) & (rows["fired"] != NEVER))
        live[waits] &= rows["end"][waits] > judged_until[rows["series"][waits]]
        # One that has ended is needed as long as an earlier version of its alert is in force.
        kept = live | (~waits & np.isin(rows["alert"], rows["alert"][live]))
        rows = rows[kept]
        counts = rows["terms"].astype(np.int64)
        self.terms = self.terms[ranges(rows["first"].astype(np.int64), counts)]
        rows["first"] = np.cumsum(counts) - counts
        self.versions = rows
        self._latest = dict(zip(rows["alert"].tolist(), rows["version"].tolist(), strict=True))
        self._by_series = None
