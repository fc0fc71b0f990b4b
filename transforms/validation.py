"""Which rows may enter a bar, and the one reason for each that may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.schemas import DAILY_ROWS, DEAD_LETTERS, MINUTE_ROWS, TIMESTAMP

MAX_VOLUME = 1e11
#: A greater one would not fit in 64 bits of 1e-6 currency.
MAX_VWAP = 1e12
PRICES = ("open", "high", "low", "close")
Bool = npt.NDArray[np.bool_]


class Names(Protocol):
    """Names of files by rank: a sequence, or what looks them up."""

    def __getitem__(self, rank: int, /) -> str:
        """Return the name of the file with a rank."""
        ...


@dataclass(frozen=True)
class Validated:
    """What validation leaves: ``rows`` (DAILY_ROWS or MINUTE_ROWS) and ``rejected`` (DEAD_LETTERS)."""

    rows: pa.Table
    rejected: pa.Table


def validate_daily(raw: pa.Table, calendar: TradingCalendar, origins: Names) -> Validated:
    """Split RAW rows into daily rows of the calendar's sessions and refused ones.

    Args:
        raw: ``vwap`` and ``trade_count`` may be missing; a column ``rank`` is kept.
        calendar: says which dates are sessions.
        origins: the files' names by rank; one name where there is no ``rank``.
    """
    days = calendar.session_days(_stamps(raw))
    accepted, rejected = _split(raw, calendar.positions(days) != NO_SESSION, origins)
    if accepted is not None:
        days, raw = days[accepted], raw.filter(pa.array(accepted))
    sessions = pa.array(days.astype(np.int32)).view(pa.date32())
    raw = raw.set_column(raw.schema.get_field_index("ts"), "session", sessions)
    return Validated(_clean_optional(_select(raw, DAILY_ROWS)), rejected)


def validate_minutes(raw: pa.Table, calendar: TradingCalendar, origins: Names) -> Validated:
    """Split RAW rows into minute rows within the calendar's sessions' days and refused ones.

    Arguments as ``validate_daily``; a stamp within a minute is that minute.
    """
    stamps = _stamps(raw)
    accepted, rejected = _split(raw, calendar.positions_at(stamps) != NO_SESSION, origins)
    if accepted is not None:
        raw, stamps = raw.filter(pa.array(accepted)), stamps[accepted]
    minutes = pa.array(stamps - np.mod(stamps, 60_000_000)).view(TIMESTAMP)
    raw = raw.set_column(raw.schema.get_field_index("ts"), "ts", minutes)
    return Validated(_clean_optional(_select(raw, MINUTE_ROWS)), rejected)


def _select(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of ``schema`` that are there, in its order, and ``rank``."""
    return rows.select([name for name in (*schema.names, "rank") if name in rows.column_names])


def _stamps(raw: pa.Table) -> npt.NDArray[np.int64]:
    """Return the stamps as UTC microseconds; 0 for null, which is refused by its null."""
    column = raw["ts"]
    if column.null_count:
        zero: Any = pa.scalar(0, column.type)
        column = pc.fill_null(column, zero)
    return column.combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)


def _values(raw: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """Return a column with NaN for null."""
    return raw[name].to_numpy()


def _split(raw: pa.Table, in_session: Bool, origins: Names) -> tuple[Bool | None, pa.Table]:
    """Return the mask of rows to keep (None: all) and the refused rows with their reasons."""
    opens, highs, lows, closes = (_values(raw, name) for name in PRICES)
    volumes = _values(raw, "volume")
    # One chain of comparisons answers for nearly every file; a NaN compares false and so falls through.
    good = (lows > 0) & (lows <= opens) & (lows <= closes) & (highs >= opens) & (highs >= closes)
    good &= (highs < np.inf) & (volumes >= 0) & (volumes <= MAX_VOLUME) & in_session
    if raw["ts"].null_count:
        good &= raw["ts"].is_valid().to_numpy()
    chunks: list[Any] = raw["symbol"].chunks
    if raw["symbol"].null_count or any("" in chunk.dictionary.to_pylist() for chunk in chunks):
        good &= ~_unnamed(raw)
    if good.all():
        return None, DEAD_LETTERS.empty_table()
    bad = raw.filter(pa.array(~good))
    return good, dead_letters(bad, reasons(bad, in_session[~good]), origins)


def _unnamed(rows: pa.Table) -> Bool:
    """Return where the symbol is null or empty."""
    empty: Any = pa.scalar("")
    return pc.equal(pc.fill_null(rows["symbol"].cast(pa.string()), empty), empty).to_numpy()


def reasons(bad: pa.Table, in_session: Bool) -> pa.Array:
    """Return the first reason that applies to each refused row (``docs/data-model.md``), shape (n,)."""
    prices = np.stack([_values(bad, name) for name in PRICES])
    opens, highs, lows, closes = prices
    volumes = _values(bad, "volume")
    rules = (
        ("null_symbol", _unnamed(bad)),
        ("null_time", bad["ts"].is_null().to_numpy()),
        ("null_price", ~np.isfinite(prices).all(axis=0)),
        ("non_positive_price", (prices <= 0).any(axis=0)),
        ("high_low_mismatch", (highs < np.maximum(opens, closes)) | (lows > np.minimum(opens, closes))),
        ("null_volume", ~np.isfinite(volumes)),
        ("negative_volume", volumes < 0),
        ("volume_out_of_range", volumes > MAX_VOLUME),
        ("not_a_session", ~in_session),
    )
    chosen = np.select([mask for _, mask in rules], range(len(rules)), len(rules))
    names = [name for name, _ in rules]
    return pa.DictionaryArray.from_arrays(pa.array(chosen, pa.int32()), names).cast(pa.string())


def dead_letters(rows: pa.Table, reason: pa.Array | str, origins: Names) -> pa.Table:
    """Return refused rows in the form of the table ``dead_letters``; the run's id is null.

    Args:
        rows: ``symbol``, ``ts`` or ``session``, the values (optional ones may be missing), and ``rank``
            or none.
        reason: one for all, or one a row.
        origins: as in ``validate_daily``.
    """
    n = len(rows)
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
    columns["reason"] = pa.repeat(pa.scalar(reason), n) if isinstance(reason, str) else reason
    columns["symbol"] = rows["symbol"].cast(pa.string())
    if "session" in columns:
        columns["ts"] = rows["session"].cast(pa.timestamp("us")).cast(TIMESTAMP)
    rank = rows["rank"].to_numpy() if "rank" in columns else np.zeros(n, np.int32)
    found, place = np.unique(rank, return_inverse=True)
    names = [origins[number] for number in found.tolist()]
    place = place.astype(np.int32)
    columns["origin"] = pa.DictionaryArray.from_arrays(as_arrow(place), pa.array(names, pa.string()))
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in DEAD_LETTERS
    ]
    return pa.Table.from_arrays(arrays, schema=DEAD_LETTERS)


def _clean_optional(rows: pa.Table) -> pa.Table:
    """Read a vwap that is no positive number below ``MAX_VWAP``, and a negative trade count, as null."""
    for name in ("vwap", "trade_count"):
        if name not in rows.column_names:
            continue
        column: Any = rows[name]
        usable = pc.greater_equal(column, pa.scalar(0))
        if name == "vwap":
            usable = pc.and_(pc.greater(column, pa.scalar(0.0)), pc.less(column, pa.scalar(MAX_VWAP)))
        if not pc.all(usable, skip_nulls=True, min_count=0).as_py():
            cleaned = pc.if_else(usable, column, pa.scalar(None, column.type))
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), cleaned)
    return rows
