"""Readers that look on while a job is broken and comes back: of the lake, and of the live store.

What they hold against the job: a key twice in one answer, two contents under one revision, an answer that
did not come, and a last state that is not the lake's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from fibflow.io import livefollow, tables
from fibflow.io.lake import Lake
from fibflow.io.live import LiveReader
from fibflow.io.liveredis import LiveStoreError, Patience
from fibflow.io.livestore import LiveStore
from fibflow.runners.services.process import http_json
from fibflow.transforms.schemas import BARS, TIMESTAMP

KEY = ("symbol", "timeframe", "ts")
_EVERY_S = 0.5
_BLOCK_MS = 500
_MOST_TOLD = 3

Row = tuple[Any, ...]


def plain(bars: pa.Table) -> list[Row]:
    """Return bars as tuples of ``BARS``'s columns, instants in microseconds."""
    columns = [
        bars[name].cast(pa.int64()) if BARS.field(name).type == TIMESTAMP else bars[name]
        for name in BARS.names
    ]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def repeated(bars: pa.Table, key: Sequence[str] = KEY) -> int:
    """Return how many rows of an answer have a key that another row has had."""
    return len(bars) - len(bars.select(list(key)).group_by(list(key)).aggregate([]))


def key_of(row: Row) -> Row:
    """Return the key of a row of ``plain``."""
    return tuple(row[BARS.names.index(name)] for name in KEY)


@dataclass
class Pushed:
    """What a follower was told of closed bars, and what it has of them.

    Attributes:
        state: the last row of each key.
        told: what came since the store was made, oldest first: milliseconds since 1970, and the rows.
    """

    state: dict[Row, Row] = field(default_factory=dict)
    told: list[tuple[int, list[Row]]] = field(default_factory=list)

    def tell(self, bars: pa.Table, at: int) -> None:
        """Take an entry of ``push``."""
        rows = plain(bars)
        self.told.append((at, rows))
        self.read(rows)

    def read(self, rows: Iterable[Row]) -> None:
        """Take rows that the store holds."""
        self.state.update((key_of(row), row) for row in rows)

    def forget(self) -> None:
        """Have nothing: the store is another."""
        self.state.clear()
        self.told.append((0, []))

    def clashes(self, starts: Iterable[int] = ()) -> list[Row]:
        """Return the versions (key, revision, final) that came with two contents.

        Args:
            starts: when the job went back to an older state, milliseconds since 1970: revisions count anew.
        """
        at = [BARS.names.index(name) for name in (*KEY, "revision", "final")]
        seen: dict[Row, Row] = {}
        found, waiting = [], sorted(starts)
        for when, rows in self.told:
            if not when or (waiting and when >= waiting[0]):
                seen.clear()
            waiting = [start for start in waiting if start > when]
            for row in rows:
                version = tuple(row[place] for place in at)
                if seen.setdefault(version, row) != row:
                    found.append(version)
        return found


def differences(followed: Mapping[Row, Row], stored: pa.Table) -> list[str]:
    """Return in which keys what was followed is not what the lake holds, a line each."""
    held = {key_of(row): row for row in plain(stored)}
    lines = [f"{_name(key)} is in the lake only" for key in held.keys() - followed.keys()]
    lines += [f"{_name(key)} is in the live store only" for key in followed.keys() - held.keys()]
    for key in sorted(held.keys() & followed.keys()):
        if held[key] != followed[key]:
            parts = [
                f"{name} {theirs!r} in the lake, {ours!r} in the store"
                for name, theirs, ours in zip(BARS.names, held[key], followed[key], strict=True)
                if theirs != ours
            ]
            lines.append(f"{_name(key)}: {', '.join(parts)}")
    return sorted(lines)


def _name(key: Row) -> str:
    symbol, timeframe, ts = key
    return f"{timeframe} of {symbol} at {datetime.fromtimestamp(ts / 1e6, UTC):%Y-%m-%dT%H:%M}"


class _Looking(threading.Thread):
    """A thread that looks again and again, and keeps what it could not make sense of."""

    def __init__(self, name: str, every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.problems: list[str] = []
        self._every = every_s
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except Exception as error:  # a reader that died saw nothing: that is not a pass
                self.problems.append(f"{self.name}: {type(error).__name__}: {error}")
                return
            self._ended.wait(self._every)

    def look(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self._ended.set()
        self.join()


class LakeReading(_Looking):
    """Reads all bars of one timeframe after another, as a server does that holds nothing."""

    def __init__(self, lake: Lake, timeframes: Sequence[str]) -> None:
        super().__init__("the lake's reader", _EVERY_S)
        self.answers = 0
        self._lake, self._timeframes = lake, timeframes
        self._reader = LiveReader(lake)

    def look(self) -> None:
        """Read the next timeframe, where there are bars."""
        if not self.answers and not self._lake.table(tables.LIVE).exists:
            return
        timeframe = self._timeframes[self.answers % len(self._timeframes)]
        bars = self._reader.bars(None, timeframe)
        self.answers += 1
        if twice := repeated(bars):
            self.problems.append(f"{twice} keys came twice in an answer of {timeframe}")

    def bars(self) -> pa.Table:
        """Return all bars as they are now."""
        return pa.concat_tables([self._reader.bars(None, timeframe) for timeframe in self._timeframes])


class StoreFollowing(_Looking):
    """Follows the closed bars of the live store, as a server does that pushes them on."""

    def __init__(self, store: LiveStore, symbols: Sequence[str], timeframes: Sequence[str]) -> None:
        super().__init__("the live store's follower", 0.0)
        self.pushed = Pushed()
        self.resets = 0
        self._store, self._symbols, self._timeframes = store, symbols, timeframes
        self._at: livefollow.Position | None = None
        self._filled = ""

    def look(self) -> None:
        """Take what came. A Redis that is away is asked again."""
        try:
            if self._at is None:
                self._at = livefollow.position(self._store)
                self._read()
            for update in livefollow.read(self._store, self._at, _BLOCK_MS):
                self._take(update)
                self._at = update.position
            self._catch_up()
        except LiveStoreError:
            self._ended.wait(_EVERY_S)

    def _take(self, update: livefollow.Update) -> None:
        if update.kind == livefollow.CLOSED:
            self.pushed.tell(update.table, int(update.position.id.split("-")[0]))
        elif update.kind == livefollow.RESET:
            self.resets += 1
            self.pushed.forget()
            # Taken before the read: what comes meanwhile comes again.
            self._at = update.position
            self._read()

    def _catch_up(self) -> None:
        """Read anew when closed bars were filled: those are told to nobody."""
        status = self._store.status()
        if status.filled and status.marker != self._filled:
            self._filled = status.marker
            self._read()

    def _read(self) -> None:
        for symbol in self._symbols:
            for timeframe in self._timeframes:
                self.pushed.read(plain(self._store.closed_bars(symbol, timeframe)))

    @property
    def filled(self) -> bool:
        """Whether the store lacks no closed bars, and was read since."""
        with suppress(LiveStoreError):
            status = self._store.status()
            return status.filled and status.marker == self._filled
        return False


class Starts(_Looking):
    """Takes note of when a job was started, by a person or by Flink.

    Args:
        master: ``host:port`` of the job manager.
    """

    def __init__(self, master: str) -> None:
        super().__init__("the watch on the job", _EVERY_S)
        self.at: set[int] = set()
        self._master = master

    def look(self) -> None:
        """Ask for the jobs that run. A job manager that is away is asked again."""
        listed = http_json(self._master, "/jobs") or {"jobs": []}
        for job in listed["jobs"]:
            told = http_json(self._master, f"/jobs/{job['id']}") or {"vertices": []}
            # Not when the job came to run: it may wait for slots in which another still writes.
            deployed = [int(each["start-time"]) for each in told["vertices"] if each["start-time"] > 0]
            self.at |= {min(deployed)} if deployed else set()


class Watcher:
    """The readers, from ``with`` to its end.

    Args:
        lake: as readers reach it.
        redis: URL of the live store.
        master: ``host:port`` of the job manager.
        buckets: the job's.
        symbols, timeframes: of the bars.
    """

    def __init__(
        self,
        lake: Lake,
        redis: str,
        master: str,
        buckets: int,
        symbols: Sequence[str],
        timeframes: Sequence[str],
    ) -> None:
        self._store = LiveStore(redis, buckets=buckets, patience=Patience(bound_s=0))
        self.lake = LakeReading(lake, timeframes)
        self.store = StoreFollowing(self._store, symbols, timeframes)
        self.starts = Starts(master)

    def __enter__(self) -> Self:
        for thread in (self.lake, self.store, self.starts):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in (self.lake, self.store, self.starts):
            thread.end()
        self._store.close()

    def problems(self, goes_back: bool) -> list[str]:
        """Return what the readers hold against the job.

        Args:
            goes_back: the job was started from an older state, where it counts revisions anew.
        """
        clashes = self.store.pushed.clashes(self.starts.at if goes_back else ())
        found = [*self.lake.problems, *self.store.problems, *self.starts.problems]
        if clashes:
            names = ", ".join(f"{_name(clash[:3])} revision {clash[3]}" for clash in clashes[:_MOST_TOLD])
            found.append(f"{len(clashes)} revisions were pushed with two contents: {names}")
        return found

    def agree(self, within_s: float) -> list[str]:
        """Wait until the follower has what the lake has; return in what they differ after a time."""
        began = time.monotonic()
        while True:
            lines = ["closed bars were not filled"]
            if self.store.filled:
                lines = differences(dict(self.store.pushed.state), self.lake.bars())
            if not lines or time.monotonic() - began > within_s:
                more = [f"and {len(lines) - _MOST_TOLD} more"] if len(lines) > _MOST_TOLD else []
                return lines[:_MOST_TOLD] + more
            time.sleep(_EVERY_S)
