"""Are the answers right? A fast wrong one must not win: rows and sums against the catalogue. Pure."""

from __future__ import annotations

import io
import math
import zlib
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.ipc
import pyarrow.parquet as pq

from fibflow.benchmarks.serving import questions
from fibflow.benchmarks.serving.lakes import DAILY
from fibflow.benchmarks.serving.questions import Question

_DAY_MS = 86_400_000
_GZIP = 31
_CLOSE = 1e-9


def wrong(question: Question, coding: str, body: bytes) -> str | None:
    """Return what is wrong with an answer of status 200, one line; None for nothing.

    Args:
        question: that was asked.
        coding: of the body.
        body: as it came.
    """
    try:
        plain = zlib.decompress(body, _GZIP) if coding == "gzip" else body
        if question.kind == questions.EXPORT:
            return _export(question, plain)
        return _document(question, orjson.loads(plain))
    except (KeyError, TypeError, IndexError, ValueError, zlib.error, pa.ArrowException) as error:
        return f"{question.kind}: it cannot be read: {type(error).__name__} {error}"[:200]


def _document(question: Question, found: Any) -> str | None:
    name = question.symbols[0]
    if question.kind == questions.PRICE_OWN:
        return _differs(question, found["symbol"] == name and found["price"] == question.total)
    if question.kind == questions.PRICE_COMPATIBLE:
        last = found["results"]
        return _differs(question, last["T"] == name and last["p"] == question.total)
    if question.kind == questions.BARS_OWN:
        rows = found["bars"]
        same = found["timeframe"] == question.timeframe and found["count"] == len(rows)
        same = same and all(row["symbol"] == name for row in rows)
        ts, close = "ts", "close"
    else:
        rows = found["results"]
        same = found["ticker"] == name and found["resultsCount"] == len(rows)
        ts, close = "t", "c"
    instants = np.array([row[ts] for row in rows])
    total = math.fsum(row[close] for row in rows)
    if question.rows is None:
        return _differs(question, same and bool((np.diff(instants) < 0).all()))
    # Where a day begins is the calendar's matter: its date is the catalogue's.
    last = int(instants[0]) // _DAY_MS * _DAY_MS if question.timeframe == DAILY else int(instants[0])
    same = same and len(rows) == question.rows and last == question.last_ts
    same = same and bool((np.diff(instants) < 0).all())
    return _differs(question, same and math.isclose(total, question.total, rel_tol=_CLOSE))


def _export(question: Question, body: bytes) -> str | None:
    source = io.BytesIO(body)
    if question.form == "parquet":
        table = pq.read_table(source)
    elif question.form == "arrow":
        table = pa.ipc.open_stream(source).read_all()
    else:
        table = pacsv.read_csv(source)
    symbols: Any = pc.unique(table["symbol"].cast(pa.string()))
    total: Any = pc.sum(table["close"])
    same = len(table) == question.rows and sorted(symbols.to_pylist()) == list(question.symbols)
    return _differs(question, same and math.isclose(total.as_py(), question.total, rel_tol=_CLOSE))


def _differs(question: Question, same: bool) -> str | None:
    return None if same else f"{question.kind}: not what the lake holds: {question.target[:100]}"
