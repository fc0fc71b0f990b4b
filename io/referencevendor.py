"""Reference data from the vendor: what to ask for, and which rows its answers make. Nothing is written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute

from fibflow.io import tables
from fibflow.io.datafiles import TableSpec
from fibflow.io.lake import Lake
from fibflow.io.reference import DIVIDENDS, RENAMES, SPLITS, SYMBOLS, read_reference
from fibflow.io.referenceasked import read_asked
from fibflow.io.referencefiles import dividends_of, splits_of, symbols_of
from fibflow.io.referencerenames import Renamed, find_renames, past_renames
from fibflow.io.referenceupdates import Given
from fibflow.io.vendor.errors import NoAccess, NotFound, VendorError
from fibflow.transforms.calendar import load_calendar

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: What the vendor may still change of splits and dividends that were executed, days.
OVERLAP = timedelta(days=30)
#: More symbols than this that vanish at once are looked up in one list.
_MOST_SINGLE = 20
#: So large a part of the symbols cannot vanish in a night.
_MOST_GONE = 0.2
_EPOCH = date(1970, 1, 1).toordinal()
#: What the list of tickers does not tell; what is stored stays.
_NOT_TOLD = ("listed", "description", "homepage")


def today_of(lake: Lake, now: datetime) -> date:
    """Return the date at the exchange, as the lake's calendar has its time zone; XNYS where there is none.

    Raises:
        CalendarError: there is no such calendar.
        LakeError: the lake cannot be read.
    """
    found = (lake.table(spec).properties.get(tables.CALENDAR) for spec in (tables.DAILY, tables.MINUTES))
    calendar = load_calendar(next(filter(None, found), "XNYS"), now.year + 2)
    stamp = np.array([int(now.timestamp() * 1_000_000)], np.int64)
    return date.fromordinal(_EPOCH + int(calendar.local_days(stamp)[0]))


class ReferenceSource(Protocol):
    """What is asked of the vendor, as ``Vendor`` answers; columns are named as ``referencefiles`` knows."""

    def tickers(self, active: bool = True) -> pa.Table:
        """Return stocks that are listed, or those that were delisted."""

    def ticker(self, symbol: str) -> pa.Table:
        """Return what is known of a symbol, one row at most."""

    def events(self, symbol: str) -> pa.Table:
        """Return ``symbol`` and ``date``: what a company's share was called from when on."""

    def splits(self, since: date | None = None) -> pa.Table:
        """Return splits that are executed on a day or later."""

    def dividends(self, since: date | None = None) -> pa.Table:
        """Return dividends whose ex-dividend date is a day or later."""


@dataclass
class Question:
    """One evening's questions.

    Attributes:
        vendor: who is asked.
        lake: what is known.
        today: the date at the exchange.
        symbols: the only ones; None for all.
        full: ask for all symbols, splits and dividends again, not only for what may be new, and believe them.
        notes: a line each of what could not be told.
    """

    vendor: ReferenceSource
    lake: Lake
    today: date
    symbols: frozenset[str] | None = None
    full: bool = False
    notes: list[str] = field(default_factory=list)

    def ask(self, dividends: bool = True) -> list[Given]:
        """Return what the vendor says: renames and symbols, splits and, where asked for, dividends.

        Raises:
            VendorError: it does not answer, or its list of tickers cannot be.
            InputError: it gives values that cannot be.
            LakeError: what is known cannot be read.
        """
        renames, symbols = self.symbols_and_renames()
        found = [renames, symbols, self._since(SPLITS, self.vendor.splits, splits_of)]
        if dividends:
            try:
                found.append(self._since(DIVIDENDS, self.vendor.dividends, dividends_of))
            except NoAccess as error:
                self.notes.append(f"dividends: {error}")
        return [given for given in found if len(given.rows) or given.since is not None]

    def symbols_and_renames(self) -> tuple[Given, Given]:
        """Return renames that are new, and symbols: those that trade, and those that do no more.

        At first, and when all is asked for, the latter are all that the vendor knows.
        """
        names = self._names()
        known = _only(read_reference(self.lake, SYMBOLS)[0], names)
        stored = known.filter(pc.fill_null(known["active"], True))
        listed = _listed(self.vendor.tickers(active=True))
        if not len(listed):
            raise VendorError("the vendor's list of tickers is empty: run again")
        found = pc.is_in(stored["symbol"], value_set=listed["symbol"].combine_chunks())
        gone: list[Any] = stored.filter(pc.invert(found))["symbol"].to_pylist()
        if not self.full and len(gone) > max(_MOST_SINGLE, _MOST_GONE * len(stored)):
            raise VendorError(
                f"the vendor's list lacks {len(gone):,} of {len(stored):,} tickers that trade: nothing was "
                "changed; run again, or believe it with pipelines.reference --from-vendor --full"
            )
        renamed = find_renames(stored, listed)
        delisted = self._delisted(set(gone) - {one.old for one in renamed})
        links = [link for one in renamed for link in self._links(one)]
        left = {row["old_symbol"]: row["date"] for row in links}
        ended = {name: delisted.get(name) or left[name] for name in gone}
        scope = None if names is None else names | {one.new for one in renamed}
        rows = _with_ended(_only(listed, scope), stored, ended)
        if self.full or not len(known):
            past = _only(_delisted(self.vendor.tickers(active=False)), names)
            links = [*_past(past, listed), *links]
            past = past.filter(pc.invert(pc.is_in(past["symbol"], value_set=rows["symbol"].combine_chunks())))
            rows = pa.concat_tables([rows, past.select(rows.column_names)])
        renames = pa.Table.from_pylist(links, RENAMES.schema)
        return Given(RENAMES, _last_of_each(renames)), Given(SYMBOLS, rows.combine_chunks())

    def _names(self) -> frozenset[str] | None:
        """Return the only symbols that are asked for, with what they were renamed to; None for all."""
        if self.symbols is None:
            return None
        rows = read_reference(self.lake, RENAMES)[0].sort_by("date")
        names = set(self.symbols)
        for row in rows.to_pylist():
            if row["old_symbol"] in names:
                names.add(row["symbol"])
        return frozenset(names)

    def _delisted(self, names: Collection[str]) -> dict[str, date]:
        """Return when symbols were delisted: as the vendor says, else today."""
        if not names:
            return {}
        told: dict[str, date] = {}
        if len(names) <= _MOST_SINGLE:
            for name in sorted(names):
                told |= _ends(self.vendor.ticker(name))
        if not told.keys() >= set(names):
            # It may know of one that is gone only in its list of all that are.
            told |= _ends(self.vendor.tickers(active=False))
        return {name: told.get(name) or self.today for name in names}

    def _links(self, one: Renamed) -> list[dict[str, Any]]:
        """Return the rows of a rename: the chain up to it where the vendor tells, else its last link."""
        ids = {"composite_figi": one.composite_figi, "cik": one.cik}
        try:
            events = self.vendor.events(one.new).to_pylist()
        except (NoAccess, NotFound) as error:
            self.notes.append(f"when {one.old} became {one.new} is not told ({error}): {self.today} stands")
            events = []
        told = sorted((_day(row["date"]), row["symbol"]) for row in events if row["date"] and row["symbol"])
        links = [
            {"symbol": new, "old_symbol": old, "date": day, **ids}
            for (_, old), (day, new) in pairwise(told)
            if old != new
        ]
        if not links or links[-1]["symbol"] != one.new or one.old not in {row["old_symbol"] for row in links}:
            links = [{"symbol": one.new, "old_symbol": one.old, "date": self.today, **ids}]
        return links

    def _since(self, spec: TableSpec, ask: Any, rows_of: Any) -> Given:
        """Ask for what may be new in a table of dated rows: all, where a symbol is new to it."""
        names = self._names()
        known = None if self.full else read_asked(self.lake, spec).until(names)
        since = None if known is None else min(known, self.today) - OVERLAP
        found = rows_of(ask(since=since), f"the vendor's {spec.name.partition('.')[2]}").rows
        # What came from elsewhere, and is long settled, only --full takes back.
        whole = date.min if self.full else since or self.today - OVERLAP
        # An answer without any row is no proof that there is none.
        until = self.today if len(found) else None
        return Given(spec, _only(found, names), whole, names, until)


def _listed(raw: pa.Table) -> pa.Table:
    """Return the columns of ``reference.symbols`` that the list of tickers tells."""
    rows = symbols_of(raw, "the vendor's tickers").rows
    return rows.drop_columns([name for name in _NOT_TOLD if name in rows.column_names])


def _delisted(raw: pa.Table) -> pa.Table:
    """Return symbols that trade no more, with the columns that ``_with_ended`` gives."""
    rows = _listed(raw)
    known = set(rows.column_names)
    columns: dict[str, Any] = {
        field_.name: rows[field_.name] if field_.name in known else pa.nulls(len(rows), field_.type)
        for field_ in SYMBOLS.schema
        if field_.name not in _NOT_TOLD
    }
    columns["active"] = pa.array([False] * len(rows), pa.bool_())
    return pa.table(columns)


def _past(delisted: pa.Table, listed: pa.Table) -> list[dict[str, Any]]:
    """Return rows of renames that lists of symbols tell by themselves."""
    return [
        {
            "symbol": one.new,
            "old_symbol": one.old,
            "date": day,
            "composite_figi": one.composite_figi,
            "cik": one.cik,
        }
        for day, one in past_renames(delisted, listed)
    ]


def _last_of_each(renames: pa.Table) -> pa.Table:
    """Return renames without those of a key that comes again."""
    last = {(row["symbol"], row["date"]): row for row in renames.to_pylist()}
    return pa.Table.from_pylist(list(last.values()), RENAMES.schema)


def _ends(raw: pa.Table) -> dict[str, date]:
    """Return when symbols were delisted, where they say."""
    rows = _listed(raw)
    days: list[Any] = rows["delisted"].to_pylist() if "delisted" in rows.column_names else [None] * len(rows)
    pairs = zip(rows["symbol"].to_pylist(), days, strict=True)
    return {str(name): day for name, day in pairs if day is not None}


def _only(rows: pa.Table, names: Collection[str] | None) -> pa.Table:
    """Return the rows of some symbols; None for all."""
    if names is None:
        return rows
    return rows.filter(pc.is_in(rows["symbol"], value_set=pa.array(sorted(names), pa.string())))


def _with_ended(listed: pa.Table, stored: pa.Table, ended: dict[str, date]) -> pa.Table:
    """Return the symbols that trade, and those that do no more: as they are stored, but for their end."""
    count = len(listed)
    told: dict[str, Any] = {name: listed[name] for name in listed.column_names}
    # What the list holds trades, whether it says so or not.
    told["active"] = pa.array([True] * count, pa.bool_())
    schema = pa.schema([field_ for field_ in SYMBOLS.schema if field_.name not in _NOT_TOLD])
    for field_ in schema:
        told.setdefault(field_.name, pa.nulls(count, field_.type))
    before = stored.filter(pc.is_in(stored["symbol"], value_set=pa.array(list(ended), pa.string())))
    then: dict[str, Any] = {name: before[name] for name in schema.names}
    then["active"] = pa.array([False] * len(before), pa.bool_())
    days = [ended[str(name)] for name in before["symbol"].to_pylist()]
    then["delisted"] = pa.array(days, pa.date32())
    parts = [pa.table({n: side[n] for n in schema.names}, schema=schema) for side in (told, then)]
    return pa.concat_tables(parts).combine_chunks()


def _day(value: Any) -> date:
    return value if isinstance(value, date) else date.fromisoformat(str(value)[:10])
