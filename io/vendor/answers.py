"""The vendor's JSON as Arrow tables.

What does not read as it should is an attempt that failed, never an answer without data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.vendor.errors import NoAccess, Passing
from fibflow.transforms.schemas import TIMESTAMP

_OHLCV: list[Any] = [
    pa.field("open", pa.float64()),
    pa.field("high", pa.float64()),
    pa.field("low", pa.float64()),
    pa.field("close", pa.float64()),
    pa.field("volume", pa.float64()),
    pa.field("vwap", pa.float64()),
    pa.field("trade_count", pa.int64()),
]

#: Bars as the vendor gives them: ``ts`` is its stamp. Volumes may have fractions.
BARS = pa.schema([pa.field("symbol", pa.string()), pa.field("ts", TIMESTAMP), *_OHLCV])

_TICKERS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("name", pa.string()),
    pa.field("type", pa.string()),
    pa.field("exchange", pa.string()),
    pa.field("currency", pa.string()),
    pa.field("active", pa.bool_()),
    pa.field("listed", pa.string()),
    pa.field("delisted", pa.string()),
    pa.field("cik", pa.string()),
    pa.field("composite_figi", pa.string()),
    pa.field("share_class_figi", pa.string()),
    pa.field("description", pa.string()),
    pa.field("homepage", pa.string()),
    pa.field("updated", pa.string()),
]
#: Symbols as the vendor gives them: dates and times are its texts. Lists leave ``listed``, ``description``
#: and ``homepage`` null.
TICKERS = pa.schema(_TICKERS)

_SPLITS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("execution_date", pa.string()),
    pa.field("split_from", pa.float64()),
    pa.field("split_to", pa.float64()),
    pa.field("id", pa.string()),
]
#: Splits as the vendor gives them.
SPLITS = pa.schema(_SPLITS)

_DIVIDENDS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("ex_dividend_date", pa.string()),
    pa.field("cash_amount", pa.float64()),
    pa.field("currency", pa.string()),
    pa.field("declaration_date", pa.string()),
    pa.field("record_date", pa.string()),
    pa.field("pay_date", pa.string()),
    pa.field("frequency", pa.int64()),
    pa.field("dividend_type", pa.string()),
    pa.field("id", pa.string()),
]
#: Dividends as the vendor gives them.
DIVIDENDS = pa.schema(_DIVIDENDS)

_EVENTS: list[Any] = [pa.field("symbol", pa.string()), pa.field("date", pa.string())]
#: The names of a company's share: from ``date`` on it was ``symbol``.
EVENTS = pa.schema(_EVENTS)

_TRADES: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("ts", pa.int64()),
    pa.field("seq", pa.int64()),
    pa.field("price", pa.float64()),
    pa.field("size", pa.float64()),
    pa.field("conditions", pa.list_(pa.int64())),
    pa.field("trade_id", pa.string()),
    pa.field("exchange", pa.int64()),
    pa.field("tape", pa.int64()),
    pa.field("correction", pa.int64()),
]
#: Trades as the vendor gives them: ``ts`` is when the tape published one, without its nanoseconds.
TRADES = pa.schema([field if field.name != "ts" else pa.field("ts", TIMESTAMP) for field in _TRADES])

#: The vendor's names of columns, where they are not ours.
BAR_NAMES = {
    "symbol": "T",
    "ts": "t",
    "open": "o",
    "high": "h",
    "low": "l",
    "close": "c",
    "volume": "v",
    "vwap": "vw",
    "trade_count": "n",
}
TICKER_NAMES = {
    "symbol": "ticker",
    "exchange": "primary_exchange",
    "currency": "currency_name",
    "listed": "list_date",
    "delisted": "delisted_utc",
    "homepage": "homepage_url",
    "updated": "last_updated_utc",
}
TRADE_NAMES = {"ts": "sip_timestamp", "seq": "sequence_number", "trade_id": "id"}
OTHER_NAMES = {"symbol": "ticker"}

_GOOD = ("OK", "DELAYED")


def parsed(data: bytes) -> Any:
    """Return the JSON of an answer.

    Raises:
        Passing: it is none.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Passing("answered with text that is no JSON", reached=True) from None


def told(data: bytes) -> str:
    """Return what an answer that is no success says, one line, or nothing; all of it, the key too."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ""
    said = (body.get("error") or body.get("message")) if isinstance(body, dict) else None
    return " ".join(said.split()) if isinstance(said, str) else ""


def results(body: Any) -> list[Any]:
    """Return the results of an answer; none where it says that there are none.

    Raises:
        Passing: it does not read as an answer, or holds fewer results than it says.
        NoAccess: it says that the plan does not include them.
    """
    if not isinstance(body, dict):
        raise Passing("answered with JSON of another form", reached=True)
    status = body.get("status", "OK")
    if status == "NOT_AUTHORIZED":
        raise NoAccess(str(body.get("message") or body.get("error") or status))
    if status not in _GOOD:
        raise Passing(f"answered with the status {status}", reached=True)
    found = body.get("results", [])
    if not isinstance(found, list) or not all(type(item) is dict for item in found):
        raise Passing("answered with results that are no list of objects", reached=True)
    said = body.get("resultsCount")
    if isinstance(said, int) and said != len(found):
        raise Passing(f"answered with {len(found)} results and says {said}", reached=True)
    return found


def table(found: Sequence[Mapping[str, Any]], schema: pa.Schema, names: Mapping[str, str]) -> pa.Table:
    """Return objects as a table; what an object lacks is null, and what it has besides is left out.

    Args:
        found: the objects.
        schema: the table's.
        names: the vendor's name of a column, where it is not the table's.

    Raises:
        Passing: a value has another type than its column.
    """
    given = pa.schema([pa.field(names.get(field.name, field.name), _given(field)) for field in schema])
    try:
        raw = pa.Table.from_pylist(list(found), given)
        return pa.table(
            [
                _instants(column) if field.type == TIMESTAMP else column
                for column, field in zip(raw.columns, schema, strict=True)
            ],
            schema=schema,
        )
    except (pa.ArrowException, TypeError, OverflowError):
        raise Passing("answered with values of other types than its own", reached=True) from None


def bars(body: Any, symbol: str | None) -> pa.Table:
    """Return the bars of an answer, BARS.

    Args:
        body: the answer's JSON.
        symbol: the one that was asked for; None where each bar names its own.

    Raises:
        Passing, NoAccess: it is no answer to that.
    """
    found = results(body)
    if body.get("adjusted") is True:
        raise Passing("answered with adjusted prices, and was asked for raw ones", reached=True)
    if symbol is not None and body.get("ticker", symbol) != symbol:
        raise Passing("answered with bars of another symbol", reached=True)
    rows = table(found, BARS, BAR_NAMES)
    if symbol is not None:
        rows = rows.set_column(0, BARS.field("symbol"), pa.array([symbol] * len(rows), pa.string()))
    if rows["symbol"].null_count or rows["ts"].null_count:
        raise Passing("answered with bars that have no symbol, or no time", reached=True)
    return rows


def trades(body: Any, symbol: str) -> pa.Table:
    """Return the trades of an answer, TRADES.

    Args:
        body: the answer's JSON.
        symbol: the one that was asked for.

    Raises:
        Passing, NoAccess: it is no answer to that.
    """
    rows = table(results(body), pa.schema(_TRADES), TRADE_NAMES)
    if rows["ts"].null_count or rows["seq"].null_count:
        raise Passing("answered with trades that have no time, or no number", reached=True)
    symbols = pa.array([symbol] * len(rows), pa.string())
    micros: Any = pc.divide(rows["ts"], pa.scalar(1000, pa.int64())).cast(TIMESTAMP)
    return pa.table([symbols, micros, *rows.columns[2:]], schema=TRADES)


def _given(field: Any) -> pa.DataType:
    return pa.int64() if field.type == TIMESTAMP else field.type


def _instants(milliseconds: Any) -> Any:
    """Return epoch milliseconds as instants."""
    thousand: Any = pa.scalar(1000, pa.int64())
    return pc.multiply_checked(milliseconds, thousand).cast(TIMESTAMP)
