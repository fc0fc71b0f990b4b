"""Prices out of trades or aggregates, as alerts see them; and tables of alerts on their way to buckets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fibflow.transforms import tickrows
from fibflow.transforms.alerts.schema import PRICES
from fibflow.transforms.buckets import bucket_of
from fibflow.transforms.calendar import NO_SESSION, TradingCalendar
from fibflow.transforms.conditions import Rule
from fibflow.transforms.partials import as_arrow, numbers

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

_bucket_of = lru_cache(maxsize=1 << 16)(bucket_of)


def of_trades(trades: pa.Table, calendar: TradingCalendar) -> pa.Table:
    """Return the prices of the trades that may move a last price, in the order in which they came.

    Args:
        trades: of ``schemas.TRADE_INPUT``, in any order.
        calendar: says which minutes are regular hours; in others the rule outside them counts.

    Returns:
        A table of ``PRICES``.
    """
    ts = numbers(trades, "ts")
    regular = _is_regular(ts, calendar)
    rules = numbers(trades, "rules")
    inside, outside = int(Rule.OPEN_CLOSE), int(Rule.OPEN_CLOSE.extended)
    moves = (rules & np.where(regular, inside, outside)) != 0
    found = _prices(trades["symbol"], ts, numbers(trades, "seq"), trades["price"], regular)
    return found if moves.all() else found.filter(as_arrow(moves))


def of_aggregates(aggregates: pa.Table, span_us: int, calendar: TradingCalendar) -> pa.Table:
    """Return the closes of aggregates at their last microsecond, in the order in which they came.

    All versions of one aggregate are one price: a corrected one comes too late to be held against anything.

    Args:
        aggregates: of ``schemas.AGGREGATES`` or ``schemas.MINUTE_INPUT``, in any order.
        span_us: how long an aggregate is, microseconds.
        calendar: says which minutes are regular hours.

    Returns:
        A table of ``PRICES``.
    """
    ts = numbers(aggregates, "ts")
    seq = np.zeros(len(ts), np.int64)
    regular = _is_regular(ts, calendar)
    return _prices(aggregates["symbol"], ts + (span_us - 1), seq, aggregates["close"], regular)


def _prices(symbol: Any, ts: Int64, seq: Int64, price: Any, regular: Bool) -> pa.Table:
    columns = [symbol, as_arrow(ts), as_arrow(seq), price, as_arrow(regular)]
    return pa.Table.from_arrays(columns, schema=PRICES)


def _is_regular(ts: Int64, calendar: TradingCalendar) -> Bool:
    """Return whether the minute of each instant begins in regular hours."""
    minute = tickrows.minutes_of(ts)
    session = calendar.positions_at(minute)
    inside = (minute >= calendar.opens[session]) & (minute < calendar.closes[session])
    return inside & (session != NO_SESSION)


def split_alerts(rows: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (bucket, rows): a symbol's rows stand together in the order they had, words are those in use.

    Args:
        rows: CHANGES, FACTS or PRICES; what they are stays in the schema's metadata.
        buckets: how many there are.
    """
    if not len(rows):
        return
    words, codes = tickrows.words(rows, "symbol")
    present = np.zeros(len(words), np.bool_)
    present[codes] = True
    used = np.flatnonzero(present)
    names: list[Any] = words.take(as_arrow(used)).to_pylist()
    of_name = np.array([_bucket_of(name, buckets) for name in names], np.int64)
    by_bucket = np.argsort(of_name, kind="stable")
    rank = np.zeros(len(words), np.int64)
    rank[used[by_bucket]] = np.arange(len(used))
    places = rank[codes]
    # NumPy sorts small integers by radix.
    small = places.astype(np.uint16) if len(used) <= np.iinfo(np.uint16).max else places
    order = np.argsort(small, kind="stable")
    others = rows.drop_columns(["symbol"]).combine_chunks().take(as_arrow(order))
    local = places[order].astype(np.int32)
    sorted_words = words.take(as_arrow(used[by_bucket]))
    ordered = of_name[by_bucket]
    stops = np.append(np.flatnonzero(np.diff(ordered)) + 1, len(ordered)).tolist()
    first_word = 0
    first_row = 0
    for stop in stops:
        stop_row = int(np.searchsorted(local, stop))
        codes_of_own = as_arrow(local[first_row:stop_row] - np.int32(first_word))
        own_words = sorted_words.slice(first_word, stop - first_word)
        symbol = pa.DictionaryArray.from_arrays(codes_of_own, own_words)
        own = others.slice(first_row, stop_row - first_row)
        columns = [symbol if name == "symbol" else own[name] for name in rows.column_names]
        yield int(ordered[first_word]), pa.Table.from_arrays(columns, schema=rows.schema)
        first_word, first_row = stop, stop_row
