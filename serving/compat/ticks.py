"""Trades that a stream archived in ``bronze.ticks``, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fibflow.io import tables
from fibflow.io.lake import Lake, TableMissing
from fibflow.io.live import TickReader
from fibflow.serving.problems import not_found
from fibflow.transforms.partials import as_arrow, numbers

_TRADE = "T"
_COLUMNS = (
    "ts",
    "seq",
    "price",
    "size",
    "conditions",
    "trade_id",
    "exchange",
    "tape",
    "correction",
    "arrived",
)
#: What the vendor calls the columns of a trade.
TRADE = {
    "conditions": "conditions",
    "correction": "correction",
    "exchange": "exchange",
    "trade_id": "id",
    "price": "price",
    "seq": "sequence_number",
    "sip": "sip_timestamp",
    "size": "size",
    "tape": "tape",
}
#: Where a trade lies in the order: (ts, seq, correction), UTC microseconds.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Trades:
    """Which trades of a symbol.

    Attributes:
        symbol: whose.
        start, end: those whose time lies in ``[start, end)``, UTC microseconds; None for no bound.
        limit: how many at most.
        descending: newest first.
        after: go on behind this one.
    """

    symbol: str
    start: int | None
    end: int | None
    limit: int
    descending: bool
    after: Place | None = None


@dataclass(frozen=True)
class Ticks:
    """Reads trades of a lake, each message once, also cancelled and corrected ones."""

    lake: Lake

    def trades(self, wanted: Trades) -> tuple[pa.Table, bool]:
        """Return trades in the order asked for, with the columns of ``TRADE``, and whether there are more.

        Raises:
            Problem: the lake holds no trades.
            LakeError: it cannot be read.
        """
        parts: list[pa.Table] = []
        count = 0
        for part in self._days(wanted):
            parts.append(part)
            count += len(part)
            if count > wanted.limit:
                break
        rows = pa.concat_tables(parts) if parts else tables.TICKS.schema.empty_table().select(list(_COLUMNS))
        return _named(rows.slice(0, wanted.limit)), count > wanted.limit

    def _days(self, wanted: Trades) -> Iterator[pa.Table]:
        """Yield the trades of one partition after the other, in the order asked for."""
        try:
            snapshot = self.lake.table(tables.TICKS).snapshot()
        except TableMissing:
            raise not_found("this lake holds no trades: pipelines.stream archives them") from None
        start, end = wanted.start, wanted.end
        if wanted.after is not None:
            if wanted.descending:
                end = wanted.after[0] + 1
            else:
                start = wanted.after[0]
        files = snapshot.select(wanted.symbol, start, end, {"kind": _TRADE})
        periods = sorted({str(file.partition["period"]) for file in files}, reverse=wanted.descending)
        reader = TickReader(self.lake)
        for period in periods:
            where = {"kind": _TRADE, "period": period}
            rows = reader.ticks(
                wanted.symbol, start, end, where=where, columns=_COLUMNS, as_of=snapshot.version
            )
            found = _ordered(rows, wanted.descending, wanted.after)
            if len(found):
                yield found


def _ordered(rows: pa.Table, descending: bool, after: Place | None) -> pa.Table:
    """Return the messages in order, of copies the one that came first, those behind a place."""
    ts, seq, arrived = (numbers(rows, name) for name in ("ts", "seq", "arrived"))
    code = _codes(rows)
    order = np.lexsort((arrived, code, seq, ts))
    keys = [key[order] for key in (ts, seq, code)]
    first = np.ones(len(order), np.bool_)
    first[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    if after is not None:
        first &= _behind(keys, after, descending)
    at = order[first]
    return rows.take(as_arrow(at[::-1] if descending else at))


def _codes(rows: pa.Table) -> Any:
    codes: Any = rows["correction"]
    return codes.fill_null(0).to_numpy()


def _behind(keys: Iterable[Any], after: Place, descending: bool) -> Any:
    ts, seq, code = keys
    ranks = [(ts, after[0]), (seq, after[1]), (code, after[2])]
    behind = np.zeros(len(ts), np.bool_)
    level = ~behind
    for key, bound in ranks:
        behind |= level & (key < bound if descending else key > bound)
        level &= key == bound
    return behind


def place_of(rows: pa.Table) -> Place:
    """Return where the last of some trades lies in the order."""
    last = rows.slice(len(rows) - 1)
    return int(numbers(last, "sip")[0]) // 1_000, int(numbers(last, "seq")[0]), int(_codes(last)[0])


def _named(rows: pa.Table) -> pa.Table:
    """Return the columns of ``TRADE``: times in ns, conditions as lists."""
    words: Any = rows["conditions"].combine_chunks().dictionary_encode()
    words = words.chunk(0) if isinstance(words, pa.ChunkedArray) else words
    lists = pa.array(
        [[int(code) for code in text.split(",")] if text else None for text in words.dictionary.to_pylist()],
        pa.list_(pa.int32()),
    )
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
    columns["conditions"] = lists.take(words.indices)
    columns["sip"] = as_arrow(numbers(rows, "ts") * 1_000)
    return pa.table({name: columns[name] for name in TRADE})
