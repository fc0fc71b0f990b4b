"""The lake's tables: what each holds, how it is cut into partitions, and which names its properties have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.io.datafiles import TableSpec
from fibflow.transforms import schemas
from fibflow.transforms.timeframe import Timeframe

DAILY = TableSpec(
    "bronze.daily",
    schemas.DAILY,
    partition_by=("period",),
    sort_by=("symbol", "session"),
    key=("symbol", "session"),
    stats=("symbol", "session", "landed"),
    time="session",
)
MINUTES = TableSpec(
    "bronze.minutes",
    schemas.MINUTES,
    partition_by=("period",),
    sort_by=("symbol", "ts"),
    key=("symbol", "ts"),
    stats=("symbol", "ts", "landed"),
)
LEDGER = TableSpec(
    "bronze.ledger", schemas.LEDGER, sort_by=("path",), key=("source", "table"), stats=("path", "landed")
)
BARS = TableSpec(
    "silver.bars",
    pa.schema([*schemas.BARS, pa.field("period", pa.string())]),
    partition_by=("timeframe", "period"),
    sort_by=("symbol", "ts"),
    key=("symbol", "timeframe", "ts"),
    stats=("symbol", "ts", "end", "complete"),
    apart="complete",
)
TICKS = TableSpec(
    "bronze.ticks",
    schemas.TICKS,
    partition_by=("period",),
    sort_by=("symbol", "ts", "seq"),
    key=("shard", "sequence", "sub", "place"),
    stats=("kind", "symbol", "ts", "shard", "sequence"),
)
LIVE = TableSpec(
    "silver.live",
    pa.schema([*schemas.BARS, pa.field("period", pa.string())]),
    partition_by=("timeframe", "period"),
    sort_by=("symbol", "ts"),
    key=("symbol", "timeframe", "ts"),
    stats=("symbol", "ts", "end"),
)
LATE = TableSpec(
    "late",
    schemas.LATE,
    partition_by=("period",),
    sort_by=("symbol", "ts", "seq"),
    key=("shard", "sequence", "sub", "place"),
    stats=("kind", "symbol", "ts", "shard", "sequence"),
)
DEAD_LETTERS = TableSpec("dead_letters", schemas.DEAD_LETTERS, stats=("reason", "symbol", "ts", "run"))
RECONCILIATION = TableSpec(
    "reconciliation",
    schemas.RECONCILIATION,
    sort_by=("timeframe", "symbol", "ts"),
    key=("run", "symbol", "timeframe", "ts"),
    stats=("run", "session", "symbol", "timeframe", "ts", "why"),
    time="ts",
)
SYMBOLS = TableSpec(
    "reference.symbols",
    schemas.SYMBOLS,
    sort_by=("symbol",),
    key=("symbol",),
    stats=("symbol", "type", "exchange", "active"),
)
SPLITS = TableSpec(
    "reference.splits",
    schemas.SPLITS,
    sort_by=("symbol", "execution_date"),
    key=("symbol", "execution_date"),
    stats=("symbol", "execution_date"),
    time="execution_date",
)
DIVIDENDS = TableSpec(
    "reference.dividends",
    schemas.DIVIDENDS,
    sort_by=("symbol", "ex_dividend_date", "id"),
    key=("symbol", "ex_dividend_date", "id"),
    stats=("symbol", "ex_dividend_date"),
    time="ex_dividend_date",
)
RENAMES = TableSpec(
    "reference.renames",
    schemas.RENAMES,
    sort_by=("symbol", "date"),
    key=("symbol", "date"),
    stats=("symbol", "old_symbol", "date"),
    time="date",
)
REFERENCE_CHANGES = TableSpec(
    "reference.changes",
    schemas.REFERENCE_CHANGES,
    sort_by=("table", "symbol", "key"),
    stats=("table", "symbol", "seen", "run"),
    time="seen",
)
NEWS = TableSpec(
    "reference.news",
    schemas.NEWS,
    partition_by=("period",),
    sort_by=("published", "id"),
    key=("id",),
    stats=("published", "updated"),
    time="published",
    # Few are read, and each takes a kilobyte or two.
    group_rows=64,
    plain_strings=True,
)

TABLES = {
    spec.name: spec
    for spec in (
        DAILY,
        MINUTES,
        LEDGER,
        BARS,
        TICKS,
        LIVE,
        LATE,
        DEAD_LETTERS,
        RECONCILIATION,
        SYMBOLS,
        SPLITS,
        DIVIDENDS,
        RENAMES,
        REFERENCE_CHANGES,
        NEWS,
    )
}

# Properties of a table, as its metadata has them.
CALENDAR = "fibflow.calendar"
CALENDAR_HASHES = "fibflow.calendar_hashes"
#: Of ``silver.bars`` only: of intraday bars, which are made apart from those of days.
INTRADAY_CALENDAR_HASHES = "fibflow.intraday_calendar_hashes"
ANCHOR = "fibflow.anchor"
INTRADAY_ANCHOR = "fibflow.intraday_anchor"
PRICE_BASIS = "fibflow.price_basis"
#: Of ``silver.bars``, with a timeframe behind it: the stretches in which readers ask it alone (``coverage``).
COVERED = "fibflow.covered"
#: Likewise: those whose bars were made of ``bronze.ticks``.
OF_TICKS = "fibflow.of_ticks"
#: Of ``silver.live``: which messages its bars are made of, ``trades`` or ``minutes``.
BARS_FROM = "fibflow.bars_from"

PRICE_BASES = ("raw", "split-adjusted")
ALL_TIME = "all"


@dataclass(frozen=True)
class Period:
    """How long a partition of a timeframe is: long enough that 500 bars lie in a handful of files.

    ``unit`` is ``M`` (a month), ``Q`` (a quarter), ``Y`` (a year) or ``all``.
    """

    unit: str

    @classmethod
    def of(cls, timeframe: Timeframe) -> Period:
        """Return the period of a timeframe's partitions."""
        if not timeframe.is_intraday:
            return cls(ALL_TIME)
        if timeframe.minutes < 15:
            return cls("M")
        return cls("Q") if timeframe.minutes < 60 else cls("Y")

    def names(self, days: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the name of each date's period: ``2024-03``, ``2024-Q1`` or ``2024``.

        Dates are days since 1970; shape (n,) in and out.
        """
        if self.unit == ALL_TIME:
            return np.full(len(days), ALL_TIME)
        months = days.astype("datetime64[D]").astype("datetime64[M]")
        if self.unit == "M":
            return np.datetime_as_string(months)
        years = np.datetime_as_string(months.astype("datetime64[Y]"))
        if self.unit == "Y":
            return years
        quarter = (months.astype(np.int64) % 12 // 3 + 1).astype("U1")
        return np.char.add(np.char.add(years, "-Q"), quarter)


#: Partitions of ``bronze.daily`` and ``bronze.minutes``, by session, and of ``reference.news``.
DAILY_PERIOD = Period("Y")
MINUTES_PERIOD = Period("M")
NEWS_PERIOD = Period("M")


def split_by(names: npt.NDArray[Any]) -> Iterable[tuple[str, npt.NDArray[np.bool_] | None]]:
    """Yield each distinct name with the mask of its rows; None for the mask where there is one name only."""
    found = np.unique(names)
    if len(found) == 1:
        yield str(found[0]), None
        return
    for name in found:
        yield str(name), names == name
