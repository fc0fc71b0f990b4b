"""The tables that a stream writes, which job writes them, and how their files are told of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fibflow.io import tables
from fibflow.io.datafiles import DataFile
from fibflow.io.lake import ConflictError, Lake, LakeTable
from fibflow.io.storage import LakeError
from fibflow.io.takeback import refuse_older

#: A table's property that says which job writes it.
STREAM = "fibflow.stream"
STREAM_TABLES = (tables.TICKS, tables.LIVE, tables.LATE, tables.DEAD_LETTERS)
#: Never taken back: the stream may no longer hold what was rewound. Rows carry their identity.
KEPT = frozenset({tables.TICKS.name})
#: Batch appends to these too, and appends do not conflict.
SHARED = frozenset({tables.DEAD_LETTERS.name})

#: The format of each cell of state.
STATE_VERSION = b"\x01"


@dataclass(frozen=True)
class StreamJob:
    """Who writes the stream's tables.

    Attributes:
        name: the same for all starts that go on from a state of one another.
        start: counts the starts by a person; ``next_start`` gives it. The runner's restarts keep it.
        run: unique to the start.
        replaces: the name of the job that this one takes the tables over from.
    """

    name: str
    start: int
    run: str
    replaces: str | None = None

    def app_id(self, table: str) -> str:
        """The application whose transactions count the commits to a table."""
        return f"{self.name}/{table}"

    def to_property(self) -> str:
        """What the table remembers."""
        return json.dumps({"job": self.name, "start": self.start, "run": self.run}, separators=(",", ":"))

    @classmethod
    def of_property(cls, text: str | None) -> StreamJob | None:
        """The inverse of ``to_property``; None for a table that no job has written."""
        if text is None:
            return None
        found = json.loads(text)
        return cls(found["job"], found["start"], found["run"])


def writing_job(lake: Lake) -> StreamJob | None:
    """Return the job that started last on a lake's tables, None where none has."""
    found = [StreamJob.of_property(lake.table(spec).properties.get(STREAM)) for spec in STREAM_TABLES]
    return max((job for job in found if job is not None), key=lambda job: job.start, default=None)


def next_start(lake: Lake) -> int:
    """Return the number of the next start of a job on a lake."""
    last = writing_job(lake)
    return 1 if last is None else last.start + 1


def check_start(lake: Lake, job: StreamJob, written: int | None) -> None:
    """Raise where a job cannot start on a lake: what its first commits would find, said before it starts.

    Args:
        lake: where.
        job: who.
        written: when the savepoint or checkpoint was written that it starts from, UTC microseconds; None
            where it starts without.

    Raises:
        ConflictError: another job, or a later start of this one, writes the tables.
        LakeError: it has no state, and an earlier start of it has written bars; or a state that is older than
            what was compacted.
    """
    for spec in STREAM_TABLES:
        table = lake.table(spec)
        found = StreamJob.of_property(table.properties.get(STREAM))
        if found is None:
            continue
        check_writer(table, job, found)
        stored = table.app_version(job.app_id(spec.name)) or 0
        if not stored:
            continue
        if written is None:
            check_state(table, job, found, job.start, stored)
        elif spec.name not in KEPT:
            refuse_older(table, job.app_id(spec.name), written)


def check_writer(table: LakeTable, job: StreamJob, found: StreamJob) -> None:
    """Raise ConflictError where a job may not write a table that ``found`` says it writes."""
    if found.name not in (job.name, job.replaces):
        raise ConflictError(
            f"{table.spec.name} at {table.storage.uri} is written by the job {found.name} (run {found.run}): "
            f"stop it and let {job.name} replace it, or use another lake"
        )
    is_this = (found.name, found.start, found.run) == (job.name, job.start, job.run)
    if found.start >= job.start and not is_this:
        raise ConflictError(
            f"{table.spec.name} at {table.storage.uri} is written by a later start of the job {found.name} "
            f"(run {found.run}): this one must stop"
        )


def check_state(table: LakeTable, job: StreamJob, found: StreamJob, began: int, stored: int) -> None:
    """Raise LakeError where commits of earlier starts would be taken back by a job that has no state of them.

    The stream may no longer hold what they were made of. ``began`` is the start in which the state began,
    ``stored`` the number of commits.
    """
    if found.start < began and table.spec.name not in KEPT:
        raise LakeError(
            f"{table.spec.name} at {table.storage.uri} holds {stored} commits of {job.name}, and this start "
            "has no state that knows them: start from a savepoint, or under another name that replaces "
            f"{job.name}"
        )


def encode_file(file: DataFile) -> bytes:
    """Return the description of a data file as a byte for the format and JSON."""
    return STATE_VERSION + json.dumps(asdict(file), separators=(",", ":")).encode()


def decode_file(encoded: bytes) -> DataFile:
    """The inverse of ``encode_file``. Raises LakeError for another format."""
    return DataFile(**json.loads(content_of(encoded)))


def content_of(cell: bytes) -> bytes:
    """Return what follows the format's byte. Raises LakeError for another format."""
    if cell[:1] != STATE_VERSION:
        raise LakeError(
            f"the state of the lake's sink has format {cell[:1].hex() or 'none'}, this release reads "
            f"{STATE_VERSION.hex()}: start the savepoint with the release that made it"
        )
    return cell[1:]
