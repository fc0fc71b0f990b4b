"""What an incremental run has to make anew: which symbols, from which session on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io import coverage
from fibflow.io.lake import LakeTable
from fibflow.io.landed import landed_rows
from fibflow.io.snapshot import ReadStats, Snapshot
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.partials import as_arrow, encode_symbols
from fibflow.transforms.timeframe import Anchor, Timeframe

#: More corrected symbols than this are not looked at one by one: everything from their first change on is.
MOST_SINGLE = 200


@dataclass(frozen=True)
class Group:
    """Symbols whose bars are made anew from a session on.

    Attributes:
        changed: position of the first session that changed.
        read_from: position of the first session whose rows are needed; 0 for all.
        until: position after the last one that changed; None where all later windows may.
        symbols: which; None for all.
        others: symbols that another group makes anew from an earlier session on.
        bases: as in ``BarSpec``.
        since: position of a symbol's first session that changed, where that is later than ``changed``.
        starts: position from which on a symbol's rows are needed, where that is later than ``read_from``.
    """

    changed: int
    read_from: int
    until: int | None = None
    symbols: frozenset[str] | None = None
    others: frozenset[str] = frozenset()
    bases: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    def only(self, symbols: frozenset[str]) -> Group | None:
        """Return the group for some symbols only; None where it has none of them."""
        chosen = symbols if self.symbols is None else self.symbols & symbols
        return replace(self, symbols=chosen) if chosen else None


@dataclass(frozen=True)
class Changed:
    """Rows of a bronze table that changed.

    Attributes:
        first: each symbol's first changed position.
        positions: all changed positions, in order.
        read: what finding them took.
    """

    first: dict[str, int]
    positions: list[int]
    read: ReadStats

    def through(self, newest: int) -> Changed:
        """Return what changed up to a position: rows after the as-of time are not used."""
        first = {name: position for name, position in self.first.items() if position <= newest}
        return Changed(first, [p for p in self.positions if p <= newest], self.read)

    def __or__(self, other: Changed) -> Changed:
        """Return what changed in either."""
        first = self.first | {
            name: min(position, self.first.get(name, position)) for name, position in other.first.items()
        }
        return Changed(first, sorted({*self.positions, *other.positions}), self.read + other.read)


def changed_rows(
    bronze: LakeTable, snapshot: Snapshot, calendar: TradingCalendar, since: int
) -> Changed | None:
    """Return what changed in ``bronze`` after version ``since``; None where only a full run can tell.

    Raises:
        LakeError: where the log no longer holds those versions.
    """
    found = landed_rows(bronze, since, snapshot.version, ["symbol", str(bronze.spec.time_column)])
    if found is None:
        return None
    rows, cost = found
    return _changed(rows, calendar, cost)


def rows_between(snapshot: Snapshot, calendar: TradingCalendar, first: int, last: int) -> Changed:
    """Return the rows of sessions at positions ``first`` to ``last``, as if all of them had changed."""
    time = str(snapshot.spec.time_column)
    starts = calendar.days if time == "session" else calendar.day_starts
    bounds = int(starts[first]), int(starts[last + 1])
    rows, cost = snapshot.read(["symbol", time], None, *bounds, dictionary=["symbol"])
    return _changed(rows, calendar, cost)


def _changed(rows: pa.Table, calendar: TradingCalendar, cost: ReadStats) -> Changed:
    if not len(rows):
        return Changed({}, [], cost)
    stamps = rows[1].combine_chunks()
    if pa.types.is_date(stamps.type):
        positions = calendar.positions(stamps.view(pa.int32()).to_numpy())
    else:
        positions = calendar.positions_at(stamps.view(pa.int64()).to_numpy())
    names, codes = encode_symbols(rows["symbol"])
    positions = np.where(positions == NO_SESSION, 0, positions)
    first = np.full(len(names), np.iinfo(np.int32).max, np.int32)
    np.minimum.at(first, codes, positions)
    used = np.unique(codes)
    words = names.to_pylist()
    first_of = {words[code]: int(first[code]) for code in used.tolist()}
    return Changed(first_of, np.unique(positions).tolist(), cost)


def groups_of(
    changed: dict[str, int],
    tip: int | None,
    anchor: Anchor,
    timeframes: tuple[Timeframe, ...],
    calendar: TradingCalendar,
    bars: Snapshot,
) -> tuple[list[Group], ReadStats]:
    """Return the groups to make anew, and what finding their bases took.

    Args:
        changed: symbols' first changed positions; under the anchor ``rows``, of rows from ``tip`` on too.
        tip: position of the first session after the last run's as-of time; None where that has not moved.
            From it on, the windows of all symbols may end.
        anchor: of the run.
        timeframes: of the run.
        calendar: of the run.
        bars: the stored ones.
    """
    longest = max(timeframe.sessions for timeframe in timeframes)
    if anchor is Anchor.ROWS:
        return _groups_of_rows(changed, longest, calendar, bars)
    firsts, cost = _first_sessions(longest, calendar, bars) if anchor is Anchor.LISTING else ({}, ReadStats())
    # Their windows move: they are counted from another session now.
    restarted = {
        name for name, base in firsts.items() if base == NO_SESSION or changed.get(name, base) < base
    }
    bases = {name: base for name, base in firsts.items() if name not in restarted}
    single = {name: first for name, first in changed.items() if tip is None or first < tip}
    if len(single) > MOST_SINGLE:
        tip = min([*single.values(), *([tip] if tip is not None else [])])
        single = {}
    single |= dict.fromkeys(restarted, 0)
    groups: list[Group] = []
    if tip is not None:
        groups.append(Group(tip, max(0, tip - longest + 1), others=frozenset(single), bases=bases))
    if single:
        first = min(single.values())
        groups.append(Group(first, max(0, first - longest + 1), symbols=frozenset(single), bases=bases))
    return groups, cost


def minute_groups(changed: Changed, tip: int | None, of_ticks: frozenset[int] = frozenset()) -> list[Group]:
    """Return a group for each stretch of changed sessions, and one for all from ``tip`` on, as ``groups_of``.

    Intraday windows lie within a session. Where there are sessions whose bars were made of ticks, those stay
    that did not change; a session that did is made anew as a whole.

    Args:
        changed: with all sessions from ``tip`` on that hold rows, where ``of_ticks`` holds any.
        tip: as for ``groups_of``.
        of_ticks: positions of sessions whose bars were made of ticks.
    """
    few = frozenset(changed.first) if len(changed.first) <= MOST_SINGLE else None
    if of_ticks:
        whole = [p for p in changed.positions if p in of_ticks or (tip is not None and p >= tip)]
        rest = sorted({*changed.positions} - {*whole})
        return [*_stretches(whole, None), *_stretches(rest, few)]
    groups = [] if tip is None else [Group(changed=tip, read_from=tip)]
    return [*groups, *_stretches([p for p in changed.positions if tip is None or p < tip], few)]


def _stretches(positions: list[int], symbols: frozenset[str] | None) -> list[Group]:
    found = coverage.runs(frozenset(positions))
    return [Group(changed=a, read_from=a, until=b + 1, symbols=symbols) for a, b in found]


def _first_sessions(
    longest: int, calendar: TradingCalendar, bars: Snapshot
) -> tuple[dict[str, int], ReadStats]:
    """Return the position of each symbol's first bar: under the anchor ``listing``, where its count begins.

    It is ``NO_SESSION`` where the calendar has lost that session.
    """
    stored, cost = _keys(longest, bars)
    names, codes = encode_symbols(stored["symbol"])
    least = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(least, codes, stored["ts"].cast(pa.int64()).to_numpy())
    used = np.unique(codes)
    words: list[Any] = names.take(as_arrow(used)).to_pylist()
    return dict(zip(words, calendar.positions_at(least[used]).tolist(), strict=True)), cost


def _groups_of_rows(
    changed: dict[str, int], longest: int, calendar: TradingCalendar, bars: Snapshot
) -> tuple[list[Group], ReadStats]:
    """Return groups under the anchor ``rows``: each symbol begins at a stored bar of the longest timeframe.

    It is the one before the bar that holds the change, so that the windows of the shorter timeframes around
    the change are whole.
    """
    stored, cost = _keys(longest, bars, sorted(changed))
    bases: dict[str, int] = {}
    starts: dict[str, int] = dict.fromkeys(changed, 0)
    if len(stored):
        names, codes = encode_symbols(stored["symbol"])
        ts = stored["ts"].cast(pa.int64()).to_numpy()
        order = np.lexsort((ts, codes))
        codes, ts = codes[order], ts[order]
        for code, lo, hi in _runs(codes):
            name = names[code].as_py()
            row = int(np.searchsorted(ts[lo:hi], calendar.day_starts[changed[name]], side="right")) - 2
            if row > 0:
                bases[name] = row * longest
                starts[name] = int(calendar.positions_at(ts[lo + row : lo + row + 1])[0])
    groups: dict[int, list[str]] = {}
    for name, start in starts.items():
        # Symbols that begin within the same year or so are read together.
        groups.setdefault(start // 252, []).append(name)
    made = [
        Group(
            changed=min(changed[name] for name in members),
            read_from=min(starts[name] for name in members),
            symbols=frozenset(members),
            bases={name: bases.get(name, 0) for name in members},
            since={name: changed[name] for name in members},
            starts={name: starts[name] for name in members},
        )
        for _, members in sorted(groups.items())
    ]
    return made, cost


def _runs(codes: Any) -> list[tuple[int, int, int]]:
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    stops = np.append(starts[1:], len(codes))
    return list(zip(codes[starts].tolist(), starts.tolist(), stops.tolist(), strict=True))


def _keys(longest: int, bars: Snapshot, symbols: list[str] | None = None) -> tuple[pa.Table, ReadStats]:
    where = {"timeframe": f"{longest}d"}
    return bars.read(["symbol", "ts"], symbols, where=where, dictionary=["symbol"])
