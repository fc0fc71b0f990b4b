"""What an incremental run has to make anew: which symbols, from which session on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.lake import LakeTable
from fibflow.io.snapshot import ReadStats, Snapshot, read_files
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.partials import encode_symbols
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
        bases: as in ``BarSpec``.
        starts: position from which on a symbol's rows are needed, where that is later than ``read_from``.
    """

    changed: int
    read_from: int
    until: int | None = None
    symbols: frozenset[str] | None = None
    bases: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    def only(self, symbols: frozenset[str]) -> Group | None:
        """Return the group for some symbols only; None where it has none of them."""
        chosen = symbols if self.symbols is None else self.symbols & symbols
        return replace(self, symbols=chosen) if chosen else None


@dataclass(frozen=True)
class Changed:
    """Rows of a bronze table that changed: each symbol's first changed position, all changed positions, and what
    finding them took.
    """

    first: dict[str, int]
    positions: list[int]
    read: ReadStats


def changed_rows(
    bronze: LakeTable, snapshot: Snapshot, calendar: TradingCalendar, since: int
) -> Changed | None:
    """Return what changed in ``bronze`` after version ``since``; None where only a full run can tell.

    Raises:
        LakeError: where the log no longer holds those versions.
    """
    landed: set[int] = set()
    for entry in bronze.history():
        version = entry["version"]
        if version <= since or version > snapshot.version:
            continue
        if entry.get("fibflow.full"):
            return None
        numbers = entry.get("fibflow.landed")
        if numbers is None and entry.get("operation") not in ("OPTIMIZE",):
            return None
        landed.update(json.loads(numbers) if isinstance(numbers, str) else numbers or [])
    added, _ = bronze.changes(since, snapshot.version)
    if not added or not landed:
        return Changed({}, [], ReadStats())
    time = bronze.spec.time_column
    assert time is not None
    rows, cost = read_files(
        bronze.storage, bronze.spec, added, ["symbol", time, "landed"], dictionary=["symbol"]
    )
    rows = rows.filter(pc.is_in(rows["landed"], value_set=pa.array(sorted(landed), pa.int32())))
    if not len(rows):
        return Changed({}, [], cost)
    stamps = rows[time].combine_chunks()
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
        changed: symbols' first changed positions.
        tip: position of the first session after the last run's as-of time; None where that has not moved. From it on, the windows of
            all symbols may end.
        anchor, timeframes, calendar: of the run.
        bars: the stored ones.
    """
    longest = max(timeframe.sessions for timeframe in timeframes)
    if anchor is Anchor.ROWS:
        return _groups_of_rows(changed, longest, calendar, bars)
    firsts, cost = _first_sessions(longest, calendar, bars) if anchor is Anchor.LISTING else ({}, ReadStats())
    restarted = {name: 0 for name, first in changed.items() if name in firsts and first < firsts[name]}
    single = {name: first for name, first in changed.items() if tip is None or first < tip}
    groups: list[Group] = []
    if len(single) > MOST_SINGLE:
        tip = min([*single.values(), *([tip] if tip is not None else [])])
        single = {}
    single |= restarted
    if tip is not None:
        bases = {name: base for name, base in firsts.items() if name not in restarted}
        groups.append(Group(tip, max(0, tip - longest + 1), bases=bases))
    if single:
        first = min(single.values())
        whole = bool(restarted)
        bases = {name: firsts[name] for name in single if name in firsts and name not in restarted}
        read_from = 0 if whole else max(0, first - longest + 1)
        groups.append(Group(first, read_from, symbols=frozenset(single), bases=bases))
    return groups, cost


def minute_groups(changed: Changed) -> list[Group]:
    """Return a group for each stretch of changed sessions: intraday windows lie within one."""
    few = frozenset(changed.first) if len(changed.first) <= MOST_SINGLE else None
    positions = np.array(changed.positions, np.int64)
    groups = []
    for stretch in np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1):
        if len(stretch):
            first, last = int(stretch[0]), int(stretch[-1])
            groups.append(Group(changed=first, read_from=first, until=last + 1, symbols=few))
    return groups


def _first_sessions(
    longest: int, calendar: TradingCalendar, bars: Snapshot
) -> tuple[dict[str, int], ReadStats]:
    """Return the position at which each symbol's windows begin: its first bar's, under the anchor ``listing``."""
    stored, cost = _keys(longest, bars)
    if not len(stored):
        return {}, cost
    least = stored.group_by("symbol").aggregate([("ts", "min")])
    positions = calendar.positions_at(least["ts_min"].cast(pa.int64()).to_numpy())
    return dict(zip(least["symbol"].cast(pa.string()).to_pylist(), positions.tolist(), strict=True)), cost


def _groups_of_rows(
    changed: dict[str, int], longest: int, calendar: TradingCalendar, bars: Snapshot
) -> tuple[list[Group], ReadStats]:
    """Return groups under the anchor ``rows``: each symbol begins at a stored bar of the longest timeframe.

    It is the one before the bar that holds the change, so that the windows of the shorter timeframes around the change are whole.
    """
    stored, cost = _keys(longest, bars)
    stored = stored.filter(pc.is_in(stored["symbol"].cast(pa.string()), value_set=pa.array(sorted(changed))))
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
            starts={name: starts[name] for name in members},
        )
        for _, members in sorted(groups.items())
    ]
    return made, cost


def _runs(codes: Any) -> list[tuple[int, int, int]]:
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    stops = np.append(starts[1:], len(codes))
    return list(zip(codes[starts].tolist(), starts.tolist(), stops.tolist(), strict=True))


def _keys(longest: int, bars: Snapshot) -> tuple[pa.Table, ReadStats]:
    return bars.read(["symbol", "ts"], where={"timeframe": f"{longest}d"}, dictionary=["symbol"])
