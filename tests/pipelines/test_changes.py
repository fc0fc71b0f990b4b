"""What an increment has to make anew: which symbols, from which session on."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from fibflow.io import tables
from fibflow.io.lake import Lake, Scope
from fibflow.io.snapshot import ReadStats, Snapshot
from fibflow.io.storage import Storage
from fibflow.pipelines import changes
from fibflow.pipelines.changes import Changed, Group, changed_rows, groups_of, minute_groups, rows_between
from fibflow.tests.io.barlakes import commit_bars, daily_rows, make_bars
from fibflow.tests.pipelines.lakes import XNYS, sessions
from fibflow.tests.pipelines.raws import Bronze, Raw, rows_of
from fibflow.tests.pipelines.test_batch_minutes import table_of
from fibflow.transforms.timeframe import Anchor, parse_timeframes

DAYS = sessions("2023-10-12", "2024-03-28")
#: Position of the first of them.
FIRST = int(XNYS.positions(np.array([(DAYS[0] - date(1970, 1, 1)).days]))[0])
TIMEFRAMES = parse_timeframes("3d,34d")


def of(places):
    return Changed(places, sorted(set(places.values())), ReadStats())


@pytest.fixture
def empty(tmp_path):
    return Snapshot.empty(Storage(str(tmp_path)), tables.BARS)


@pytest.fixture
def stored(tmp_path):
    """A lake of three symbols: of 60 sessions, of 50 from the tenth on, and of the first 20."""

    def stored(anchor):
        spans = {"A": (0, 59), "B": (10, 59), "Z": (0, 19)}
        rows = daily_rows({name: (str(DAYS[a]), str(DAYS[b])) for name, (a, b) in spans.items()})
        lake = Lake(str(tmp_path / "lake"))
        commit_bars(lake, make_bars(rows, "3d,34d", anchor), anchor=anchor)
        return lake.table(tables.BARS).snapshot()

    return stored


# Groups of days --------------------------------------------------------------------------------------------


def groups(changed, tip, anchor, bars):
    return groups_of(changed, tip, anchor, TIMEFRAMES, XNYS, bars)[0]


def test_nothing_changed(empty):
    for anchor in Anchor:
        assert groups({}, None, anchor, empty) == []


def test_new_sessions_are_one_group_of_all_symbols(empty):
    assert groups({"A": 900, "B": 901}, 900, Anchor.EXCHANGE, empty) == [Group(changed=900, read_from=867)]


def test_a_correction_is_a_group_of_its_symbols(empty):
    assert groups({"A": 700, "B": 650}, None, Anchor.EXCHANGE, empty) == [
        Group(changed=650, read_from=617, symbols=frozenset("AB"))
    ]


def test_a_corrected_symbol_is_in_one_group_only(empty):
    assert groups({"A": 700, "B": 900}, 900, Anchor.EXCHANGE, empty) == [
        Group(changed=900, read_from=867, others=frozenset("A")),
        Group(changed=700, read_from=667, symbols=frozenset("A")),
    ]


def test_many_corrections_are_a_group_of_all_symbols(empty, monkeypatch):
    monkeypatch.setattr(changes, "MOST_SINGLE", 2)
    many = {"A": 700, "B": 650, "C": 800}
    for tip in (None, 900):
        assert groups(many, tip, Anchor.EXCHANGE, empty) == [Group(changed=650, read_from=617)]


def test_the_first_sessions_of_the_calendar(empty):
    assert groups({"A": 3}, None, Anchor.EXCHANGE, empty) == [
        Group(changed=3, read_from=0, symbols=frozenset("A"))
    ]


def test_listing_gives_each_group_the_sessions_at_which_its_symbols_begin(stored):
    bases = {"A": FIRST, "B": FIRST + 10, "Z": FIRST}
    tip = FIRST + 60
    assert groups({"B": FIRST + 30, "NEW": FIRST + 50}, tip, Anchor.LISTING, stored(Anchor.LISTING)) == [
        Group(tip, tip - 33, others=frozenset({"B", "NEW"}), bases=bases),
        Group(FIRST + 30, max(0, FIRST + 30 - 33), symbols=frozenset({"B", "NEW"}), bases=bases),
    ]


def test_listing_makes_all_of_a_symbol_whose_history_begins_earlier_now(stored):
    tip = FIRST + 60
    known = {"A": FIRST, "Z": FIRST}
    assert groups({"B": FIRST + 4, "A": tip}, tip, Anchor.LISTING, stored(Anchor.LISTING)) == [
        Group(tip, tip - 33, others=frozenset("B"), bases=known),
        Group(0, 0, symbols=frozenset("B"), bases=known),
    ]


def test_listing_makes_all_of_a_symbol_whose_first_session_the_calendar_lost(stored):
    bars = stored(Anchor.LISTING)
    calendar = XNYS.without(str(DAYS[10]))
    found, _ = groups_of({}, FIRST + 40, Anchor.LISTING, TIMEFRAMES, calendar, bars)
    assert [group.symbols for group in found] == [None, frozenset("B")]
    assert found[0].others == frozenset("B")
    assert (found[1].changed, found[1].read_from) == (0, 0)


def test_rows_begin_with_the_bar_before_the_one_that_changed(stored):
    bars = stored(Anchor.ROWS)
    (group,) = groups({"A": FIRST + 59, "B": FIRST + 59}, None, Anchor.ROWS, bars)
    # Of 34 rows there is one whole window each: no stored bar lies before the one that holds the change.
    assert (group.changed, group.read_from, group.symbols) == (FIRST + 59, 0, frozenset("AB"))
    assert (group.bases, group.starts) == ({"A": 0, "B": 0}, {"A": 0, "B": 0})
    found, _ = groups_of({"A": FIRST + 59}, None, Anchor.ROWS, parse_timeframes("3d"), XNYS, bars)
    # The last bar of three rows begins at row 57, the one before it at row 54.
    assert (found[0].bases, found[0].starts) == ({"A": 54}, {"A": FIRST + 54})


def test_rows_keep_what_each_symbol_changed_since(stored):
    bars = stored(Anchor.ROWS)
    (group,) = groups_of(
        {"A": FIRST + 30, "B": FIRST + 50}, None, Anchor.ROWS, parse_timeframes("3d"), XNYS, bars
    )[0]
    assert group.changed == FIRST + 30
    assert group.since == {"A": FIRST + 30, "B": FIRST + 50}
    assert group.starts == {"A": FIRST + 27, "B": FIRST + 10 + 36}
    assert group.bases == {"A": 27, "B": 36}


def test_rows_of_a_symbol_that_is_not_stored_begin_at_its_first(stored):
    (group,) = groups({"NEW": FIRST + 50}, None, Anchor.ROWS, stored(Anchor.ROWS))
    assert (group.bases, group.starts, group.read_from) == ({"NEW": 0}, {"NEW": 0}, 0)


def test_only_some_symbols():
    everything = Group(10, 0, others=frozenset("C"))
    some = Group(10, 0, symbols=frozenset("AB"))
    assert everything.only(frozenset("BC")) == Group(10, 0, symbols=frozenset("BC"), others=frozenset("C"))
    assert some.only(frozenset("BC")) == Group(10, 0, symbols=frozenset("B"))
    assert some.only(frozenset("C")) is None


# Groups of minutes -----------------------------------------------------------------------------------------


def test_minutes_have_a_group_a_stretch_of_sessions():
    changed = Changed({"A": 5, "B": 9}, [5, 6, 9, 20], ReadStats())
    both = frozenset("AB")
    assert minute_groups(changed, None) == [
        Group(5, 5, until=7, symbols=both),
        Group(9, 9, until=10, symbols=both),
        Group(20, 20, until=21, symbols=both),
    ]
    assert minute_groups(changed, 9) == [Group(9, 9), Group(5, 5, until=7, symbols=both)]
    assert minute_groups(of({}), None) == []
    assert minute_groups(of({}), 9) == [Group(9, 9)]


def test_minutes_beside_sessions_that_ticks_made():
    changed = Changed({"A": 5, "B": 9}, [4, 5, 6, 9, 20, 21], ReadStats())
    both = frozenset("AB")
    # Those that ticks made change hands as a whole; from the tip on only sessions that hold rows are made.
    assert minute_groups(changed, 20, frozenset({5, 7})) == [
        Group(5, 5, until=6),
        Group(20, 20, until=22),
        Group(4, 4, until=5, symbols=both),
        Group(6, 6, until=7, symbols=both),
        Group(9, 9, until=10, symbols=both),
    ]
    assert minute_groups(of({}), None, frozenset({5})) == []


def test_minutes_of_many_symbols(monkeypatch):
    monkeypatch.setattr(changes, "MOST_SINGLE", 1)
    assert minute_groups(of({"A": 5, "B": 5}), None) == [Group(5, 5, until=6)]


# What changed ----------------------------------------------------------------------------------------------


def test_changes_are_cut_at_the_as_of_session_and_put_together():
    changed = Changed({"A": 5, "B": 9}, [5, 9], ReadStats(1, 10))
    assert changed.through(8) == Changed({"A": 5}, [5], ReadStats(1, 10))
    other = Changed({"A": 3, "C": 9}, [3, 9], ReadStats(2, 20))
    assert changed | other == Changed({"A": 3, "B": 9, "C": 9}, [3, 5, 9], ReadStats(3, 30))


def test_changed_rows_are_those_that_loads_since_then_changed(tmp_path):
    raw, bronze = Raw(tmp_path / "raw"), Bronze(str(tmp_path / "lake"))
    raw.put("symbol=A/data.parquet", rows_of("A", DAYS[:50]))
    bronze.first(raw)
    first = bronze.table().version
    rows = rows_of("A", DAYS[:50])
    raw.put("symbol=A/data.parquet", [*rows[:7], rows[7]._replace(value=99.0), *rows[8:]])
    bronze.first(raw)
    second = bronze.table().version
    raw.put("symbol=B/data.parquet", rows_of("B", DAYS[30:40]))
    bronze.first(raw)
    snapshot = bronze.table().snapshot()

    def since(version, snapshot=snapshot):
        found = changed_rows(bronze.table(), snapshot, XNYS, version)
        assert found is not None
        return found

    assert since(snapshot.version).first == {}
    assert since(second).first == {"B": FIRST + 30}
    assert since(second).positions == list(range(FIRST + 30, FIRST + 40))
    assert since(first).first == {"A": FIRST + 7, "B": FIRST + 30}
    assert FIRST + 7 in since(first).positions
    assert since(first, bronze.table().snapshot(second)).first == {"A": FIRST + 7}
    assert rows_between(snapshot, XNYS, FIRST + 35, FIRST + 45).first == {"A": FIRST + 35, "B": FIRST + 35}
    assert rows_between(snapshot, XNYS, FIRST + 45, FIRST + 80).positions == list(
        range(FIRST + 45, FIRST + 50)
    )
    assert rows_between(snapshot, XNYS, FIRST + 60, FIRST + 80).positions == []


def test_what_no_load_did_can_only_be_answered_by_a_full_run(tmp_path):
    raw, bronze = Raw(tmp_path / "raw"), Bronze(str(tmp_path / "lake"))
    raw.put("symbol=A/data.parquet", rows_of("A", DAYS[:50]))
    bronze.first(raw)
    table = bronze.table()
    version = table.version
    table.commit(base_version=version, scope=Scope(), run="x", operation="OPTIMIZE", data_change=False)
    assert changed_rows(table, table.snapshot(), XNYS, version) == of({})
    table.commit(base_version=version + 1, scope=Scope(), run="y")
    assert changed_rows(table, table.snapshot(), XNYS, version) is None
    assert changed_rows(table, table.snapshot(), XNYS, version + 2) == of({})


def test_changed_minutes(tmp_path):
    raw, bronze = Raw(tmp_path / "raw"), Bronze(str(tmp_path / "lake"), spec=tables.MINUTES)
    at = pa.scalar(int(XNYS.opens[FIRST]), pa.timestamp("us", "UTC")).as_py()
    raw.put("a.parquet", table_of({("A", at): 5.0}))
    bronze.first(raw, "--kind", "minutes")
    later = pa.scalar(int(XNYS.opens[FIRST + 3]), pa.timestamp("us", "UTC")).as_py()
    raw.put("b.parquet", table_of({("A", later): 5.0, ("B", later): 6.0}))
    bronze.first(raw, "--kind", "minutes")
    found = changed_rows(bronze.table(), bronze.table().snapshot(), XNYS, bronze.table().version - 1)
    assert found is not None
    assert found.first == {"A": FIRST + 3, "B": FIRST + 3}
    assert found.positions == [FIRST + 3]
    assert rows_between(bronze.table().snapshot(), XNYS, FIRST, FIRST + 1).first == {"A": FIRST}
