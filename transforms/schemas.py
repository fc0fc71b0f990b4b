"""The Arrow schemas of everything that moves between Fibflow's rooms.

Units: instants are UTC microseconds, sessions are dates, prices are in the instrument's currency,
``volume`` is in shares. ``docs/data-model.md`` says what each column means.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
SYMBOL = pa.dictionary(pa.int32(), pa.string())

# Lists of fields of several types, whose common type is lost on the type checker.
_OHLCV: list[Any] = [
    pa.field("open", pa.float64()),
    pa.field("high", pa.float64()),
    pa.field("low", pa.float64()),
    pa.field("close", pa.float64()),
    pa.field("volume", pa.float64()),
    pa.field("vwap", pa.float64()),
    pa.field("trade_count", pa.int64()),
]

#: Rows as a raw file gives them, before validation: anything may be null or wrong.
RAW = pa.schema(
    [pa.field("symbol", SYMBOL), pa.field("ts", TIMESTAMP), *_OHLCV, pa.field("version", pa.int64())]
)

#: Validated daily rows in memory; ``session`` is a session of the calendar.
DAILY_ROWS = pa.schema([pa.field("symbol", SYMBOL), pa.field("session", pa.date32()), *_OHLCV])

#: Validated minute rows in memory; ``ts`` is the minute's start.
MINUTE_ROWS = pa.schema(
    [pa.field("symbol", SYMBOL), pa.field("ts", TIMESTAMP), *_OHLCV, pa.field("version", pa.int64())]
)

#: The table ``bronze.daily``. ``source`` is the ledger's id of the file, ``landed`` the number of the load
#: that last changed the row.
DAILY = pa.schema(
    [
        pa.field("symbol", pa.string()),
        pa.field("session", pa.date32()),
        *_OHLCV,
        pa.field("source", pa.int64()),
        pa.field("landed", pa.int32()),
        pa.field("period", pa.string()),
    ]
)

#: The table ``bronze.minutes``.
MINUTES = pa.schema(
    [
        pa.field("symbol", pa.string()),
        pa.field("ts", TIMESTAMP),
        *_OHLCV,
        pa.field("version", pa.int64()),
        pa.field("source", pa.int64()),
        pa.field("landed", pa.int32()),
        pa.field("period", pa.string()),
    ]
)

_LEDGER: list[Any] = [
    pa.field("source", pa.int64()),
    pa.field("table", pa.string()),
    pa.field("path", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("modified", TIMESTAMP),
    pa.field("is_daily_file", pa.bool_()),
    pa.field("rows", pa.int64()),
    pa.field("landed", pa.int32()),
]

#: The table ``bronze.ledger``: which version of which file was landed, by table.
LEDGER = pa.schema(_LEDGER)

#: Bars, as stored in ``silver.bars`` and as served. ``period`` is a partition of the table only.
BARS = pa.schema(
    [
        pa.field("symbol", pa.string()),
        pa.field("timeframe", pa.string()),
        pa.field("ts", TIMESTAMP),
        pa.field("end", TIMESTAMP),
        *_OHLCV,
        pa.field("sessions", pa.int32()),
        pa.field("complete", pa.bool_()),
        pa.field("final", pa.bool_()),
        pa.field("revision", pa.int32()),
    ]
)

#: Refused rows with their values, where they came from, and one reason. ``payload`` holds the bytes of a
#: message that could not be read.
DEAD_LETTERS = pa.schema(
    [
        pa.field("reason", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("symbol", pa.string()),
        pa.field("ts", TIMESTAMP),
        *_OHLCV,
        pa.field("payload", pa.binary()),
        pa.field("run", pa.string()),
    ]
)

_SYMBOLS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("name", pa.string()),
    pa.field("type", pa.string()),
    pa.field("exchange", pa.string()),
    pa.field("currency", pa.string()),
    pa.field("active", pa.bool_()),
    pa.field("listed", pa.date32()),
    pa.field("delisted", pa.date32()),
    pa.field("cik", pa.string()),
    pa.field("composite_figi", pa.string()),
    pa.field("share_class_figi", pa.string()),
    pa.field("description", pa.string()),
    pa.field("homepage", pa.string()),
    pa.field("updated", TIMESTAMP),
]

#: The table ``reference.symbols``: what is known of each symbol today; null for what is not. ``type`` is the
#: vendor's code, ``exchange`` an ISO 10383 code, ``currency`` in lower case. ``updated`` is when the row was
#: last changed, by the source where it says so.
SYMBOLS = pa.schema(_SYMBOLS)

_SPLITS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("execution_date", pa.date32()),
    pa.field("split_from", pa.float64()),
    pa.field("split_to", pa.float64()),
    pa.field("id", pa.string()),
]

#: The table ``reference.splits``: from ``execution_date`` on, ``split_to`` shares stand for ``split_from``
#: of before.
SPLITS = pa.schema(_SPLITS)

_DIVIDENDS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("ex_dividend_date", pa.date32()),
    pa.field("cash_amount", pa.float64()),
    pa.field("currency", pa.string()),
    pa.field("dividend_type", pa.string()),
    pa.field("frequency", pa.int32()),
    pa.field("declaration_date", pa.date32()),
    pa.field("record_date", pa.date32()),
    pa.field("pay_date", pa.date32()),
    pa.field("id", pa.string()),
]

#: The table ``reference.dividends``: cash a share, as declared. ``dividend_type`` is the vendor's code
#: (``CD``, ``SC``, ...), ``frequency`` how many a year; ``id`` tells those of one day apart, and is never
#: null.
DIVIDENDS = pa.schema(_DIVIDENDS)

_RENAMES: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("old_symbol", pa.string()),
    pa.field("date", pa.date32()),
    pa.field("composite_figi", pa.string()),
    pa.field("cik", pa.string()),
]

#: The table ``reference.renames``: from ``date`` on, what was ``old_symbol`` trades as ``symbol``.
RENAMES = pa.schema(_RENAMES)

_REFERENCE_CHANGES: list[Any] = [
    pa.field("table", pa.string()),
    pa.field("symbol", pa.string()),
    pa.field("key", pa.string()),
    pa.field("change", pa.string()),
    pa.field("field", pa.string()),
    pa.field("old", pa.string()),
    pa.field("new", pa.string()),
    pa.field("seen", TIMESTAMP),
    pa.field("run", pa.string()),
    pa.field("version", pa.int64()),
]

#: The table ``reference.changes``: what was ever changed in the other tables of reference data, a row a
#: field. ``key`` is what tells rows of one symbol apart, null for ``reference.symbols``; ``change`` is
#: ``new`` (one row, without field), ``changed``, ``gone`` (a row a value that was known) or ``unknown`` (the
#: versions up to ``version`` can no longer be read). ``old`` and ``new`` are texts. ``seen`` is when ``run``
#: committed it, as version ``version`` of ``table``.
REFERENCE_CHANGES = pa.schema(_REFERENCE_CHANGES)

_NEWS: list[Any] = [
    pa.field("id", pa.string()),
    pa.field("published", TIMESTAMP),
    pa.field("title", pa.string()),
    pa.field("publisher", pa.string()),
    pa.field("tickers", pa.string()),
    pa.field("article", pa.string()),
]
#: Articles as a source gives them, each id once. ``article`` is all of one, the vendor's JSON object without
#: nulls; the other columns are what is looked for. ``tickers`` are joined by commas, empty for none;
#: ``title`` and ``publisher`` (its name) are null where they are not told.
ARTICLES = pa.schema(_NEWS)

#: The table ``reference.news``: an article a row, as it was told last. ``seen`` is when it was stored first,
#: ``updated`` when it was last changed, each row's its own; ``revision`` counts its changes. ``period`` is
#: the month of ``published``, UTC.
NEWS = pa.schema(
    [
        *_NEWS,
        pa.field("revision", pa.int32()),
        pa.field("seen", TIMESTAMP),
        pa.field("updated", TIMESTAMP),
        pa.field("period", pa.string()),
    ]
)

_SIDES: list[Any] = [field.with_name(f"{side}_{field.name}") for field in _OHLCV for side in ("old", "new")]

#: The table ``reconciliation``: bars that official history changed, as readers saw them before and after.
#: ``session`` is the one in which the bar's window begins. All ``old_*`` are null where there was no bar,
#: all ``new_*`` where there is none now.
RECONCILIATION = pa.schema(
    [
        pa.field("run", pa.string()),
        pa.field("session", pa.date32()),
        pa.field("symbol", pa.string()),
        pa.field("timeframe", pa.string()),
        pa.field("ts", TIMESTAMP),
        pa.field("end", TIMESTAMP),
        pa.field("change", pa.string()),
        pa.field("why", pa.string()),
        *_SIDES,
    ]
)

#: Partial bars: what a fold of rows leaves, and what ``merge`` takes and gives. The sums are integers:
#: ``volume`` in 1e-6 share, notional in 1e-12 share x currency as ``notional_hi * 2**64 + notional_lo``
#: (``notional_lo`` unsigned). ``(open_ts, open_seq)`` and ``(close_ts, close_seq)`` order the inputs.
PARTIALS = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("ts", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("open", pa.float64()),
        pa.field("open_ts", pa.int64()),
        pa.field("open_seq", pa.int64()),
        pa.field("high", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("close_ts", pa.int64()),
        pa.field("close_seq", pa.int64()),
        pa.field("volume", pa.int64()),
        pa.field("notional_hi", pa.int64()),
        pa.field("notional_lo", pa.uint64()),
        pa.field("has_notional", pa.bool_()),
        pa.field("trade_count", pa.int64()),
        pa.field("has_trade_count", pa.bool_()),
        pa.field("sessions", pa.int32()),
    ]
)

_WORD = pa.dictionary(pa.int32(), pa.string())

#: Where a message of a stream lies: its identity. ``sequence`` is the record's number in its shard, decimal;
#: ``sub`` the place of the user record in an aggregated one; ``place`` that of the message in the payload.
ORIGIN: list[Any] = [
    pa.field("shard", _WORD),
    pa.field("sequence", _WORD),
    pa.field("sub", pa.int32()),
    pa.field("place", pa.int32()),
]
_ARRIVED = pa.field("arrived", TIMESTAMP)

#: Records as a stream's reader gives them: one user record a row, payload decompressed.
RECORDS = pa.schema(
    [
        pa.field("shard", _WORD),
        pa.field("sequence", pa.string()),
        pa.field("sub", pa.int32()),
        pa.field("arrived", TIMESTAMP),
        pa.field("key", pa.string()),
        pa.field("data", pa.binary()),
    ]
)

#: Trades as parsed. ``seq`` orders trades of one symbol and session; ``conditions`` are the codes as given,
#: joined by commas, empty for none.
TRADES = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("ts", TIMESTAMP),
        pa.field("seq", pa.int64()),
        pa.field("price", pa.float64()),
        pa.field("size", pa.float64()),
        pa.field("conditions", _WORD),
        pa.field("trade_id", pa.string()),
        pa.field("exchange", pa.int32()),
        pa.field("tape", pa.int32()),
        pa.field("correction", pa.int32()),
        *ORIGIN,
        _ARRIVED,
    ]
)

#: Aggregates of a minute or a second as parsed; ``ts`` is the start. ``version`` is the producer's stamp,
#: else the arrival time, UTC microseconds.
AGGREGATES = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("ts", TIMESTAMP),
        *_OHLCV,
        pa.field("version", pa.int64()),
        *ORIGIN,
        _ARRIVED,
    ]
)

_TICK: list[Any] = [
    pa.field("kind", pa.string()),
    pa.field("symbol", pa.string()),
    pa.field("ts", TIMESTAMP),
    pa.field("seq", pa.int64()),
]
_STORED_ORIGIN: list[Any] = [
    pa.field("shard", pa.string()),
    pa.field("sequence", pa.string()),
    pa.field("sub", pa.int32()),
    pa.field("place", pa.int32()),
]

#: The table ``bronze.ticks``: each message of the stream that could be read. ``kind`` is the feed's name of
#: it: ``T``, ``A`` or ``AM``. Its identity is (shard, sequence, sub, place).
TICKS = pa.schema(
    [
        *_TICK,
        pa.field("price", pa.float64()),
        pa.field("size", pa.float64()),
        pa.field("conditions", pa.string()),
        pa.field("trade_id", pa.string()),
        pa.field("exchange", pa.int32()),
        pa.field("tape", pa.int32()),
        pa.field("correction", pa.int32()),
        *_OHLCV,
        pa.field("version", pa.int64()),
        *_STORED_ORIGIN,
        _ARRIVED,
        pa.field("period", pa.string()),
    ]
)

#: The table ``late``: messages that came after their minute's horizon, by identity. ``horizon`` is the
#: watermark that the bucket had seen.
LATE = pa.schema([*_TICK, *_STORED_ORIGIN, pa.field("horizon", TIMESTAMP), pa.field("period", pa.string())])

#: What the kernel takes of trades. ``volume`` is in 1e-6 share; ``rules`` are bits of ``conditions.Rule``.
TRADE_INPUT = pa.schema(
    [
        pa.field("symbol", SYMBOL),
        pa.field("ts", TIMESTAMP),
        pa.field("seq", pa.int64()),
        pa.field("price", pa.float64()),
        pa.field("volume", pa.int64()),
        pa.field("rules", pa.uint8()),
        *ORIGIN,
    ]
)

#: What the kernel takes of minute aggregates: ``AGGREGATES`` without the arrival time.
MINUTE_INPUT = pa.schema([field for field in AGGREGATES if field.name != "arrived"])
