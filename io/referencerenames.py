"""Renames: found by what identifies a company, and followed from one ticker to the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Renamed:
    """A symbol that goes by another name.

    Attributes:
        old: what it was called.
        new: what it is called.
        composite_figi, cik: its numbers elsewhere, where they are known.
    """

    old: str
    new: str
    composite_figi: str | None = None
    cik: str | None = None


@dataclass(frozen=True)
class Spell:
    """The sessions for which a company had a ticker: from ``since`` on, up to ``until`` without it.

    None for ``since``: from its beginning; for ``until``: still.
    """

    symbol: str
    since: date | None
    until: date | None


def find_renames(stored: pa.Table, given: pa.Table) -> list[Renamed]:
    """Return which stored symbols go by another name now, sorted.

    The composite FIGI, one a listing, decides. Where a side lacks it the CIK does, one a company: of symbols
    of one type that came and went, if there is one of each. Two tickers may change places.

    Args:
        stored: symbols that traded, with ``symbol``, ``type``, ``composite_figi`` and ``cik``.
        given: those that trade now, likewise.
    """
    before, now = ({row["symbol"]: row for row in _facts(table)} for table in (stored, given))
    places = _single(now.values(), ("composite_figi",))
    found = {
        name: places[figi]
        for figi, name in _single(before.values(), ("composite_figi",)).items()
        if figi in places and places[figi] != name
    }
    went = [row for name, row in before.items() if name not in now and name not in found]
    came = [row for name, row in now.items() if name not in before and name not in found.values()]
    companies = _single(came, ("cik", "type"))
    for company, name in _single(went, ("cik", "type")).items():
        new = companies.get(company)
        # Two listings of a company that each have a number are two.
        if new and not (before[name]["composite_figi"] and now[new]["composite_figi"]):
            found[name] = new
    return [
        Renamed(
            old,
            new,
            now[new]["composite_figi"] or before[old]["composite_figi"],
            now[new]["cik"] or before[old]["cik"],
        )
        for old, new in sorted(found.items())
    ]


def past_renames(delisted: pa.Table, listed: pa.Table) -> list[tuple[date, Renamed]]:
    """Return what the symbols that trade were called before, with the day from which on they were called so.

    Args:
        delisted: symbols that trade no more, with ``symbol``, ``composite_figi`` and ``delisted``.
        listed: those that do, likewise.
    """
    names = {figi: name for (figi,), name in _single(_facts(listed), ("composite_figi",)).items()}
    before: dict[str, list[tuple[date, str]]] = {}
    columns = (delisted[name].to_pylist() for name in ("delisted", "symbol", "composite_figi"))
    for day, name, figi in zip(*columns, strict=True):
        if figi in names and day is not None and name != names[figi]:
            before.setdefault(figi, []).append((day, name))
    found = []
    for figi, olds in before.items():
        olds.sort()
        for (day, old), new in zip(olds, [*(name for _, name in olds[1:]), names[figi]], strict=True):
            found.append((day, Renamed(old, new, figi)))
    return sorted(found, key=lambda pair: (pair[0], pair[1].old))


def _facts(table: pa.Table) -> list[dict[str, Any]]:
    names = ("symbol", "type", "composite_figi", "cik")
    nothing = pa.nulls(len(table), pa.string())
    columns = {name: table[name] if name in table.column_names else nothing for name in names}
    return pa.table(columns).to_pylist()


def _single(rows: Any, names: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Return the symbols of which no other has the same values, by them; where none is missing."""
    keyed = [(tuple(row[name] for name in names), row["symbol"]) for row in rows]
    keyed = [(key, symbol) for key, symbol in keyed if all(key)]
    counts = Counter(key for key, _ in keyed)
    return {key: symbol for key, symbol in keyed if counts[key] == 1}


def chain_of(renames: pa.Table, symbol: str, on: date) -> list[Spell]:
    """Return the tickers of whatever trades as ``symbol`` on a day, oldest first.

    Args:
        renames: of ``schemas.RENAMES``.
        symbol: its name on that day.
        on: the day; it matters where a ticker was given again.
    """
    rows = [
        (row["date"], row["old_symbol"], row["symbol"])
        for row in renames.select(["date", "old_symbol", "symbol"]).to_pylist()
    ]
    name, bound, back = symbol, on + _DAY, []
    while True:
        earlier = [row for row in rows if row[0] < bound]
        came = max((row for row in earlier if row[2] == name), default=None)
        left = max((row[0] for row in earlier if row[1] == name), default=None)
        if came is None or (left is not None and left > came[0]):
            # A name that another had before begins when that gave it up.
            back.append((name, left))
            break
        back.append((name, came[0]))
        bound, name = came[0], came[1]
    name, since, ahead = symbol, on, []
    while (went := min((row for row in rows if row[1] == name and row[0] > since), default=None)) is not None:
        name, since = went[2], went[0]
        ahead.append((name, since))
    starts = [*reversed(back), *ahead]
    ends = [since for _, since in starts[1:]]
    return [Spell(name, since, end) for (name, since), end in zip(starts, [*ends, None], strict=True)]
