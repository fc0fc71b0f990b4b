"""What other databases call the columns of our tables, and their rows in our types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import dialect, referencefiles
from fibflow.io.convert import to_double, to_int, to_utc_us
from fibflow.io.files import InputError
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.schemas import RAW, TIMESTAMP
from fibflow.transforms.timeframe import Timeframe, TimeframeError
from fibflow.transforms.validation import validate_daily, validate_minutes

RAW_OHLCV, SYMBOLS, WATERMARKS = "raw_ohlcv", "symbol_metadata", "data_ingestion_watermark"
_UPDATED = ("updated", "updated_at", "last_updated", "last_updated_utc", "modified_at")
#: The names under which a column is looked for, by table: first one first, in any case.
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    RAW_OHLCV: {
        "symbol": (*dialect.ALIASES["symbol"], "symbol_id", "stock_symbol"),
        "ts": (*dialect.ALIASES["ts"], "time", "datetime", "trade_date", "bar_time", "start_time"),
        "interval": ("interval", "timeframe", "resolution", "bar_interval", "interval_type", "granularity"),
        "open": (*dialect.ALIASES["open"], "open_price"),
        "high": (*dialect.ALIASES["high"], "high_price"),
        "low": (*dialect.ALIASES["low"], "low_price"),
        "close": (*dialect.ALIASES["close"], "close_price"),
        "volume": (*dialect.ALIASES["volume"], "vol", "trade_volume"),
        "vwap": (*dialect.ALIASES["vwap"], "volume_weighted_average_price"),
        "trade_count": (*dialect.ALIASES["trade_count"], "trades", "num_trades", "number_of_trades"),
    },
    SYMBOLS: {
        **referencefiles.SYMBOL_NAMES,
        "type": (*referencefiles.SYMBOL_NAMES["type"], "ticker_type", "instrument_type"),
        "exchange": (*referencefiles.SYMBOL_NAMES["exchange"], "exchange_code", "listing_exchange"),
        "updated": _UPDATED,
    },
    WATERMARKS: {
        "job": (
            "job",
            "job_name",
            "source",
            "data_source",
            "pipeline",
            "pipeline_name",
            "process",
            "table_name",
        ),
        "key": ("key", "symbol", "ticker", "partition", "partition_key"),
        "interval": ("interval", "timeframe", "interval_type"),
        "watermark": (
            *("watermark", "watermark_ts", "watermark_timestamp", "watermark_value", "high_watermark"),
            *(
                "last_timestamp",
                "last_ingested_timestamp",
                "last_ingested_at",
                "last_ingested",
                "latest_timestamp",
            ),
            *("last_ingestion_date", "last_ingested_date", "last_processed_timestamp", "last_processed"),
            *("latest_date", "last_date", "max_timestamp", "max_date"),
        ),
        "run": ("run", "run_id", "batch_id", "job_run_id"),
        "updated": _UPDATED,
    },
}
_NEEDED = {
    RAW_OHLCV: ("symbol", "ts", "open", "high", "low", "close", "volume"),
    SYMBOLS: ("symbol",),
    WATERMARKS: ("watermark",),
}
#: The job of watermarks that name none.
PREDECESSOR = "predecessor"
_WORDS = {"daily": "1d", "hourly": "1h"}
_UNITS = r"\s*(\d*)\s*(m|mins?|minutes?|h|hrs?|hours?|d|days?)\s*"
_SHOWN = 60


@dataclass(frozen=True)
class Mapped:
    """How a table's columns become ours.

    Attributes:
        sources: the column of each of ours that is there.
        spare_times: more columns that may hold a bar's time, where its first one is empty.
        unknown: the columns that none of ours takes.
    """

    sources: Mapping[str, str]
    spare_times: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def read(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys([*self.sources.values(), *self.spare_times]))


def mapped(table: str, columns: Sequence[str], place: str, given: Mapping[str, str] | None = None) -> Mapped:
    """Find our columns among another table's; of two names the exact case, and then the first one, wins.

    Args:
        table: our name of it.
        columns: its own.
        place: what it is, for messages.
        given: which of its columns is to be taken for some of ours.

    Raises:
        InputError: a column that is needed, or given, is not there, or there twice.
    """
    folded: dict[str, str] = {}
    for name in columns:
        key = name.strip().lower()
        if key not in folded or name == key:
            folded[key] = name
    told = f"{place} has {', '.join(columns)}"
    found: dict[str, list[str]] = {}
    for ours, aliases in ALIASES[table].items():
        if given and ours in given:
            if given[ours] not in columns:
                raise InputError(f"there is no column {given[ours]}, named for {ours}: {told}")
            found[ours] = [given[ours]]
        else:
            taken = set((given or {}).values())
            found[ours] = [folded[a] for a in aliases if a in folded and folded[a] not in taken]
    for ours in _NEEDED[table]:
        if not found[ours]:
            raise InputError(
                f"{place}: no column for {ours} ({' or '.join(ALIASES[table][ours])}): {told}; name it with "
                f"--column {table}.{ours}=NAME"
            )
    sources = {ours: names[0] for ours, names in found.items() if names}
    spare = tuple(found["ts"][1:]) if table == RAW_OHLCV else ()
    used = {*sources.values(), *spare}
    for name in used:
        if columns.count(name) > 1:
            raise InputError(f"{place}: {columns.count(name)} columns are named {name}; keep one of them")
    return Mapped(sources, spare, tuple(name for name in columns if name not in used))


def raw_rows(rows: pa.Table, columns: Mapped, place: str) -> pa.Table:
    """Return rows of bars with the columns of ``RAW``, and ``interval`` where they have it; unvalidated.

    Raises:
        InputError: a column is of a type that cannot be read.
    """
    made: dict[str, Any] = {}
    for field in RAW:
        source = columns.sources.get(field.name)
        if source is None:
            made[field.name] = pa.nulls(len(rows), field.type)
            continue
        made[field.name] = _read(rows[source], field.type, place, source)
    for spare in columns.spare_times:
        made["ts"] = dialect.fill_times(made["ts"], rows[spare])
    table = pa.table(made, schema=RAW)
    if "interval" in columns.sources:
        table = table.append_column("interval", _text(rows[columns.sources["interval"]]))
    return table


def _read(column: Any, kind: pa.DataType, place: str, name: str) -> Any:
    try:
        if kind == TIMESTAMP:
            return to_utc_us(column)
        if kind == pa.float64():
            return to_double(column)
        if kind == pa.int64():
            return to_int(column)
        text = pc.utf8_trim_whitespace(_text(column))
        return text.combine_chunks().dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else text
    except (TypeError, pa.ArrowException) as error:
        raise InputError(f"{place}: column {name} cannot be read: {str(error).splitlines()[0]}") from error


def _text(column: Any) -> Any:
    kind = column.type
    return column.cast(kind.value_type if pa.types.is_dictionary(kind) else pa.string()).cast(pa.string())


def interval_of(name: str | None) -> str | None:
    """Return the canonical name of an interval, None where it has none: ``1D`` and ``1 day`` are ``1d``.

    A capital M alone is a month elsewhere, and none here.
    """
    text = (name or "").strip()
    found = re.fullmatch(_UNITS, _WORDS.get(text.lower(), text.lower()))
    if found is None or text.endswith("M"):
        return None
    try:
        return Timeframe.parse(f"{found[1] or 1}{found[2][0]}").name
    except TimeframeError:
        return None


def bars_of(raw: pa.Table, interval: str, calendar: TradingCalendar, place: str) -> tuple[pa.Table, pa.Table]:
    """Return the bars among RAW rows, with the start of each as ``ts``, and the refused ones (DEAD_LETTERS).

    A bar of days is stamped as ours are: with the start of its session's day.
    """
    if Timeframe.parse(interval).is_intraday:
        checked = validate_minutes(raw, calendar, [place])
        return checked.rows, checked.rejected
    checked = validate_daily(raw, calendar, [place])
    positions = calendar.positions(checked.rows["session"].cast(pa.int32()).to_numpy())
    assert (positions != NO_SESSION).all()
    starts: npt.NDArray[np.int64] = calendar.day_starts[positions]
    ts: Any = pa.array(starts).cast(TIMESTAMP)
    return checked.rows.drop_columns(["session"]).append_column("ts", ts), checked.rejected


def symbol_rows(rows: pa.Table, columns: Mapped, place: str) -> pa.Table:
    """Return rows of symbols with those columns of ``schemas.SYMBOLS`` that they have, each symbol once.

    Raises:
        InputError: a value cannot be read; says where.
    """
    named = pa.table({ours: rows[source] for ours, source in columns.sources.items()})
    return referencefiles.symbols_of(named, place).rows


def watermark_rows(rows: pa.Table, columns: Mapped, place: str) -> pa.Table:
    """Return ``job``, ``key``, ``watermark``, ``run`` and ``updated`` of rows of watermarks.

    A key is a symbol, with its interval behind a slash where there is one; a job that is not named is
    ``PREDECESSOR``.
    """
    count = len(rows)

    def text(name: str) -> Any:
        return _text(rows[columns.sources[name]]) if name in columns.sources else pa.nulls(count, pa.string())

    def time(name: str) -> Any:
        if name not in columns.sources:
            return pa.nulls(count).cast(TIMESTAMP)
        return _read(rows[columns.sources[name]], TIMESTAMP, place, columns.sources[name])

    key, interval = pc.fill_null(text("key"), ""), text("interval")
    if "interval" in columns.sources:
        key = pc.if_else(
            interval.is_null(), key, pc.binary_join_element_wise(key, pc.fill_null(interval, ""), "/")
        )
    job = pc.fill_null(text("job"), PREDECESSOR)
    return pa.table(
        {
            "job": job,
            "key": key,
            "watermark": time("watermark"),
            "run": text("run"),
            "updated": time("updated"),
        }
    )
