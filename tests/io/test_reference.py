"""Symbols and splits in the lake: what an upsert changes, and what it leaves alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import pyarrow as pa
import pytest

from fibflow.io import maintenance, tables
from fibflow.io.lake import Lake
from fibflow.io.reference import SPLITS, SYMBOLS, read_reference, upsert

START = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    numbers = count()
    return Lake(str(tmp_path / "lake"), clock=lambda: START + timedelta(days=next(numbers)))


def splits(*rows: tuple[str, str, float, float]) -> pa.Table:
    found = [
        {"symbol": s, "execution_date": date.fromisoformat(d), "split_from": a, "split_to": b, "id": None}
        for s, d, a, b in rows
    ]
    return pa.Table.from_pylist(found, SPLITS.schema)


def symbols(*rows: dict[str, Any]) -> pa.Table:
    """Rows with the columns that the first one has."""
    return pa.Table.from_pylist(list(rows), pa.schema([SYMBOLS.schema.field(name) for name in rows[0]]))


def read(lake, spec, *names):
    return read_reference(lake, spec, names or None)[0].to_pylist()


def facts(done):
    return done.new, done.changed, done.unchanged, done.version


def test_new_keys_are_added_changed_ones_replaced_and_others_stay(lake):
    table = lake.table(SPLITS)
    first = splits(("B", "2020-01-02", 1, 2), ("A", "2021-01-04", 1, 4))
    assert facts(upsert(table, first, "a")) == (2, 0, 0, 0)
    second = splits(("A", "2021-01-04", 1, 5), ("A", "2022-01-03", 3, 1), ("B", "2020-01-02", 1, 2))
    assert facts(upsert(table, second, "b")) == (1, 1, 1, 1)
    rows, version = read_reference(lake, SPLITS)
    assert version == 1
    assert rows.schema.equals(SPLITS.schema)
    assert [(r["symbol"], str(r["execution_date"]), r["split_to"]) for r in rows.to_pylist()] == [
        ("A", "2021-01-04", 5.0),
        ("A", "2022-01-03", 1.0),
        ("B", "2020-01-02", 2.0),
    ]
    assert [row["symbol"] for row in read(lake, SPLITS, "B")] == ["B"]


def test_a_second_run_commits_nothing(lake):
    rows = symbols({"symbol": "A", "name": "Alpha"}, {"symbol": "B", "name": None})
    upsert(lake.table(SYMBOLS), rows, "a")
    before = read(lake, SYMBOLS)
    assert facts(upsert(lake.table(SYMBOLS), rows, "b")) == (0, 0, 2, 0)
    assert read(lake, SYMBOLS) == before


def test_a_column_that_is_not_given_keeps_what_is_stored(lake):
    table = lake.table(SYMBOLS)
    upsert(table, symbols({"symbol": "A", "name": "Alpha", "cik": "0001", "active": True}), "a")
    upsert(table, symbols({"symbol": "A", "name": "Alpha Inc."}, {"symbol": "B", "name": "Beta"}), "b")
    a, b = read(lake, SYMBOLS)
    assert (a["name"], a["cik"], a["active"]) == ("Alpha Inc.", "0001", True)
    assert (b["name"], b["cik"], b["active"]) == ("Beta", None, True)


def test_a_symbol_that_was_delisted_is_not_active_unless_it_is_said(lake):
    gone = {"symbol": "A", "delisted": date(2020, 1, 2), "active": None}
    upsert(lake.table(SYMBOLS), symbols(gone, {**gone, "symbol": "B", "active": True}), "a")
    assert [row["active"] for row in read(lake, SYMBOLS)] == [False, True]


def test_rows_are_stamped_when_they_change_and_by_the_source_where_it_says(lake):
    table, told = lake.table(SYMBOLS), datetime(2020, 1, 1, tzinfo=UTC)
    upsert(
        table,
        symbols({"symbol": "A", "name": "x", "updated": told}, {"symbol": "B", "name": "x", "updated": None}),
        "a",
    )
    a, b = read(lake, SYMBOLS)
    assert a["updated"] == told
    assert b["updated"] >= START
    later = told + timedelta(days=1)
    upsert(
        table,
        symbols(
            {"symbol": "A", "name": "x", "updated": later}, {"symbol": "B", "name": "y", "updated": None}
        ),
        "b",
    )
    changed = read(lake, SYMBOLS)
    assert changed[0] == a
    assert changed[1]["updated"] > b["updated"]


def test_a_table_that_is_not_there_has_no_rows(lake):
    rows, version = read_reference(lake, SYMBOLS)
    assert (len(rows), version) == (0, -1)
    assert rows.schema.equals(SYMBOLS.schema)


def test_an_upsert_that_meets_another_begins_again(lake):
    table = lake.table(SPLITS)
    upsert(table, splits(("A", "2020-01-02", 1, 2)), "a")
    commit = table.commit
    met: list[bool] = []

    def met_by_another(*args, **options):
        if not met:
            met.append(True)
            upsert(lake.table(SPLITS), splits(("B", "2020-01-02", 1, 3), ("A", "2020-01-02", 1, 9)), "other")
        return commit(*args, **options)

    table.commit = met_by_another
    done = upsert(table, splits(("A", "2020-01-02", 1, 4), ("C", "2020-01-02", 1, 5)), "b")
    assert facts(done) == (1, 1, 0, 2)
    assert [(r["symbol"], r["split_to"]) for r in read(lake, SPLITS)] == [("A", 4.0), ("B", 3.0), ("C", 5.0)]


def test_many_small_files_become_one_and_upkeep_changes_no_row(lake):
    table = lake.table(SPLITS)
    for number in range(12):
        upsert(table, splits((f"S{number:02}", "2020-01-02", 1, 2)), f"run{number}")
    assert len(table.snapshot()) < 9
    before = read(lake, SPLITS)
    assert [row["symbol"] for row in before] == [f"S{number:02}" for number in range(12)]
    maintenance.compact(table, 1_000_000, "compact")
    assert len(table.snapshot()) == 1
    assert read(lake, SPLITS) == before


def test_the_tables_are_among_the_lakes():
    assert tables.TABLES[SYMBOLS.name] is SYMBOLS
    assert tables.TABLES[SPLITS.name] is SPLITS
