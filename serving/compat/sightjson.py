"""Sights as the vendor's JSON, of whole columns: an array of both kinds of snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.serving.compat.sights import Part, Sights
from fibflow.serving.live.fragments import objects
from fibflow.transforms.partials import as_arrow, numbers

_NS_A_US = 1_000
_PRICES = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "vwap": "vw"}
_BAR = {**_PRICES, "final": "final", "revision": "rev"}
_MINUTE = {**_BAR, "ts": "t", "trade_count": "n", "av": "av"}
_TRADE = {"price": "p", "size": "s", "ns": "t", "source": "source", "kind": "kind"}
_LONG = {name: name for name in ("open", "high", "low", "close", "volume")}
_LONG_MINUTE = {**_LONG, "vwap": "vwap", "trade_count": "transactions", "ns": "last_updated"}
_LONG_TRADE = {"price": "price", "size": "size", "ns": "sip_timestamp", "source": "source", "kind": "kind"}


def snapshots(sights: Sights) -> bytes:
    """Return the snapshots of tickers."""
    return _array(_snapshots(sights))


def snapshot(sights: Sights) -> bytes:
    """Return the snapshot of the first ticker."""
    return str(_snapshots(sights)[0]).encode()


def _snapshots(sights: Sights) -> Any:
    head = _columns(
        ticker=pa.array(sights.symbols, pa.string()),
        todaysChange=as_arrow(sights.change),
        todaysChangePerc=as_arrow(sights.change_percent),
        updated=as_arrow(sights.updated * _NS_A_US),
    )
    return _whole(
        head,
        day=(sights.day, _BAR),
        prevDay=(sights.previous, _BAR),
        min=(_with(sights.minute, "av", sights.day.doubles("volume")), _MINUTE),
        lastTrade=(_with_ns(sights.price, "ts"), _TRADE),
    )


def universal(
    sights: Sights, wanted: Sequence[str], names: Mapping[str, str | None], market_status: str
) -> bytes:
    """Return the universal snapshots of tickers; one that is not known is told in its place.

    Args:
        sights: of those that are known.
        wanted: the tickers, in order.
        names: of the companies.
        market_status: the vendor's word.
    """
    count = len(sights.symbols)
    head = _columns(
        ticker=pa.array(sights.symbols, pa.string()),
        type=pa.array(["stocks"] * count),
        market_status=pa.array([market_status] * count),
        name=pa.array([names.get(symbol) for symbol in sights.symbols], pa.string()),
    )
    day, session = sights.day, dict(_LONG)
    for name, values in (
        ("price", sights.price.doubles("price")),
        ("change", sights.change),
        ("change_percent", sights.change_percent),
        ("previous_close", sights.previous.doubles("close")),
    ):
        day, session[name] = _with(day, name, values), name
    made: list[str] = _whole(
        head,
        session=(day, session),
        last_trade=(_with_ns(sights.price, "ts"), _LONG_TRADE),
        last_minute=(_with_ns(sights.minute, "end"), _LONG_MINUTE),
    ).to_pylist()
    found = dict(zip(sights.symbols, made, strict=True))
    return ("[" + ",".join(found.get(name) or _missing(name) for name in wanted) + "]").encode()


def _missing(name: str) -> str:
    return orjson.dumps({"ticker": name, "error": "NOT_FOUND", "message": "Ticker not found."}).decode()


def _columns(**columns: Any) -> pa.Table:
    return pa.table(columns)


def _with(part: Part, name: str, values: Any) -> Part:
    """Return bars with one more column, of values by ticker."""
    column = np.full(len(part.rows), np.nan)
    column[part.at[part.held]] = values[part.held]
    return Part(part.rows.append_column(name, as_arrow(column)), part.at)


def _with_ns(part: Part, name: str) -> Part:
    """Return rows with an instant in nanoseconds."""
    return Part(part.rows.append_column("ns", as_arrow(numbers(part.rows, name) * _NS_A_US)), part.at)


def _whole(head: pa.Table, **parts: tuple[Part, Mapping[str, str]]) -> Any:
    """Return JSON objects of the columns of ``head``, and of objects that those have which have the part."""
    texts = objects(head, {name: name for name in head.column_names})
    if not len(texts):
        return texts
    joined = [pc.utf8_slice_codeunits(texts, 0, -1)]
    for name, (part, members) in parts.items():
        rows = part.rows.take(as_arrow(part.at[part.held]))
        place = np.where(part.held, np.cumsum(part.held) - 1, 0)
        inner = objects(rows, members).take(as_arrow(place, mask=~part.held))
        joined.append(pc.fill_null(pc.binary_join_element_wise(f',"{name}":', inner, ""), ""))
    return pc.binary_join_element_wise(*joined, "}", "")


def _array(texts: Any) -> bytes:
    return ("[" + ",".join(texts.to_pylist()) + "]").encode()
