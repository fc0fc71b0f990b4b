"""The feed of changes: every version of every alert, in the order of its revision, for the job."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv

from fibflow.io.postgresql.session import Connection, told
from fibflow.transforms.alerts.barbook import BAR_CHANGES
from fibflow.transforms.alerts.definition import FREQUENCIES, OPERATORS, REFERENCES
from fibflow.transforms.alerts.schema import ALWAYS, CHANGES, NEVER, Operator, Reference
from fibflow.transforms.timeframe import Timeframe

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: Rows of a page.
MOST = 200_000
_MICROS = 1_000_000
#: In the place of an operator's name where an alert waits for nothing.
_ENDED = "ended"
_WORDS = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[str, Any] = {
    "symbol": _WORDS,
    "alert": pa.int64(),
    "version": pa.int32(),
    "revision": pa.int64(),
    "operator": _WORDS,
    "value": pa.float64(),
    "reference": _WORDS,
    "reference_price": pa.float64(),
    "extended": pa.bool_(),
    "frequency": _WORDS,
    "span": _WORDS,
    "cooldown": pa.int64(),
    "rearm": pa.float64(),
    "since": pa.int64(),
    "until": pa.int64(),
    "basis": pa.int32(),
    "fired": pa.int64(),
    "of_bars": pa.bool_(),
    "condition": pa.string(),
}
_READ = pacsv.ConvertOptions(
    column_types=_TYPES, null_values=[""], true_values=["t"], false_values=["f"], strings_can_be_null=False
)
_SELECTED = f"""
SELECT symbol, id AS alert, version, revision,
    CASE state WHEN 'active' THEN operator ELSE '{_ENDED}' END AS operator, value, reference, reference_price,
    hours = 'extended' AS extended, frequency, timeframe AS span, cooldown_s::bigint * {_MICROS} AS cooldown,
    rearm, since, (extract(epoch FROM expires) * {_MICROS})::bigint AS until,
    basis - date '1970-01-01' AS basis, fired, bars IS NOT NULL AS of_bars,
    CASE state WHEN 'active' THEN bars END AS condition
"""
# Each part along its index on the revision.
_PAGE = f"""
COPY (
    (
        {_SELECTED} FROM alerts
        WHERE revision > %(after)s AND (revision > %(top)s OR state = 'active')
        ORDER BY revision LIMIT %(most)s
    ) UNION ALL (
        {_SELECTED} FROM alert_changes
        WHERE revision > %(after)s AND (revision > %(top)s OR state = 'active' AND replaced > %(top)s)
        ORDER BY revision LIMIT %(most)s
    )
    ORDER BY revision LIMIT %(most)s
) TO STDOUT (FORMAT csv, HEADER)
"""


class Page(NamedTuple):
    """What a look at the feed gives.

    Attributes:
        prices: changes of alerts on prices, a table of ``CHANGES``, by revision.
        bars: of alerts on bars, of ``BAR_CHANGES``.
        last: the revision to go on from.
        more: the page is full; there may be more already.
    """

    prices: pa.Table
    bars: pa.Table
    last: int
    more: bool


def last_revision(connection: Connection) -> int:
    """Return the revision of the last change that is committed; 0 for none.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    with told(), connection.cursor() as cursor:
        cursor.execute("SELECT revision FROM alert_feed")
        return int(cursor.fetchone()[0])


def read_changes(connection: Connection, after: int, most: int = MOST, top: int | None = None) -> Page:
    """Return the next changes of all alerts, by revision, and the revision to go on from.

    Every version is a change, also one that another has replaced since. Deleted, paused and fired ones have
    the operator ``ENDED``, or no condition. Nothing is lost between pages, whoever writes meanwhile.

    A reader that has nothing yet begins with ``after`` 0, and is given the versions in force now only. Where
    that takes several pages, it asks for ``last_revision`` first and gives it as ``top`` with each of them:
    up to there what is not active or was replaced before is left out; all later changes are given.

    Args:
        connection: of psycopg2; a transaction is begun on it, and not ended, unless it commits by itself.
        after: the revision that the last page gave; 0 for the beginning.
        most: at most so many changes, of both kinds together.
        top: up to which revision the reader loads; None: 0 where ``after`` is above 0, else
            ``last_revision``.

    Raises:
        PostgresError: PostgreSQL does not answer, or refuses.
    """
    if top is None:
        top = 0 if after else last_revision(connection)
    copied = io.BytesIO()
    with told(), connection.cursor() as cursor:
        cursor.copy_expert(cursor.mogrify(_PAGE, {"after": after, "most": most, "top": top}), copied)
    copied.seek(0)
    read = pacsv.read_csv(copied, convert_options=_READ).unify_dictionaries().combine_chunks()
    last = int(read["revision"][-1].as_py()) if len(read) else after
    more = len(read) == most
    of_bars = read["of_bars"]
    prices, bars = _changes(read.filter(pc.invert(of_bars))), _bar_changes(read.filter(of_bars))
    # All up to ``top`` was committed before this page was asked for.
    return Page(prices, bars, last if more else max(last, top), more)


def _changes(read: pa.Table) -> pa.Table:
    """Return what PostgreSQL copied of alerts on prices in our types."""
    columns: dict[str, Any] = {name: read[name] for name in CHANGES.names}
    operators = {_ENDED: Operator.ENDED, "": Operator.ENDED, **OPERATORS}
    references = {"": Reference.NONE, **REFERENCES}
    for name, codes in (("operator", operators), ("reference", references), ("frequency", FREQUENCIES)):
        columns[name] = _coded(read[name], lambda word, codes=codes: codes[word])
    columns["span"] = _coded(read["span"], lambda word: Timeframe.parse(word).minutes if word else 0)
    columns["reference_price"] = pc.fill_null(read["reference_price"], np.nan)
    _fill_instants(columns)
    return pa.table(columns).cast(CHANGES)


def _bar_changes(read: pa.Table) -> pa.Table:
    """Return what PostgreSQL copied of alerts on bars in our types."""
    columns: dict[str, Any] = {name: read[name] for name in BAR_CHANGES.names}
    columns["frequency"] = _coded(read["frequency"], lambda word: FREQUENCIES[word])
    ended: Any = pc.equal(read["condition"], "")
    columns["condition"] = pc.if_else(ended, pa.scalar(None, pa.string()), read["condition"])
    _fill_instants(columns)
    return pa.table(columns).cast(BAR_CHANGES)


def _fill_instants(columns: dict[str, Any]) -> None:
    columns["until"] = pc.fill_null(columns["until"], ALWAYS)
    columns["fired"] = pc.fill_null(columns["fired"], NEVER)


def _coded(words: Any, code: Any) -> Any:
    """Return the code of each word."""
    if not len(words):
        return pa.array([], pa.int64())
    words = words.chunk(0)
    codes = pa.array([int(code(word)) for word in words.dictionary.to_pylist()], pa.int64())
    return codes.take(words.indices)
