"""The stream's commits: files become visible by a count that lives in the stream's state.

After a crash or a rewind the state is older than the table. The next commit then takes out the files that
the state does not know, puts back those that it knows and that are gone, and adds its own, in one version:
so a table's rows always belong to one history of the job. ``docs/adr/0006-commits-follow-the-state.md``
says why.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from pyarrow import fs as pafs

from fibflow.io import tables
from fibflow.io.datafiles import DataFile
from fibflow.io.deltalog import Scope
from fibflow.io.lake import ConflictError, Lake, RebaseNeeded
from fibflow.io.logtail import LogTail, Tip
from fibflow.io.storage import LakeError
from fibflow.io.streamtables import (
    KEPT,
    SHARED,
    STATE_VERSION,
    STREAM,
    StreamJob,
    check_state,
    check_writer,
    content_of,
    decode_file,
)
from fibflow.io.takeback import refuse_merged, since

#: A commit every few seconds makes many log files; a savepoint cannot be older than the log.
LOG_RETENTION = {"delta.logRetentionDuration": "interval 7 days"}

_ATTEMPTS = 20
#: Timers have milliseconds, the window's end has microseconds.
_END_OF_INPUT = GlobalWindow().max_timestamp() - 1


@dataclass(frozen=True)
class CommitPlan:
    """What a commit does.

    Attributes:
        number: what it counts as; the state's number after it.
        version: that of the table it goes on top of, -1 where it makes the table.
        add: files that become visible.
        remove: files of commits that the state does not know.
        properties: what the table has to be told.
        ahead: the table had commits that the state does not know.
    """

    number: int
    version: int
    add: tuple[DataFile, ...]
    remove: tuple[DataFile, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    ahead: bool = False


@dataclass(frozen=True)
class Committed:
    """The state's number after a commit; ``version`` is None where there was nothing to commit."""

    number: int
    version: int | None = None
    added: int = 0
    rows: int = 0
    removed: int = 0


@dataclass
class StreamCommit:
    """Commits of one job to one of its tables. Not for several threads at once.

    Attributes:
        lake: where.
        table: the table's name, one of ``streamtables.STREAM_TABLES``.
        job: who.
        properties: what the table has to say of itself: calendar, price basis.
    """

    lake: Lake
    table: str
    job: StreamJob
    properties: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._table = self.lake.table(tables.TABLES[self.table])
        self._app_id = self.job.app_id(self.table)
        self._tail = LogTail(self._table, self._app_id, self.lake.new_id)
        self._wanted = {**self.properties, STREAM: self.job.to_property()}
        self._scope = Scope(symbols=()) if self.table in SHARED else Scope()
        # The number that this process has seen the table at: a state that has it goes on from there.
        self._seen: int | None = None

    @property
    def settled(self) -> bool:
        """Whether this process has looked at the table: from then on it need not look without files."""
        return self._seen is not None

    def commit(self, number: int, pending: Sequence[DataFile], began: int | None = None) -> Committed:
        """Make the pending files visible and bring the table to the state's history.

        Args:
            number: of the last commit that the state knows, 0 for none.
            pending: the files that wait in the state.
            began: the start of the job in which the state began, where known: commits of earlier starts are
                not taken back for one that never knew any.

        Raises:
            ConflictError: another job, or another run of this one, writes the table. Nothing was written.
            LakeError: the table, its log or the files are older or newer than what the state needs.
            PropertyMismatch: the table was made with other properties.
        """
        for _ in range(_ATTEMPTS):
            plan = self.plan(number, pending, began)
            if plan is None:
                return Committed(number)
            version = self._land(plan)
            if version is not None:
                self._seen = plan.number
                rows = sum(file.rows for file in plan.add)
                return Committed(plan.number, version, len(plan.add), rows, len(plan.remove))
        raise ConflictError(f"{self.table} is written to too often to commit: run again")

    def plan(self, number: int, pending: Sequence[DataFile], began: int | None = None) -> CommitPlan | None:
        """Return what ``commit`` would do to the table as it is now, None for nothing; errors likewise."""
        tip = self._tail.follow()
        told: Mapping[str, str] = {} if tip is None else tip.properties
        writer = StreamJob.of_property(told.get(STREAM))
        if writer is not None:
            check_writer(self._table, self.job, writer)
        if self._seen is None:
            self._table.check(self.properties, told)
        untold = {key: value for key, value in self._wanted.items() if told.get(key) != value}
        if untold:
            untold |= {key: value for key, value in LOG_RETENTION.items() if key not in told}
        stored = 0 if tip is None else tip.number
        if number > stored:
            raise LakeError(
                f"{self.table} at {self._table.storage.uri} has commits of {self.job.name} up to {stored}, "
                f"this savepoint knows {number}: it is of another lake, or the lake is an older copy"
            )
        fresh = self._seen != number
        files = {file.path: file for file in pending}
        if tip is None or stored == number:
            if not files and (tip is None or not untold):
                self._seen = number
                return None
            if fresh:
                self._check_there(files.values())
            version = -1 if tip is None else tip.version
            return CommitPlan(number + 1, version, tuple(files.values()), properties=untold)
        if not fresh:
            # A restart in this process may be what got ahead: it will look anew.
            self._seen = None
            raise ConflictError(
                f"another run of {self.job.name} has written {self.table} (commit {stored} after {number}): "
                "this one must stop"
            )
        if number == 0 and began is not None and writer is not None:
            check_state(self._table, self.job, writer, began, stored)
        return replace(self._go_back(tip, number, files), properties=untold)

    def _go_back(self, tip: Tip, number: int, pending: Mapping[str, DataFile]) -> CommitPlan:
        """The table is ahead of the state: by a crash after a commit, or a rewind."""
        there: Collection[str] = ()
        remove: list[DataFile] = []
        back: list[DataFile] = []
        if self.table not in KEPT:
            found = since(self._table, self._app_id, number, tip.version)
            refuse_merged(self._table, self._app_id, number, found, pending)
            there = found.added.keys() | found.merged
            remove = [file for path, file in found.added.items() if path not in pending]
            back = list(found.gone.values())
        elif pending:
            found = since(self._table, self._app_id, number, tip.version, whole=False)
            there = found.landed | self._table.snapshot(tip.version).paths
        new = [file for path, file in pending.items() if path not in there]
        self._check_there([*new, *back])
        # Also where nothing changes: an older run that still writes has to see that it is not alone.
        return CommitPlan(tip.number + 1, tip.version, (*back, *new), tuple(remove), ahead=True)

    def _check_there(self, files: Collection[DataFile]) -> None:
        """A savepoint may be older than what vacuum keeps."""
        storage = self._table.storage
        paths = [storage.path(file.path) for file in files]
        try:
            infos = storage.filesystem.get_file_info(paths) if paths else []
        except OSError as error:
            raise LakeError(storage.explain("read", error)) from error
        if gone := sum(info.type == pafs.FileType.NotFound for info in infos):
            raise LakeError(
                f"{gone} files of {self.table} that this savepoint waits to commit are no longer at "
                f"{storage.uri}, vacuum took them: start from a newer savepoint"
            )

    def _land(self, plan: CommitPlan) -> int | None:
        """The version that the plan became, None where another came first."""
        facts = {"job": self.job.name, "newest": _newest(plan.add)}
        if plan.version >= 0 and not plan.ahead and not plan.properties:
            return self._tail.append(plan.add, plan.number, self._scope, self.job.run, facts)
        try:
            return self._table.commit(
                plan.add,
                plan.remove,
                base_version=plan.version,
                scope=self._scope,
                run=self.job.run,
                properties=plan.properties,
                app={self._app_id: plan.number},
                metadata=facts,
                exact=True,
            )
        except RebaseNeeded:
            return None


def _newest(files: Sequence[DataFile]) -> str | None:
    """The latest event time of the files' rows, as the statistics have it."""
    highs = [json.loads(file.stats or "{}").get("maxValues", {}).get("ts") for file in files]
    return max((high for high in highs if high), default=None)


class _Count(NamedTuple):
    """The cell that counts.

    Attributes:
        began: the start of the job in which the cell was made.
        number: of the last commit.
        due: when the timer is, in milliseconds; 0 where it is not set.
    """

    began: int
    number: int = 0
    due: int = 0

    def encode(self) -> bytes:
        return STATE_VERSION + struct.pack(">QQQ", *self)

    @classmethod
    def decode(cls, cell: bytes) -> _Count:
        return cls(*struct.unpack(">QQQ", content_of(cell)))


#: What wakes the commits of a table of which no file has come: ``(table, WAKE)``.
WAKE = b""


@beam.typehints.with_input_types(tuple[str, bytes])
@beam.typehints.with_output_types(tuple[str, int])
class CommitFiles(beam.DoFn):
    """Commits the files of each table every few seconds; emits (table, version).

    Input: (table, what ``encode_file`` made), or (table, ``WAKE``). A timer runs as long as the job does, so
    that after a restore the table goes back at once, not with the next file.
    """

    #: Files that wait for their commit, which clears them.
    FILES = beam.DoFn.StateParam(BagStateSpec("files", coders.BytesCoder()))
    #: A ``_Count``; as old as the key.
    COUNT = beam.DoFn.StateParam(ReadModifyWriteStateSpec("count", coders.BytesCoder()))
    DUE = TimerSpec("due", TimeDomain.REAL_TIME)
    #: The end of the global window: a drain.
    END = TimerSpec("commits_end", TimeDomain.WATERMARK)
    _DUE = beam.DoFn.TimerParam(DUE)
    _END = beam.DoFn.TimerParam(END)

    def __init__(
        self,
        lake: Lake,
        job: StreamJob,
        properties: Mapping[str, Mapping[str, str]] | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lake = lake
        self._job = job
        self._properties = dict(properties or {})
        self._every = every
        self._clock = clock

    def setup(self) -> None:
        """Know of no table yet."""
        self._commits: dict[str, StreamCommit] = {}

    def process(
        self,
        element: tuple[str, bytes],
        files: Any = FILES,
        count: Any = COUNT,
        due: Any = _DUE,
        end: Any = _END,
        stamp: Any = beam.DoFn.TimestampParam,
    ) -> None:
        """Keep the file for the next commit."""
        if element[1] != WAKE:
            files.add(element[1])
        cell = count.read()
        if cell is None:
            end.set(GlobalWindow().max_timestamp())
        at = _Count(self._job.start) if cell is None else _Count.decode(cell)
        # What the drain of an earlier step wrote waits for the drain of this one.
        if not at.due and stamp < _END_OF_INPUT:
            at = self._set(due, at)
        count.write(at.encode())

    @on_timer(DUE)
    def on_due(
        self, table: Any = beam.DoFn.KeyParam, files: Any = FILES, count: Any = COUNT, due: Any = _DUE
    ) -> Iterator[tuple[str, int]]:
        """Commit, and set the timer again."""
        at, now = _Count.decode(count.read()), self._clock()
        number, version = self._commit(table, at, files)
        # A runner whose input has ended does not wait for its timers: one set again would never end.
        waited = at.due and now >= at.due / 1000 - self._every / 2
        at = at._replace(number=number, due=0)
        count.write((self._set(due, at) if waited else at).encode())
        if version is not None:
            yield table, version

    @on_timer(END)
    def on_end(
        self, table: Any = beam.DoFn.KeyParam, files: Any = FILES, count: Any = COUNT, due: Any = _DUE
    ) -> Iterator[tuple[str, int]]:
        """Commit for the last time."""
        at = _Count.decode(count.read())
        number, version = self._commit(table, at, files)
        due.clear()
        count.write(at._replace(number=number, due=0).encode())
        if version is not None:
            yield table, version

    def _set(self, due: Any, at: _Count) -> _Count:
        next_time = self._clock() + self._every
        due.set(next_time)
        return at._replace(due=int(next_time * 1000))

    def _commit(self, table: str, at: _Count, files: Any) -> tuple[int, int | None]:
        if table not in self._commits:
            of_table = self._properties.get(table, {})
            self._commits[table] = StreamCommit(self._lake, table, self._job, of_table)
        commit = self._commits[table]
        pending = [decode_file(encoded) for encoded in files.read()]
        if not pending and commit.settled:
            return at.number, None
        start = self._clock()
        done = commit.commit(at.number, pending, at.began)
        files.clear()
        if done.version is not None:
            Metrics.distribution("lake", f"commit_ms.{table}").update(int((self._clock() - start) * 1000))
            Metrics.counter("lake", f"commits.{table}").inc()
            Metrics.counter("lake", f"files_committed.{table}").inc(done.added)
            Metrics.counter("lake", f"rows_committed.{table}").inc(done.rows)
            Metrics.counter("lake", f"files_taken_back.{table}").inc(done.removed)
        return done.number, done.version
