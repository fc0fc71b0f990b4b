"""JSON of bars that lie in records: most questions come to that, and a table takes three times as long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from fibflow.serving.formats import Texts, number_texts, put_together
from fibflow.serving.history.records import SYMBOL, SymbolRows

_FLAGS = np.array([b"false", b"true"], object)


def json_records(rows: SymbolRows, names: Mapping[str, str], drop_nulls: bool = False) -> bytes:
    """Write rows as a JSON array of objects: the bytes that ``formats.json_rows`` gives for their table.

    Args:
        rows: at least one.
        names: column to member; those that are named, in this order. Columns of dates are not among them.
        drop_nulls: leave out members that are null.
    """
    texts: dict[str, Texts] = {}
    holes: dict[str, Any] = {}
    doubles: dict[str, Any] = {}
    integers: dict[str, Any] = {}
    for name in names:
        if name == SYMBOL:
            texts[name] = orjson.dumps(rows.symbol)
            continue
        kind, values, missing = rows.layout.kinds[name], rows.records[name], rows.missing(name)
        holes[name] = missing
        if missing is not None and missing.all():
            texts[name] = b"null"
        elif pa.types.is_floating(kind):
            doubles[name] = values if missing is None else np.where(missing, np.nan, values)
        elif pa.types.is_boolean(kind):
            texts[name] = _flags(values, missing)
        else:
            values = _milliseconds(values, kind) if pa.types.is_timestamp(kind) else values.astype(np.int64)
            if missing is None and (values == values[0]).all():
                texts[name] = b"%d" % int(values[0])
            else:
                integers[name] = values
    texts |= zip(doubles, number_texts(list(doubles.values())), strict=True)
    for name, column in zip(integers, number_texts(list(integers.values())), strict=True):
        texts[name] = _with_nulls(column, holes[name])
    members = [(orjson.dumps(member), texts[name]) for name, member in names.items()]
    return put_together(members, len(rows), 0 if drop_nulls else None)


def _flags(values: Any, missing: Any) -> Texts:
    if missing is None and (values == values[0]).all():
        return bytes(_FLAGS[values[0]])
    return _with_nulls(_FLAGS[values].tolist(), missing)


def _milliseconds(values: Any, kind: Any) -> Any:
    per = {"s": 1, "ms": 1, "us": 1_000, "ns": 1_000_000}[kind.unit]
    return np.floor_divide(values, per) * (1_000 if kind.unit == "s" else 1)


def _with_nulls(texts: list[bytes], missing: Any) -> list[bytes]:
    if missing is None:
        return texts
    return [b"null" if absent else text for text, absent in zip(texts, missing.tolist(), strict=True)]
