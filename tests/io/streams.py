"""Rows of the stream's tables, and a process that commits them, for the tests of the stream's sink."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.deltalog import Entry
from fibflow.io.lake import Lake
from fibflow.io.live import TickReader
from fibflow.io.streamcommit import StreamCommit
from fibflow.io.streamfiles import write_rows
from fibflow.io.streamtables import StreamJob
from fibflow.transforms.calendar import load_calendar

XNYS = load_calendar()
START = datetime(2024, 3, 11, 14, 30, tzinfo=UTC)
JOB = StreamJob("live", 1, "run1")


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


def table_of(spec: TableSpec, columns: dict[str, Any]) -> pa.Table:
    """A table of the spec's stored columns; those that are not given are null."""
    count = len(next(iter(columns.values())))
    return pa.table(
        [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(count, f.type)
            for f in spec.file_schema
        ],
        schema=spec.file_schema,
    )


def live(rows: Sequence[tuple[str, int, int, bool, float]], timeframe: str = "5m") -> pa.Table:
    """Bars of (symbol, minute, revision, final, close), in that order."""
    symbols, minutes, revisions, finals, closes = zip(*rows, strict=True)
    columns = {
        "symbol": symbols,
        "ts": [minute(number) for number in minutes],
        "end": [minute(number + 5) for number in minutes],
        "close": closes,
        "complete": [True] * len(rows),
        "final": finals,
        "revision": revisions,
    }
    rows_of = pa.schema([f for f in tables.LIVE.schema if f.name != "period"])
    stored = table_of(tables.LIVE, columns)
    return stored.add_column(1, "timeframe", pa.array([timeframe] * len(rows))).cast(rows_of)


def bars(numbers: Sequence[int], tag: int = 0) -> pa.Table:
    """A bar for each number; its close is the tag."""
    return live([(f"S{number % 3}", number * 5, 0, False, float(tag)) for number in numbers])


def messages(
    spec: TableSpec, numbers: Sequence[int], shard: str = "shard-0", symbols: str = "ABC", per_record: int = 4
) -> pa.Table:
    """A message of ``bronze.ticks`` or ``late`` for each number, a second apart, some in a record."""
    columns: dict[str, Any] = {
        "kind": ["T"] * len(numbers),
        "symbol": [symbols[number % len(symbols)] for number in numbers],
        "ts": [START + timedelta(seconds=number) for number in numbers],
        "seq": list(numbers),
        "price": [float(number) for number in numbers],
        "shard": [shard] * len(numbers),
        "sequence": [f"{number // per_record:056d}" for number in numbers],
        "sub": [0] * len(numbers),
        "place": [number % per_record for number in numbers],
    }
    return table_of(spec, {name: value for name, value in columns.items() if name in spec.schema.names})


def rows_of(table: str, numbers: Sequence[int], tag: int = 0) -> pa.Table:
    """Rows of a table of the stream, one a number."""
    if table == tables.LIVE.name:
        return bars(numbers, tag)
    if table == tables.DEAD_LETTERS.name:
        return table_of(
            tables.DEAD_LETTERS,
            {
                "reason": ["unreadable"] * len(numbers),
                "origin": [str(n) for n in numbers],
                "open": [float(tag)] * len(numbers),
            },
        )
    rows = messages(tables.TABLES[table], numbers)
    if table == tables.LATE.name:
        at = rows.schema.get_field_index("horizon")
        horizon = pa.array([minute(tag)] * len(numbers), rows.schema.field(at).type)
        rows = rows.set_column(at, rows.schema.field(at), horizon)
    return rows


def write(lake: Lake, table: str, rows: pa.Table, name: str) -> list[DataFile]:
    """The files that the rows become."""
    return list(write_rows(lake.table(tables.TABLES[table]).writer(), rows, XNYS, name))


def stored(lake: Lake, table: str) -> list[tuple[int, int]]:
    """(number, tag) of each row that the table's files hold, as ``rows_of`` made them, sorted."""
    rows: Any = lake.table(tables.TABLES[table]).snapshot().read()[0]
    if table == tables.LIVE.name:
        numbers = [(ts - START) // timedelta(minutes=5) for ts in rows["ts"].to_pylist()]
        tags = rows["close"].to_pylist()
    elif table == tables.DEAD_LETTERS.name:
        numbers, tags = [int(origin) for origin in rows["origin"].to_pylist()], rows["open"].to_pylist()
    elif table == tables.LATE.name:
        numbers = rows["seq"].to_pylist()
        tags = [(horizon - START) // timedelta(minutes=1) for horizon in rows["horizon"].to_pylist()]
    else:
        numbers, tags = rows["seq"].to_pylist(), [0] * len(rows)
    return sorted((number, int(tag)) for number, tag in zip(numbers, tags, strict=True))


@dataclass(frozen=True)
class State:
    """What a checkpoint of the stream holds, for one table."""

    position: int = 0
    number: int = 0
    began: int = 1
    pending: tuple[DataFile, ...] = ()
    #: (number, tag) of each row that was written.
    made: tuple[tuple[int, int], ...] = ()


@dataclass
class Run:
    """One attempt of the job, from a state on."""

    lake: Lake
    table: str
    job: StreamJob
    tag: int
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.commits = StreamCommit(self.lake, self.table, self.job)

    def write(self, count: int) -> None:
        """Make a file of the next rows of the stream."""
        numbers = range(self.state.position, self.state.position + count)
        name = f"{self.tag}-{self.state.position}-{self.lake.new_id()}"
        files = write(self.lake, self.table, rows_of(self.table, numbers, self.tag), name)
        made = tuple((number, self.tag if self.table != tables.TICKS.name else 0) for number in numbers)
        old = self.state
        self.state = State(numbers.stop, old.number, old.began, (*old.pending, *files), old.made + made)

    def commit(self) -> int | None:
        """Fire the timer."""
        old = self.state
        done = self.commits.commit(old.number, old.pending, old.began)
        self.state = State(old.position, done.number, old.began, (), old.made)
        return done.version


class Timer:
    """A timer of one key."""

    def __init__(self) -> None:
        self.at: float | None = None

    def set(self, at: float) -> None:
        self.at = float(at)

    def clear(self) -> None:
        self.at = None


class Cell:
    """A bag of one key, which only takes bytes."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def read(self) -> Any:
        return list(self.values)

    def add(self, value: bytes) -> None:
        assert type(value) is bytes
        self.values.append(value)

    def clear(self) -> None:
        self.values = []


class Value(Cell):
    """A cell of one key."""

    def read(self) -> Any:
        return self.values[0] if self.values else None

    def write(self, value: bytes) -> None:
        self.clear()
        self.add(value)


@dataclass
class Clock:
    """A second a look."""

    at: datetime = START

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


def started(lake: Lake, table: str = tables.LIVE.name, commits: int = 1, rows: int = 2) -> Run:
    """A run that has made some commits of some rows each."""
    run = Run(lake, table, JOB, tag=1)
    for _ in range(commits):
        run.write(rows)
        run.commit()
    return run


def restarted(run: Run, state: State, tag: int = 2, job: StreamJob | None = None) -> Run:
    """Another attempt, from a state."""
    return Run(run.lake, run.table, job or run.job, tag, state)


def log(lake: Lake, table: str = tables.LIVE.name) -> list[Entry]:
    """The commits of a table that its log holds, oldest first."""
    opened = lake.table(tables.TABLES[table])
    return list(opened.log.backwards(opened.version))[::-1]


def read(lake: Lake) -> list[int]:
    """The numbers of the messages, as a reader sees them."""
    rows: Any = TickReader(lake).ticks(columns=["seq"])
    return sorted(rows["seq"].to_pylist())


def expire(lake: Lake, table: str, *versions: int) -> None:
    """Drop entries of a table's log, as vacuum does in time."""
    for version in versions:
        place = Path(lake.table(tables.TABLES[table]).storage.uri) / "_delta_log"
        (place / f"{version:020d}.json").unlink()


def main(uri: str, table: str, *arguments: str) -> None:
    """Writes and commits a file for each argument: how many rows it holds."""
    lake = Lake(uri, AwsConfig.resolve() if uri.startswith("s3://") else None)
    run = Run(lake, table, JOB, tag=1)
    for count in arguments:
        run.write(int(count))
        print(run.commit(), flush=True)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main(*sys.argv[1:])
