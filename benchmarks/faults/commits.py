"""When a lake's commits were made, and what the newest tick in them was."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import tables
from fibflow.io.deltalog import Entry
from fibflow.io.lake import Lake
from fibflow.io.snapshot import read_files

_POLL_S = 0.1
#: After which a job that shows nothing new is given up: far beyond what is asked for.
GIVEN_UP_S = 150.0
_MICROS = 1_000_000


def shown(lake: Lake, since: float) -> float:
    """Wait until a lake shows new rows of new ticks, by commits from now on, and return when it did.

    That is a commit to ``bronze.ticks`` with a tick that arrived after an instant, and then one of bars to
    ``silver.live``. Instants are seconds since 1970.
    """
    ticks, live = _Commits(lake, tables.TICKS.name), _Commits(lake, tables.LIVE.name)
    began = time.monotonic()

    def next_of(commits: _Commits, wanted: Callable[[Entry], bool]) -> float:
        while not (found := commits.first(wanted)):
            waited = time.monotonic() - began
            assert waited < GIVEN_UP_S, f"the lake shows nothing new in {GIVEN_UP_S:.0f} s"
            time.sleep(_POLL_S)
        return found

    archived = next_of(ticks, lambda entry: _newest(lake, entry) > since)
    return next_of(live, lambda entry: _at(entry) >= archived)


def longest_pause(lake: Lake, since: float) -> float:
    """Return the longest time between two commits of ticks after an instant, seconds."""
    table = lake.table(tables.TICKS)
    ours = [entry for entry in table.log.backwards(table.version) if entry.files("add", moved=False)]
    times = [each for each in map(_at, ours) if each >= since]
    return max((later - earlier for later, earlier in pairwise(times)), default=0.0)


def _newest(lake: Lake, entry: Entry) -> float:
    """When the newest tick of a commit arrived."""
    table = lake.table(tables.TICKS)
    rows, _ = read_files(table.storage, table.spec, entry.files("add", moved=False), ["arrived"])
    newest = pc.max(rows["arrived"].cast(pa.int64())).as_py()
    return (newest or 0) / _MICROS


class _Commits:
    """Goes through the commits of a table, from those that are there on."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._table = lake.table(tables.TABLES[name])
        self._next = self._table.version + 1

    def first(self, wanted: Callable[[Entry], bool]) -> float:
        """Return when the first new commit was made that is wanted, seconds since 1970; 0 for none yet."""
        while (entry := self._table.log.read(self._next)) is not None:
            if entry.files("add", moved=False) and wanted(entry):
                return _at(entry)
            self._next += 1
        return 0.0


def _at(entry: Entry) -> float:
    return float(entry.info.get("timestamp", 0)) / 1000
