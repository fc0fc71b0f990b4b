"""The history of reference data: each change once, whatever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.io import maintenance
from fibflow.io.lake import Lake
from fibflow.io.reference import SPLITS, SYMBOLS, read_reference, upsert
from fibflow.io.referencechanges import CHANGES, difference, read_changes, record
from fibflow.io.referenceupdates import Given, update

START = datetime(2024, 6, 3, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    numbers = count()
    return Lake(str(tmp_path / "lake"), clock=lambda: START + timedelta(minutes=next(numbers)))


def symbols(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), pa.schema([SYMBOLS.schema.field(name) for name in rows[0]]))


def split(symbol: str, day: str, before: float, after: float) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "execution_date": date.fromisoformat(day),
        "split_from": before,
        "split_to": after,
    }


def splits(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SPLITS.schema)


def told(lake: Lake) -> list[tuple[Any, ...]]:
    names = ("table", "symbol", "key", "change", "field", "old", "new")
    return [tuple(row[name] for name in names) for row in read_changes(lake).to_pylist()]


def test_each_change_is_told_with_its_run_and_a_second_run_adds_nothing(lake):
    first = symbols({"symbol": "A", "name": "Alpha", "exchange": "XNAS"}, {"symbol": "B", "name": "Beta"})
    update(lake, Given(SYMBOLS, first), "one")
    second = symbols(
        {"symbol": "A", "name": "Alpha Inc.", "exchange": "XNYS"}, {"symbol": "C", "name": "Gamma"}
    )
    done = update(lake, Given(SYMBOLS, second), "two")
    assert (done.rows.new, done.rows.changed) == (1, 1)
    assert done.changes["run"].unique().to_pylist() == ["two"]
    assert told(lake) == [
        ("reference.symbols", "A", None, "new", None, None, None),
        ("reference.symbols", "B", None, "new", None, None, None),
        ("reference.symbols", "A", None, "changed", "exchange", "XNAS", "XNYS"),
        ("reference.symbols", "A", None, "changed", "name", "Alpha", "Alpha Inc."),
        ("reference.symbols", "C", None, "new", None, None, None),
    ]
    rows = read_changes(lake).to_pylist()
    assert [(row["run"], row["version"]) for row in rows] == [("one", 0)] * 2 + [("two", 1)] * 3
    assert START < rows[0]["seen"] < rows[-1]["seen"]
    version = lake.table(CHANGES).version
    assert len(update(lake, Given(SYMBOLS, second), "three").changes) == 0
    assert lake.table(CHANGES).version == version


def test_a_split_that_is_called_off_goes_with_all_that_it_said(lake):
    both = splits(split("A", "2024-06-10", 1, 2), split("B", "2024-01-02", 1, 3))
    update(lake, Given(SPLITS, both), "one")
    since = date(2024, 5, 1)
    # An answer without a row is no proof.
    assert update(lake, Given(SPLITS, splits(), since), "two").rows.gone == 0
    now = Given(SPLITS, splits(split("C", "2024-06-11", 2, 1)), since)
    assert update(lake, now, "three").rows.gone == 1
    assert read_reference(lake, SPLITS)[0]["symbol"].to_pylist() == ["B", "C"]
    assert told(lake)[2:] == [
        ("reference.splits", "A", "2024-06-10", "gone", "split_from", "1", None),
        ("reference.splits", "A", "2024-06-10", "gone", "split_to", "2", None),
        ("reference.splits", "C", "2024-06-11", "new", None, None, None),
    ]


def test_symbols_that_were_not_asked_for_are_not_called_off(lake):
    both = splits(split("A", "2024-06-10", 1, 2), split("B", "2024-06-10", 1, 3))
    update(lake, Given(SPLITS, both), "one")
    now = Given(SPLITS, splits(split("A", "2024-06-11", 1, 2)), date(2024, 6, 1), frozenset("A"))
    assert update(lake, now, "two").rows.gone == 1
    assert read_reference(lake, SPLITS)[0]["symbol"].to_pylist() == ["A", "B"]


def test_upkeep_changes_no_history(lake):
    for number in range(4):
        update(lake, Given(SYMBOLS, symbols({"symbol": "A", "name": f"N{number}"})), f"run{number}")
        update(lake, Given(SYMBOLS, symbols({"symbol": f"S{number}", "name": "x"})), f"more{number}")
    before = told(lake)
    maintenance.compact(lake.table(SYMBOLS), 1_000_000, "compact")
    maintenance.compact(lake.table(CHANGES), 1_000_000, "compact")
    assert len(record(lake, SYMBOLS, "again")) == 0
    assert told(lake) == before
    update(lake, Given(SYMBOLS, symbols({"symbol": "A", "name": "last"})), "last")
    assert told(lake)[-1] == ("reference.symbols", "A", None, "changed", "name", "N3", "last")


def test_what_can_no_longer_be_read_is_said_to_be_unknown(lake):
    upsert(lake.table(SYMBOLS), symbols({"symbol": "A", "name": "Alpha"}), "one")
    upsert(lake.table(SYMBOLS), symbols({"symbol": "A", "name": "Beta"}), "two")
    maintenance.vacuum(lake.table(SYMBOLS), datetime.now(UTC) + timedelta(days=1), 0, dry_run=False)
    assert record(lake, SYMBOLS, "late")["change"].to_pylist() == ["unknown", "unknown"]
    assert len(record(lake, SYMBOLS, "later")) == 0
    update(lake, Given(SYMBOLS, symbols({"symbol": "A", "name": "Gamma"})), "three")
    assert told(lake)[-1] == ("reference.symbols", "A", None, "changed", "name", "Beta", "Gamma")


KILLED = """
import sys
import pyarrow as pa
from fibflow.io.lake import Lake
from fibflow.io.reference import SYMBOLS
from fibflow.io.referenceupdates import Given, update
rows = pa.table({"symbol": ["A"], "name": [sys.argv[2]]})
update(Lake(sys.argv[1]), Given(SYMBOLS, rows), sys.argv[2])
"""


@pytest.mark.parametrize("where", ["after-commit/reference.symbols", "before-commit/reference.changes"])
def test_the_next_run_writes_what_a_killed_one_left_out(tmp_path, where):
    lake = Lake(str(tmp_path / "lake"))
    update(lake, Given(SYMBOLS, symbols({"symbol": "A", "name": "Alpha"})), "one")
    killed = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, lake.uri, "killed"],
        env={**os.environ, "FIBFLOW_FAILPOINT": where},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert read_reference(lake, SYMBOLS)[0]["name"].to_pylist() == ["killed"]
    assert len(told(lake)) == 1
    done = update(lake, Given(SYMBOLS, symbols({"symbol": "A", "name": "killed"})), "next")
    assert done.rows.changed == 0
    assert [(row["new"], row["run"]) for row in done.changes.to_pylist()] == [("killed", "killed")]
    assert len(told(lake)) == 2


def test_one_update_tells_what_was_left_out_and_what_it_changes_itself(lake):
    upsert(lake.table(SYMBOLS), symbols({"symbol": "A", "name": "Alpha"}), "before")
    done = update(lake, Given(SYMBOLS, symbols({"symbol": "A", "name": "Beta"})), "one")
    assert done.changes.select(["change", "run"]).to_pylist() == [
        {"change": "new", "run": "before"},
        {"change": "changed", "run": "one"},
    ]
    assert len(told(lake)) == 2


def test_two_that_record_at_once_tell_each_change_once(lake):
    upsert(lake.table(SYMBOLS), symbols({"symbol": "A", "name": "Alpha"}), "one")
    table = lake.table(CHANGES)
    commit = type(table).commit
    met: list[bool] = []

    def met_by_another(self, *args, **options):
        if self.spec is CHANGES and not met:
            met.append(True)
            record(lake, SYMBOLS, "other")
        return commit(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(table), "commit", met_by_another)
        assert len(record(lake, SYMBOLS, "one")) == 0
    assert len(told(lake)) == 1


_name = st.none() | st.sampled_from(["x", "y", ""])
_states = st.dictionaries(st.sampled_from("ABCD"), st.tuples(_name, _name), max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_states, _states)
def test_a_difference_undone_gives_what_was(before, after):
    def rows(state):
        return pa.Table.from_pylist(
            [{"symbol": s, "name": n, "type": t} for s, (n, t) in sorted(state.items())], SYMBOLS.schema
        )

    undone = {symbol: list(values) for symbol, values in after.items()}
    places = {"name": 0, "type": 1}
    for row in difference(rows(before), rows(after), SYMBOLS).to_pylist():
        if row["change"] == "new":
            del undone[row["symbol"]]
        elif row["change"] == "gone":
            undone.setdefault(row["symbol"], [None, None])[places[row["field"]]] = row["old"]
        else:
            place = places[row["field"]]
            assert undone[row["symbol"]][place] == row["new"] != row["old"]
            undone[row["symbol"]][place] = row["old"]
    # A row of which nothing was known leaves nothing behind.
    lost = {
        symbol: [None, None]
        for symbol, values in before.items()
        if symbol not in after and values == (None, None)
    }
    assert undone | lost == {symbol: list(values) for symbol, values in before.items()}
