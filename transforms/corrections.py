"""Cancels and corrections of trades: what batch applies, and a live bar does not.

The codes are those of the US tapes, as the vendor gives them in ``correction``. ``docs/data-model.md``, Live
input, says what each of them does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import pvalue

from fibflow.transforms import tickrows
from fibflow.transforms.aggregate import DEAD_LETTERS as LETTERS_TAG
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow, encode_symbols, numbers
from fibflow.transforms.schemas import DEAD_LETTERS, TRADE_INPUT
from fibflow.transforms.ticks import repeats

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

#: Reasons of dead letters: a trade that was cancelled or corrected, and the message that says so.
CANCELLED = "cancelled"
CORRECTED = "corrected"

#: An original that was corrected later: its correction may come or not.
MARKED = 1
CORRECTION = 12
#: Marked erroneous, marked cancelled; the cancel, the error record.
CANCELS = (7, 8, 10, 11)
_SPECIAL = (MARKED, *CANCELS, CORRECTION)

#: ``TRADE_INPUT`` with what names a trade, and what a message does to it.
CORRECTABLE = pa.schema(
    [
        *TRADE_INPUT,
        pa.field("trade_id", pa.string()),
        pa.field("exchange", pa.int32()),
        pa.field("correction", pa.int32()),
    ]
)
_VALUES = ("price", "volume", "rules")


def apply_corrections(rows: pa.Table, calendar: TradingCalendar) -> tuple[pa.Table, pa.Table]:
    """Return the trades that count, and the messages that do not.

    A trade is named by (symbol, session, exchange, trade id). A cancel takes out the trade that it names,
    whichever comes first. A correction gives its price, size and conditions to the trade that it names, which
    keeps its time and sequence number; of several the one that lies last in the stream counts. One that names
    no known trade is itself the trade. Messages of one (symbol, session, seq) and code are copies of the
    first.

    Args:
        rows: of CORRECTABLE, in any order; whole (symbol, session)s.
        calendar: says which session a trade is of.

    Returns:
        A table of TRADE_INPUT, in any order; and one of DEAD_LETTERS with the reasons ``cancelled`` and
        ``corrected``: originals with the values that they came with, and the messages that changed them.
    """
    codes = tickrows.optional(rows, "correction", 0)
    special = np.isin(codes, _SPECIAL)
    plain = rows.select(TRADE_INPUT.names)
    if not special.any():
        return plain, DEAD_LETTERS.empty_table()
    symbols, symbol = encode_symbols(rows["symbol"])
    concerned = np.zeros(len(symbols), np.bool_)
    concerned[symbol[special]] = True
    mine = concerned[symbol]
    at = np.flatnonzero(mine)
    at = at[np.lexsort(tickrows.identity(rows.take(as_arrow(at))))]
    kept, source, letters = _judge(
        rows.take(as_arrow(at)), symbol[at], np.where(special, codes, 0)[at], calendar
    )
    trades = plain.take(as_arrow(at[kept]))
    for name in _VALUES:
        place = trades.schema.get_field_index(name)
        values: Any = plain[name].take(as_arrow(at[source[kept]]))
        trades = trades.set_column(place, trades.schema.field(place), values)
    return pa.concat_tables([plain.filter(as_arrow(~mine)), trades]), letters


def _judge(
    rows: pa.Table, symbol: npt.NDArray[Any], code: npt.NDArray[Any], calendar: TradingCalendar
) -> tuple[Int64, Int64, pa.Table]:
    """Judge messages in the order of the stream.

    Returns:
        The places of those that count; for each message, the place of the one whose values count for it; and
        dead letters.
    """
    n = len(rows)
    session = calendar.positions_at(tickrows.minutes_of(numbers(rows, "ts")))
    seq = numbers(rows, "seq")
    # Stable: of copies the first in the stream comes first.
    order = np.lexsort((code, seq, session, symbol))
    copies = np.zeros(n, np.bool_)
    copies[order] = repeats(*(key[order] for key in (symbol, session, seq, code)))
    at = np.flatnonzero(~copies)
    keys = (symbol[at], session[at], tickrows.optional(rows, "exchange", -1)[at], _trades(rows)[at])
    order = np.lexsort(keys[::-1])
    at = at[order]
    begins = ~repeats(*(key[order] for key in keys))
    starts, group = np.flatnonzero(begins), np.cumsum(begins) - 1
    own = code[at]

    def first(which: Bool) -> Int64:
        return np.minimum.reduceat(np.where(which, at, n), starts)

    cancelled = np.logical_or.reduceat(np.isin(own, CANCELS), starts)
    touched = np.logical_or.reduceat(own != 0, starts)
    correction = np.maximum.reduceat(np.where(own == CORRECTION, at, -1), starts)
    original, earliest = first((own == 0) | (own == MARKED)), first(own == CORRECTION)
    trade = np.where(original < n, original, earliest)
    counts = ~touched[group] | (~cancelled[group] & (at == trade[group]))
    source = np.arange(n)
    replaced = ~cancelled & (correction >= 0)
    source[trade[replaced]] = correction[replaced]
    stale = trade[replaced & (trade != correction)]
    letters = [
        tickrows.dead_letters(rows.take(as_arrow(np.sort(places))), reason)
        for reason, places in (
            (CANCELLED, at[~counts & cancelled[group]]),
            (CORRECTED, np.concatenate((at[~counts & ~cancelled[group]], stale))),
        )
    ]
    return np.sort(at[counts]), source, pa.concat_tables(letters)


def _trades(rows: pa.Table) -> Int64:
    """Return a number for each trade id, and one of its own for each message without; shape (n,)."""
    column: Any = rows["trade_id"].cast(pa.string())
    names, codes = encode_symbols(column.fill_null(""))
    known: Any = names.to_pylist()
    unnamed = codes == known.index("") if "" in known else np.zeros(len(codes), np.bool_)
    return np.where(unnamed, len(known) + np.arange(len(codes)), codes)


@beam.typehints.with_input_types(pa.Table)
@beam.typehints.with_output_types(pa.Table)
class ApplyCorrections(beam.DoFn):
    """``apply_corrections`` on tables of whole (symbol, session)s; minute rows pass as they are."""

    def __init__(self, calendar: TradingCalendar) -> None:
        self._calendar = calendar

    def process(self, element: pa.Table) -> Iterator[pa.Table | pvalue.TaggedOutput]:
        """Yield the trades that count, and dead letters under the tag that ``AggregateBars`` has for them."""
        if not tickrows.is_trades(element):
            yield element
            return
        trades, letters = apply_corrections(element, self._calendar)
        if len(trades):
            yield trades
        if len(letters):
            yield pvalue.TaggedOutput(LETTERS_TAG, letters)
