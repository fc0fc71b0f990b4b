"""The predecessor's tables into ours: ``symbol_metadata``, ``raw_ohlcv`` and ``data_ingestion_watermark``.

What is imported counts as known since 1970: what was written by others stays. A second run does nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import psycopg2.extras
import pyarrow as pa
import pyarrow.compute

from fibflow.io.files import InputError
from fibflow.io.postgresql.columns import (
    ALIASES,
    RAW_OHLCV,
    SYMBOLS,
    WATERMARKS,
    Mapped,
    bars_of,
    interval_of,
    mapped,
    raw_rows,
    symbol_rows,
    watermark_rows,
)
from fibflow.io.postgresql.dumps import Dump
from fibflow.io.postgresql.ohlcv import declare_basis, upsert_ohlcv
from fibflow.io.postgresql.session import Connection, retried
from fibflow.io.postgresql.symbols import upsert_symbols
from fibflow.io.postgresql.upserts import Upserted
from fibflow.transforms.calendar import TradingCalendar

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

__all__ = ["TABLES", "Imported", "Terms", "import_table", "plan"]

#: What can be imported, in the order in which it is.
TABLES = (SYMBOLS, RAW_OHLCV, WATERMARKS)
_KNOWN = datetime(1970, 1, 1, tzinfo=UTC)
#: Rows of bars that are written at once.
_ROWS = 500_000
_MARKS = """
INSERT INTO data_ingestion_watermark AS stored (job, key, watermark, run, updated) VALUES %s
ON CONFLICT (job, key) DO UPDATE SET watermark = excluded.watermark, position = NULL, run = excluded.run,
    updated = excluded.updated
WHERE stored.watermark < excluded.watermark
RETURNING job, key
"""
_MARK = "(%s, %s, %s, %s, coalesce(%s, now()))"


@dataclass(frozen=True)
class Terms:
    """What the import of bars has to be told.

    Attributes:
        calendar: of their sessions.
        price_basis: ``raw`` or ``split-adjusted``.
        interval: of tables that have no column for it; None where they have one.
    """

    calendar: TradingCalendar
    price_basis: str
    interval: str | None = None


@dataclass
class Imported:
    """What became of a table.

    Attributes:
        read: its rows.
        rows: what they did to ours.
        refused: rows that were not taken, by reason.
    """

    read: int = 0
    rows: Upserted = field(default_factory=Upserted)
    refused: Counter[str] = field(default_factory=Counter)


def plan(
    found: Mapping[str, Sequence[Dump]], given: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, list[tuple[Dump, Mapped]]]:
    """Return how the columns of each table that was found become ours; reads no rows.

    Args:
        found: of ``dumps``.
        given: by table, which column is to be taken for one of ours.

    Raises:
        InputError: there is no table, or it lacks a column; or ``given`` names none of ours.
    """
    if not found:
        raise InputError(
            f"none of {', '.join(TABLES)} is there: name the place, --schema or --table NAME=THEIRS"
        )
    for table, columns in (given or {}).items():
        for ours in columns:
            if ours not in ALIASES.get(table, {}):
                raise InputError(
                    f"{table} has no column {ours} here: it has {', '.join(ALIASES.get(table, ()))}"
                )
    return {
        table: [
            (dump, mapped(table, dump.columns, dump.place, (given or {}).get(table))) for dump in found[table]
        ]
        for table in TABLES
        if table in found
    }


def import_table(
    url: str,
    table: str,
    sources: Sequence[tuple[Dump, Mapped]],
    run: str,
    terms: Terms | None = None,
    part: Callable[[int], None] | None = None,
) -> Imported:
    """Import one table.

    Args:
        url: ``postgresql://user@host/database``, migrated.
        table: our name of it.
        sources: its dumps, with their columns.
        run: the run's id.
        terms: for ``raw_ohlcv``.
        part: told of rows read.

    Raises:
        InputError: something cannot be read. What was written stays; run again.
        PostgresError: one of the databases does not answer or refuses, or ours holds another price basis.
    """
    done = Imported()
    tell = part or (lambda _: None)
    if table == RAW_OHLCV:
        if terms is None:
            raise ValueError("bars have no terms")
        _import_bars(url, sources, terms, done, tell)
        return done
    for dump, columns in sources:
        parts = list(dump.read(columns.read))
        if not parts:
            continue
        rows = pa.concat_tables(parts, promote_options="permissive")
        done.read += len(rows)
        tell(len(rows))
        if table == SYMBOLS:
            named = symbol_rows(rows, columns, dump.place)
            done.refused["repeated"] += len(rows) - len(named)
            done.rows += upsert_symbols(url, named, run=run, known=_KNOWN)
        else:
            _import_marks(url, watermark_rows(rows, columns, dump.place), run, done)
    return done


def _import_bars(
    url: str,
    sources: Sequence[tuple[Dump, Mapped]],
    terms: Terms,
    done: Imported,
    tell: Callable[[int], None],
) -> None:
    for dump, columns in sources:
        if "interval" not in columns.sources and terms.interval is None:
            raise InputError(
                f"{dump.place} has no column for the interval: say --interval 1d, or what it holds"
            )
    declare_basis(url, terms.price_basis)
    for dump, columns in sources:
        held: dict[str, list[pa.Table]] = {}
        waiting = 0
        # Where something fails, the reading of the other database ends before its connection does.
        with closing(dump.read(columns.read)) as parts:
            for part in parts:
                done.read += len(part)
                tell(len(part))
                raw = raw_rows(part, columns, dump.place)
                for interval, bars in _sorted_out(raw, terms, dump.place, done):
                    held.setdefault(interval, []).append(bars)
                    waiting += len(bars)
                if waiting >= _ROWS:
                    _write(url, held, done)
                    waiting = 0
        _write(url, held, done)


def _write(url: str, held: dict[str, list[pa.Table]], done: Imported) -> None:
    for interval, parts in sorted(held.items()):
        rows = pa.concat_tables([part.unify_dictionaries() for part in parts])
        result = upsert_ohlcv(url, rows, interval, known=_KNOWN)
        repeated = len(rows) - result.new - result.changed - result.unchanged - result.outdated
        done.refused["repeated"] += repeated
        done.rows += result
    held.clear()


def _sorted_out(raw: pa.Table, terms: Terms, place: str, done: Imported) -> list[tuple[str, pa.Table]]:
    """Return the bars of each interval; counts those that are refused."""
    if "interval" not in raw.column_names:
        groups = [(terms.interval, raw)]
    else:
        words: Any = raw["interval"].combine_chunks().dictionary_encode(null_encoding="encode")
        names: list[Any] = [interval_of(name) for name in words.dictionary.to_pylist()]
        places = np.asarray(words.indices)
        chosen = np.array([names.index(name) for name in names], np.int64)[places]
        groups = [
            (names[number], raw.filter(pa.array(chosen == number)).drop_columns(["interval"]))
            for number in np.unique(chosen).tolist()
        ]
    found = []
    for interval, rows in groups:
        if interval is None:
            done.refused["unknown_interval"] += len(rows)
            continue
        bars, rejected = bars_of(rows, interval, terms.calendar, place)
        done.refused.update(str(reason) for reason in rejected["reason"].to_pylist())
        found.append((interval, bars))
    return found


def _import_marks(url: str, marks: pa.Table, run: str, done: Imported) -> None:
    """Write watermarks, of several of one key the greatest."""
    usable = marks["watermark"].is_valid()
    done.refused["null_time"] += len(marks) - pc.sum(usable).as_py()
    order: Any = [("job", "ascending"), ("key", "ascending"), ("watermark", "ascending")]
    marks = marks.filter(usable).sort_by(order)
    if not len(marks):
        return
    same = np.ones(len(marks) - 1, np.bool_)
    for name in ("job", "key"):
        same &= np.asarray(pc.equal(marks[name].slice(0, len(marks) - 1), marks[name].slice(1)))
    last = marks.filter(pa.array(np.append(~same, True)))
    done.refused["older_step"] += len(marks) - len(last)
    rows = list(zip(*(last[name].to_pylist() for name in last.column_names), strict=True))
    done.rows += retried(url, partial(_put_marks, rows=rows, run=run))


def _put_marks(connection: Connection, *, rows: Sequence[tuple], run: str) -> Upserted:
    values = [(job, key, mark, by or run, updated) for job, key, mark, by, updated in rows]
    with connection.cursor() as cursor:
        cursor.execute("SELECT job, key FROM data_ingestion_watermark")
        before = set(cursor.fetchall())
        moved = set(psycopg2.extras.execute_values(cursor, _MARKS, values, _MARK, 1000, fetch=True))
    return Upserted(len(moved - before), len(moved & before), len(rows) - len(moved))
