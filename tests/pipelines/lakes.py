"""Lakes of bars as ``pipelines.batch`` leaves them, and what they have to hold."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.aws import AwsConfig
from fibflow.io.lake import Lake, LakeTable
from fibflow.pipelines import batch, cli
from fibflow.tests.pipelines.raws import FAST, Bronze, Raw, Row, rows_of, table_of
from fibflow.tests.transforms.tables import by_key, daily, minutes
from fibflow.transforms.aggregate import aggregate
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import TradingCalendar, load_calendar
from fibflow.transforms.schemas import BARS
from fibflow.transforms.timeframe import Anchor, IntradayAnchor, parse_timeframes

XNYS = load_calendar()
#: Symbols whose rows have a vwap and a count of trades.
FULL = frozenset({"A", "BRK.B", "NEW"})

#: (symbol, timeframe, ts in UTC microseconds)
Key = tuple[str, str, int]
Bar = dict[str, Any]


def sessions(first: str, last: str) -> list[date]:
    """The sessions of XNYS on ``[first, last]``."""
    days = XNYS.days.astype("datetime64[D]")
    return days[(days >= np.datetime64(first)) & (days <= np.datetime64(last))].tolist()


@dataclass
class Silver:
    """A lake, seen by the bars that runs leave in it. ``source`` are options of every run."""

    uri: str
    source: tuple[str, ...] = ()
    aws: AwsConfig | None = None

    def batch(self, *options: str) -> int:
        """Run in this process and one thread."""
        return batch.run(["--lake", self.uri, *FAST, *self.source, *options])

    def fail(self, *options: str) -> Failed:
        """Run as ``python -m`` does, and fail."""
        return fail(batch.run, "--lake", self.uri, *FAST, *self.source, *options)

    @property
    def table(self) -> LakeTable:
        return Lake(self.uri, self.aws).table(tables.BARS)

    @property
    def version(self) -> int:
        return self.table.version

    def bars(self, version: int | None = None) -> dict[Key, Bar]:
        """All bars by key, each key once; none where there is no table."""
        if not self.table.exists:
            return {}
        return by_key([self.table.snapshot(version).read(BARS.names)[0]])

    def content(self, version: int | None = None) -> dict[Key, Bar]:
        """All bars, every column but ``revision``."""
        return contents(self.bars(version))

    def paths(self, timeframe: str, complete: bool | None = None) -> frozenset[str]:
        """The files of a timeframe: all, those that hold bars of ended windows, or of open ones."""
        where: dict[str, Any] = {"timeframe": timeframe}
        if complete is not None:
            where["complete"] = complete
        return frozenset(file.path for file in self.table.snapshot().select(where=where))

    def copy(self, target: Path) -> Silver:
        """The same lake in another folder."""
        shutil.copytree(self.uri, target)
        return Silver(str(target), self.source)


def contents(bars: Mapping[Key, Bar]) -> dict[Key, Bar]:
    return {key: {name: bar[name] for name in bar if name != "revision"} for key, bar in bars.items()}


def revised(before: Mapping[Key, Bar], after: Mapping[Key, Bar]) -> set[Key]:
    """The keys of bars that differ: their content changed, and their revision went up by one."""
    raised = {key for key in before.keys() & after.keys() if before[key] != after[key]}
    for key in raised:
        assert after[key]["revision"] == before[key]["revision"] + 1
        assert contents({key: before[key]}) != contents({key: after[key]})
    return raised


def window(bar: Bar) -> tuple[date, date]:
    """The first and the last session of a bar's window."""
    first = XNYS.positions_at(np.array([bar["ts"]]))[0]
    last = np.searchsorted(XNYS.day_ends, bar["end"])
    days = XNYS.days.astype("datetime64[D]")
    return days[first].item(), days[last].item()


def holds(bar: Bar, *days: date) -> bool:
    """Whether a bar's window holds any of some sessions."""
    first, last = window(bar)
    return any(first <= day <= last for day in days)


def files_in(folder: str | Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too, with its content."""
    base = Path(folder)
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def instant(day: date) -> int:
    """When a session's day begins, UTC microseconds."""
    return int(XNYS.day_starts[XNYS.positions(np.array([(day - date(1970, 1, 1)).days]))[0]])


# Command lines ---------------------------------------------------------------------------------------------


@dataclass
class Failed:
    """How a command line ended, and what it said on standard error beside its progress."""

    code: int
    lines: list[str]


def fail(run: Callable[[Any], int], *argv: str, known: tuple[type[Exception], ...] = ()) -> Failed:
    """Run a command line as ``python -m`` does."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        cli.run_main(run, list(argv), known)
    assert isinstance(ended.value.code, int)
    return Failed(ended.value.code, without_progress(said.getvalue()))


def without_progress(said: str) -> list[str]:
    progress = ("bars of about", "loading about")
    return [line for line in said.splitlines() if not line.startswith(progress)]


def command(module: str, *argv: str) -> list[str]:
    """A command line for a process of its own."""
    return [sys.executable, "-P", "-m", f"fibflow.pipelines.{module}", *argv]


# Bars by the kernel alone ----------------------------------------------------------------------------------


def daily_bars(
    rows: Iterable[Row],
    timeframes: str,
    anchor: str = "exchange",
    as_of: date | None = None,
    complete_only: bool = False,
    calendar: TradingCalendar = XNYS,
) -> dict[Key, Bar]:
    """The content of the bars of rows, each key once."""
    table = daily(
        [
            {
                "symbol": row.symbol,
                "session": row.day,
                "open": row.value,
                "high": row.value + 1,
                "low": row.value - 1,
                "close": row.value + 0.5,
                "volume": float(int(row.value * 100)),
                "vwap": row.value + 0.25 if row.symbol in FULL else None,
                "trade_count": int(row.value) if row.symbol in FULL else None,
            }
            for row in rows
        ],
        rank=False,
    )
    spec = BarSpec(
        parse_timeframes(timeframes),
        calendar,
        None if as_of is None else _end(as_of, calendar),
        Anchor(anchor),
        complete_only=complete_only,
    )
    return contents(by_key(aggregate(table, spec)[0]))


def _end(day: date, calendar: TradingCalendar) -> int:
    return int(calendar.day_ends[calendar.position_on_or_before((day - date(1970, 1, 1)).days)])


def minute_bars(
    values: Mapping[tuple[str, datetime], float], timeframes: str, anchor: str = "midnight"
) -> dict[Key, Bar]:
    """The content of the bars of minutes of one price each."""
    rows = [
        {
            "symbol": symbol,
            "ts": ts,
            **dict.fromkeys(("open", "high", "low", "close"), value),
            "volume": 100.0,
        }
        for (symbol, ts), value in values.items()
    ]
    spec = BarSpec(parse_timeframes(timeframes), XNYS, intraday_anchor=IntradayAnchor(anchor))
    return contents(by_key(aggregate(minutes(rows, rank=False), spec)[0]))


# Files -----------------------------------------------------------------------------------------------------


def with_counts(rows: Sequence[Row], with_symbol: bool) -> pa.Table:
    """Rows as a file holds them; those of some symbols with a vwap and a count of trades."""
    vwap = [row.value + 0.25 if row.symbol in FULL else None for row in rows]
    counts = [int(row.value) if row.symbol in FULL else None for row in rows]
    columns = {"vwap": pa.array(vwap, pa.float64()), "transactions": pa.array(counts, pa.int64())}
    return table_of(rows, with_symbol, **columns)


# A lake to begin with --------------------------------------------------------------------------------------

#: 70 sessions; B is listed on the tenth and Z delisted on the fiftieth.
DAYS_70 = sessions("2023-10-12", "2024-01-23")
ROWS = [
    *rows_of("A", DAYS_70, 10.0),
    *rows_of("B", DAYS_70[9:], 200.0),
    *rows_of("Z", DAYS_70[:50], 3000.0),
]
#: The sessions after.
NEXT = sessions("2024-01-24", "2024-03-27")


@dataclass
class World:
    """A raw folder, and a lake in which it was landed and made into bars."""

    folder: Path
    raw: Raw
    lake: Silver

    @classmethod
    def make(cls, folder: Path, *options: str) -> World:
        """Land ``ROWS``, a file a symbol, and make bars."""
        world = cls(folder, Raw(folder / "raw"), Silver(str(folder / "lake")))
        for symbol in ("A", "B", "Z"):
            world.put([row for row in ROWS if row.symbol == symbol])
        world.land()
        world.lake.batch(*options)
        return world

    def copy(self, folder: Path) -> World:
        """The same in another folder, files as old as they were."""
        shutil.copytree(self.folder / "raw", folder / "raw")
        lake = self.lake.copy(folder / "lake")
        return World(folder, Raw(folder / "raw", self.raw.clock), lake)

    def put(self, rows: Sequence[Row], name: str = "data") -> None:
        """Write a file of one symbol."""
        self.raw.put(f"symbol={rows[0].symbol}/{name}.parquet", with_counts(rows, False))

    def put_all(self, name: str, rows: Sequence[Row]) -> None:
        """Write a file of several symbols."""
        self.raw.put(f"{name}.parquet", with_counts(rows, True))

    def land(self) -> None:
        Bronze(self.lake.uri).first(self.raw)

    def fresh(self, *options: str, name: str = "fresh") -> Silver:
        """A lake made of the raw folder by one run."""
        lake = Silver(str(self.folder / name), ("--input", str(self.raw), "--price-basis", "raw"))
        lake.batch(*options)
        return lake
