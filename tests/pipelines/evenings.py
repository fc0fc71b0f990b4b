"""A lake some weeks behind the stand-in, with holes, and what it has to hold afterwards: by brute force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.reference import RENAMES, SPLITS, SYMBOLS, read_reference, upsert
from fibflow.pipelines import batch, daily, load
from fibflow.serving.standin.market import Market
from fibflow.tests.pipelines.lakes import Key
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tables import by_key
from fibflow.tests.vendors import Vendor
from fibflow.transforms.schemas import BARS

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

KEY = "a-key-that-nobody-may-see"
TIMEFRAMES = ("3d", "5d", "8d", "13d", "21d", "34d")
ORACLE = oracle.calendar("XNYS")
#: A Sunday after the market's last session.
NOW = datetime(2024, 3, 17, 23, tzinfo=UTC)


@dataclass
class Evening:
    """A lake, its raw folder, and the vendor."""

    folder: Path
    vendor: Vendor
    said: str = ""

    @property
    def market(self) -> Market:
        assert self.vendor.market is not None
        return self.vendor.market

    @property
    def lake(self) -> Lake:
        return Lake(str(self.folder / "lake"))

    def line(self, *options: str) -> list[str]:
        """The arguments of a run."""
        places = "--lake", str(self.folder / "lake"), "--raw", str(self.folder / "raw")
        return [*places, "--vendor-url", self.vendor.url, "--rate", "5000", *FAST, *options]

    def run(self, *options: str, now: datetime = NOW) -> int:
        return daily.run(self.line(*options), now=lambda: now)

    def behind(self, days: pa.Table, symbols: pa.Table) -> None:
        """Make the lake of some days, as the predecessor left them: a file a symbol; and of some symbols."""
        old = self.folder / "old"
        old.mkdir()
        for name in days["symbol"].unique().to_pylist():
            mine = days.filter(pc.equal(days["symbol"], name)).rename_columns(
                ["date" if column == "session" else column for column in days.column_names]
            )
            pq.write_table(mine, old / f"{name}.parquet")
        load.run(["--input", str(old), "--lake", self.lake.uri, "--price-basis", "raw", *FAST])
        batch.run(["--lake", self.lake.uri, *FAST])
        upsert(self.lake.table(SYMBOLS), symbols, "before")

    def days(self) -> pa.Table:
        rows, _ = self.lake.table(tables.DAILY).snapshot().read()
        return rows.drop_columns(["source", "landed", "period"]).sort_by(
            [("symbol", "ascending"), ("session", "ascending")]
        )

    def bars(self) -> dict[Key, dict[str, Any]]:
        """All bars, every column but ``revision``."""
        found = by_key([self.lake.table(tables.BARS).snapshot().read(BARS.names)[0]])
        return {key: without_revision(bar) for key, bar in found.items()}

    def versions(self) -> dict[str, int]:
        return {name: self.lake.table(spec).version for name, spec in tables.TABLES.items()}

    def splits(self) -> pa.Table:
        return read_reference(self.lake, SPLITS)[0]

    def renames(self) -> pa.Table:
        return read_reference(self.lake, RENAMES)[0]


def without_revision(bar: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in bar.items() if name != "revision"}


def expected_bars(days: pa.Table) -> dict[Key, dict[str, Any]]:
    """The Fibonacci bars of days, as ``Evening.bars`` has them."""
    rows = []
    for row in days.to_pylist():
        day = row.pop("session")
        stamp = oracle.micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
        rows.append(oracle.accept({**row, "ts": stamp}, ORACLE, "daily"))
    made = oracle.make_bars(rows, ORACLE, list(TIMEFRAMES))
    return {key: without_revision(bar) for key, bar in made.items()}


def scaled(days: pa.Table, splits: pa.Table) -> pa.Table:
    """Days as they read after all splits: by hand, row by row."""
    cuts = splits.to_pylist()
    rows = []
    for row in days.to_pylist():
        for cut in cuts:
            if cut["symbol"] == row["symbol"] and row["session"] < cut["execution_date"]:
                part = cut["split_from"] / cut["split_to"]
                row.update({name: row[name] * part for name in ("open", "high", "low", "close", "vwap")})
                row["volume"] /= part
        rows.append(row)
    return pa.Table.from_pylist(rows, days.schema)


def before(days: pa.Table, day: date) -> pa.Table:
    """The days up to one, included."""
    return days.filter(pc.less_equal(days["session"], day))


@dataclass(frozen=True)
class Behind:
    """What is wrong with a lake: where it ends, and what it lacks before."""

    last: date
    hole: tuple[date, ...]
    symbol: str
    alone: tuple[date, ...]
    corrected: str
    on: date
    old: str
    new: str
    renamed: date
    split: str
    cut: date


def make_behind(evening: Evening) -> Behind:
    """Leave the lake some sessions before the market's first rename and split of a symbol, with holes."""
    market = evening.market
    (rename,) = market.renames.to_pylist()
    cut = market.splits.to_pylist()[0]
    sessions = market.sessions
    at = min(sessions.index(rename["date"]), sessions.index(cut["execution_date"])) - 4
    days = before(evening.vendor.days(), sessions[at])
    taken = {rename["old_symbol"], rename["symbol"], cut["symbol"]}
    whole = [
        str(name)
        for name in days["symbol"].unique().to_pylist()
        if name not in taken and len(days.filter(pc.equal(days["symbol"], name))) == at + 1
    ]
    found = Behind(
        last=sessions[at],
        hole=tuple(sessions[at - 12 : at - 9]),
        symbol=whole[0],
        alone=tuple(sessions[at - 6 : at - 4]),
        corrected=whole[1],
        on=sessions[at - 2],
        old=rename["old_symbol"],
        new=rename["symbol"],
        renamed=rename["date"],
        split=cut["symbol"],
        cut=cut["execution_date"],
    )
    gone = pc.or_(
        pc.is_in(days["session"], value_set=pa.array(found.hole)),
        pc.and_(
            pc.equal(days["symbol"], found.symbol),
            pc.is_in(days["session"], value_set=pa.array(found.alone)),
        ),
    )
    days = days.filter(pc.invert(gone))
    wrong = pc.and_(pc.equal(days["symbol"], found.corrected), pc.equal(days["session"], found.on))
    close = pc.if_else(wrong, pc.add(days["low"], 0.001), days["close"])
    days = days.set_column(days.column_names.index("close"), "close", close)
    names = set(days["symbol"].unique().to_pylist())
    known = [
        {**row, "active": True, "delisted": None}
        for row in market.symbols.to_pylist()
        if row["symbol"] in names
    ]
    evening.behind(days, pa.Table.from_pylist(known, SYMBOLS.schema))
    return found
