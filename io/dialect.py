"""What raw files call their columns, and what they must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.convert import Column, to_utc_us
from fibflow.io.files import InputError, RawFile

Kind = Literal["daily", "minutes"]

#: The names under which a column is looked for, first one first, in any case.
ALIASES = {
    "symbol": ("symbol", "ticker", "sym"),
    "ts": ("timestamp", "timestamp_1", "ts", "window_start", "date", "t"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "v"),
    "vwap": ("vwap", "vw"),
    "trade_count": ("trade_count", "transactions", "n"),
    "version": ("version",),
}
OPTIONAL = ("vwap", "trade_count", "version")
#: What a column ``interval`` may say in files of a kind.
INTERVALS = {"daily": {"1d", "1D", "1day", "day"}, "minutes": {"1m", "1min", "1minute", "minute"}}


class Layout(NamedTuple):
    """Where a file's schema keeps the canonical columns.

    Attributes:
        sources: The file's name of each canonical column that it has.
        spare_times: Its other columns that may hold a time, best first.
        interval: Its name of the column ``interval``.
        leaves: Index of each flat column in the Parquet footer.
    """

    sources: dict[str, str]
    spare_times: tuple[str, ...]
    interval: str | None
    leaves: dict[str, int]


def lay_out(names: Sequence[str], file: RawFile, leaves: dict[str, int]) -> Layout:
    """Find the canonical columns among a file's; of two names, the exact case and then the first one wins."""
    folded: dict[str, str] = {}
    for name in names:
        key = name.strip().lower()
        if key not in folded or name == key:
            folded[key] = name
    found = {
        name: [folded[alias] for alias in aliases if alias in folded] for name, aliases in ALIASES.items()
    }
    interval = folded.get("interval")
    used = [source for sources in found.values() for source in sources]
    for name in (*used, interval) if interval else used:
        if names.count(name) > 1:
            raise InputError(f"{file.path}: {names.count(name)} columns are named {name}; keep one of them")
    sources = {name: sources[0] for name, sources in found.items() if sources}
    return Layout(sources, tuple(found["ts"][1:]), interval, leaves)


def check_complete(layout: Layout, names: Sequence[str], file: RawFile, wanted: Sequence[str]) -> None:
    """Check that a file has every column that is wanted and not optional.

    Raises:
        InputError: It lacks one.
    """
    for name in wanted:
        if name in layout.sources or name in OPTIONAL or (name == "symbol" and file.symbol is not None):
            continue
        hint = ", nor is a folder symbol=X in its path" if name == "symbol" else ""
        raise InputError(
            f"{file.path}: no column for {name} ({' or '.join(ALIASES[name])}){hint}; "
            f"the file has {', '.join(names)}"
        )


def fill_times(times: Column, spare: Column) -> Column:
    """Take the times that are missing (older files' are) from another column, if it holds times."""
    if not times.null_count:
        return times
    try:
        return pc.if_else(times.is_null(), to_utc_us(spare), to_utc_us(times))
    except (pa.ArrowException, TypeError):
        return times


def check_symbol(file: RawFile, found: set[str]) -> None:
    """Check a file's symbols against that of its folder.

    Raises:
        InputError: They contradict.
    """
    if others := found - {file.symbol}:
        raise InputError(
            f"{file.path}: the path says symbol {file.symbol}, its rows say {_some(others)}; "
            "correct one of them"
        )


def check_interval(file: RawFile, kind: Kind, found: set[str]) -> None:
    """Check the intervals that a file's rows name.

    Raises:
        InputError: Some are not those of its kind.
    """
    right = found & INTERVALS[kind]
    if not found - right:
        return
    if right:
        raise InputError(f"{file.path}: the file mixes intervals ({_some(found)}); split it by interval")
    raise InputError(
        f"{file.path}: the rows' interval is {_some(found)}, and {kind} rows are {min(INTERVALS[kind])}; "
        "load it as what it is"
    )


def _some(values: set[str]) -> str:
    return ", ".join(sorted(values)[:3]) + (", ..." if len(values) > 3 else "")


def compact(column: Any) -> Column:
    """Return a column's only chunk, or the column."""
    return column.chunk(0) if column.num_chunks == 1 else column


def texts_of(column: Column) -> set[str]:
    """Return a column's distinct values as text, without null."""
    return {text_of(value) for value in column.unique().to_pylist() if value is not None}


def text_of(value: Any) -> str:
    """Return a value of a footer or of Python as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
