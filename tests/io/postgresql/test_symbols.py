"""Reference data: what is kept of a symbol, and what is known of each change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io.postgresql.session import PostgresError
from fibflow.io.postgresql.symbols import (
    DIVIDENDS,
    RENAMES,
    SPLITS,
    SYMBOLS,
    upsert_reference,
    upsert_symbols,
)
from fibflow.io.postgresql.upserts import Target, Upserted
from fibflow.tests.io.postgresql.databases import execute, rows, select
from fibflow.transforms import schemas

KNOWN = datetime(2024, 6, 1, tzinfo=UTC)
D1, D2 = date(2020, 8, 31), date(2024, 6, 10)


def symbols(*given):
    return rows(schemas.SYMBOLS, *given)


def history(url, table="symbol_metadata"):
    return select(url, f"SELECT symbol, operation, columns, run FROM {table}_history ORDER BY id")


def test_symbols_are_added_changed_and_left_alone_and_each_change_is_kept(url):
    first = symbols(
        {"symbol": "A", "name": "Alpha", "type": "CS"}, {"symbol": "B", "name": "Beta", "type": "ETF"}
    )
    second = symbols(
        {"symbol": "A", "name": "Aleph", "type": "CS"}, {"symbol": "C", "name": "Gamma", "type": None}
    )
    assert upsert_symbols(url, first, run="r1") == Upserted(new=2)
    assert upsert_symbols(url, first, run="r2") == Upserted(unchanged=2)
    assert upsert_symbols(url, second, run="r3") == Upserted(new=1, changed=1)
    assert select(url, "SELECT symbol, name, type, active FROM symbol_metadata ORDER BY symbol") == [
        ("A", "Aleph", "CS", True),
        ("B", "Beta", "ETF", True),
        ("C", "Gamma", None, True),
    ]
    told = history(url)
    assert [(symbol, operation, run) for symbol, operation, _, run in told] == [
        ("A", "insert", "r1"),
        ("B", "insert", "r1"),
        ("A", "update", "r3"),
        ("C", "insert", "r3"),
    ]
    assert told[2][2] == ["name"]
    sides = "before ->> 'name', after ->> 'name'"
    names = f"SELECT {sides} FROM symbol_metadata_history WHERE symbol = %s ORDER BY id"
    assert select(url, names, "A") == [(None, "Alpha"), ("Alpha", "Aleph")]


def test_what_is_done_by_hand_is_kept_too(url):
    upsert_symbols(url, symbols({"symbol": "A", "name": "Alpha"}), run="r1")
    execute(
        url,
        "UPDATE symbol_metadata SET exchange = 'XNAS'",
        "UPDATE symbol_metadata SET exchange = 'XNAS', known = now()",
        "SET search_path = pg_catalog; DELETE FROM public.symbol_metadata",
    )
    assert [(operation, run) for _, operation, _, run in history(url)] == [
        ("insert", "r1"),
        ("update", None),
        ("delete", None),
    ]
    last = "SELECT before ->> 'exchange', after FROM symbol_metadata_history ORDER BY id DESC LIMIT 1"
    assert select(url, last) == [("XNAS", None)]


def test_a_column_that_is_not_given_keeps_what_is_stored(url):
    upsert_symbols(url, symbols({"symbol": "A", "name": "Alpha", "listed": D1, "active": True}))
    assert upsert_symbols(url, symbols({"symbol": "A", "delisted": D2})) == Upserted(changed=1)
    assert select(url, "SELECT name, listed, delisted, active FROM symbol_metadata") == [
        ("Alpha", D1, D2, False)
    ]
    assert upsert_symbols(url, symbols({"symbol": "A", "active": None})) == Upserted(changed=1)


def test_when_a_row_was_updated_at_its_source_is_no_change(url):
    at = {"symbol": "A", "name": "Alpha", "updated": KNOWN}
    upsert_symbols(url, symbols(at))
    assert upsert_symbols(url, symbols({**at, "updated": KNOWN + timedelta(1)})) == Upserted(unchanged=1)
    assert upsert_symbols(url, symbols({**at, "name": "B", "updated": KNOWN + timedelta(2)})) == Upserted(
        changed=1
    )
    assert select(url, "SELECT updated FROM symbol_metadata") == [(KNOWN + timedelta(2),)]


def test_the_last_to_know_wins(url):
    upsert_symbols(url, symbols({"symbol": "A", "name": "new"}), known=KNOWN)
    old = symbols({"symbol": "A", "name": "old"})
    assert upsert_symbols(url, old, known=KNOWN - timedelta(1)) == Upserted(outdated=1)
    assert len(history(url)) == 1


def test_a_symbol_alone_and_none(url):
    assert upsert_symbols(url, symbols({"symbol": "A"})) == Upserted(new=1)
    assert upsert_symbols(url, symbols({"symbol": "A"})) == Upserted(unchanged=1)
    assert upsert_symbols(url, symbols({"symbol": "A"}).slice(1)) == Upserted()
    with pytest.raises(PostgresError, match="no symbol"):
        upsert_symbols(url, symbols({"symbol": None}))


TABLES: dict[str, tuple[Target, pa.Schema, dict[str, Any], dict[str, Any]]] = {
    "symbol_splits": (
        SPLITS,
        schemas.SPLITS,
        {"symbol": "A", "execution_date": D1, "split_from": 1.0, "split_to": 4.0, "id": "E1"},
        {"split_to": 5.0},
    ),
    "symbol_dividends": (
        DIVIDENDS,
        schemas.DIVIDENDS,
        {
            **{"symbol": "A", "ex_dividend_date": D1, "cash_amount": 0.25, "currency": "USD"},
            **{"dividend_type": "CD", "frequency": 4, "declaration_date": D1, "record_date": D1},
            **{"pay_date": D2, "id": "E1"},
        },
        {"cash_amount": 0.3},
    ),
    "symbol_renames": (
        RENAMES,
        schemas.RENAMES,
        {"symbol": "META", "old_symbol": "FB", "date": D1, "composite_figi": "BBG", "cik": "1"},
        {"old_symbol": "F"},
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_actions_are_kept_with_their_history_and_what_is_gone_is_removed(url, table):
    target, schema, row, change = TABLES[table]
    other = {**row, "symbol": "Z"}
    assert upsert_reference(url, target, rows(schema, row, other), run="r1") == Upserted(new=2)
    assert upsert_reference(url, target, rows(schema, row), run="r2") == Upserted(unchanged=1)
    assert upsert_reference(url, target, rows(schema, row | change), run="r3", whole=True) == Upserted(
        changed=1, gone=1
    )
    names = ", ".join(f'"{name}"' for name in row)
    assert select(url, f"SELECT {names} FROM {table}") == [tuple((row | change).values())]
    assert [(symbol, operation, run) for symbol, operation, _, run in history(url, table)] == [
        (row["symbol"], "insert", "r1"),
        ("Z", "insert", "r1"),
        ("Z", "delete", "r3"),
        (row["symbol"], "update", "r3"),
    ]


def test_the_tables_have_the_columns_of_the_lakes(url):
    for target in (SYMBOLS, SPLITS, DIVIDENDS, RENAMES):
        asked = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
        assert {name for (name,) in select(url, asked, target.name)} == {
            *target.schema.names,
            "known",
            "revision",
        }
