"""Newly made bars against stored ones: what is new, what is revised, and which files are touched."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import merge, tables
from fibflow.io.lake import Lake, LakeTable, Scope
from fibflow.io.merge import Region, equal_content, match, merge_timeframe, writer_of
from fibflow.io.snapshot import Snapshot
from fibflow.tests.io.barlakes import XNYS, as_of, daily_rows, minute_rows
from fibflow.transforms.bars import BarSpec, daily_bars, minute_bars
from fibflow.transforms.calendar import DAY_US
from fibflow.transforms.partials import BAR_BATCH
from fibflow.transforms.schemas import BARS, SYMBOL
from fibflow.transforms.timeframe import Anchor, Timeframe, parse_timeframes

TWO_DAYS = Timeframe.parse("2d")


def bars(keys, close=1.0, complete=True, revision=0, dictionary=None):
    """Bars of (symbol, day) of two days each; ``dictionary`` is the order of its symbols."""
    n = len(keys)
    names = dictionary or sorted({symbol for symbol, _ in keys})
    codes = pa.array([names.index(symbol) for symbol, _ in keys], pa.int32())
    ts = np.array([day for _, day in keys], np.int64) * DAY_US
    values = {
        "symbol": pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())).cast(SYMBOL),
        "timeframe": pa.array(["2d"] * n),
        "ts": pa.array(ts),
        "end": pa.array(ts + 2 * DAY_US),
        "close": pa.array(np.broadcast_to(np.array(close, np.float64), n)),
        "trade_count": pa.nulls(n, pa.int64()),
        "vwap": pa.nulls(n, pa.float64()),
        "complete": pa.array(np.broadcast_to(complete, n)),
        "final": pa.array(np.broadcast_to(complete, n)),
        "revision": pa.array(np.full(n, revision)),
    }
    ones = pa.array(np.ones(n))
    columns = []
    for f in BAR_BATCH:
        column = values.get(f.name, ones)
        if pa.types.is_dictionary(f.type) and not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        columns.append(column.cast(f.type))
    return pa.table(columns, schema=BAR_BATCH)


def plain(table):
    """(close, complete, revision) by (symbol, day)."""
    columns = [table["symbol"].cast(pa.string()), table["ts"].cast(pa.int64())]
    columns += [table[name] for name in ("close", "complete", "revision")]
    found = {}
    for symbol, ts, *values in zip(*(column.to_pylist() for column in columns), strict=True):
        assert (symbol, ts // DAY_US) not in found
        found[symbol, ts // DAY_US] = tuple(values)
    return found


# Matching --------------------------------------------------------------------------------------------------

KEYS = st.lists(
    st.tuples(st.sampled_from(["A", "AA", "Z", "é"]), st.integers(0, 5)), unique=True, max_size=12
)


@given(made=KEYS, old=KEYS, cut=st.integers(0, 12))
def test_match_finds_the_bars_of_the_same_keys(made, old, cut):
    cut = min(cut, len(old))
    stored = pa.concat_tables([bars(old[:cut]), bars(old[cut:])])
    found, at = match(bars(made, dictionary=["é", "Z", "AA", "A"]), stored)
    partners = [old.index(key) if key in old else -1 for key in made]
    assert at.tolist() == partners
    assert found.tolist() == [place for place, partner in enumerate(partners) if partner >= 0]


@pytest.mark.parametrize("name", [n for n in BAR_BATCH.names if n not in ("symbol", "timeframe", "ts")])
def test_content_is_every_column_but_the_revision(name):
    a = bars([("A", 0), ("A", 2), ("B", 0)])
    column = a[name].to_pylist()
    kind = BAR_BATCH.field(name).type
    other = True if column[1] is None else not column[1] if isinstance(column[1], bool) else None
    column[1] = 7 if other is None else other
    if pa.types.is_timestamp(kind):
        column[1] = a["ts"][0].as_py()
    b = a.set_column(a.schema.get_field_index(name), a.schema.field(name), pa.array(column).cast(kind))
    assert equal_content(a, b).tolist() == [True, name == "revision", True]
    assert equal_content(a, a).tolist() == [True, True, True]


def test_null_equals_null_and_nothing_else():
    a = bars([("A", 0), ("A", 2), ("A", 4)])
    place = a.schema.get_field_index("vwap")
    some = a.set_column(place, a.schema.field(place), pa.array([1.0, None, None]))
    others = a.set_column(place, a.schema.field(place), pa.array([1.0, None, 1.0]))
    assert equal_content(some, others).tolist() == [True, True, False]


# Regions ---------------------------------------------------------------------------------------------------

STORED = bars([("A", 0), ("A", 2), ("A", 4), ("B", 0), ("B", 2)], complete=[True, True, False, True, False])


def _told(region: Region) -> str:
    """A region as text, the same in each process: sets have no order."""
    values = ((field.name, getattr(region, field.name)) for field in fields(region))
    return ",".join(
        f"{name}={sorted(value) if isinstance(value, frozenset) else value}" for name, value in values
    )


@pytest.mark.parametrize(
    ("region", "held"),
    [
        (Region(), [1, 1, 1, 1, 1]),
        (Region(changed_from=2 * DAY_US), [0, 1, 1, 0, 1]),
        (Region(changed_from=2 * DAY_US - 1), [1, 1, 1, 1, 1]),
        (Region(changed_from=6 * DAY_US), [0, 0, 0, 0, 0]),
        (Region(changed_from=6 * DAY_US, anchor=Anchor.ROWS), [0, 0, 1, 0, 1]),
        (Region(start=2 * DAY_US), [0, 1, 1, 0, 1]),
        (Region(end=2 * DAY_US), [1, 0, 0, 1, 0]),
        (Region(start=2 * DAY_US, end=4 * DAY_US), [0, 1, 0, 0, 1]),
        (Region(symbols=frozenset("BC")), [0, 0, 0, 1, 1]),
        (Region(symbols=frozenset()), [0, 0, 0, 0, 0]),
        (Region(changed_from=2 * DAY_US, symbols=frozenset("B")), [0, 0, 0, 0, 1]),
        (Region(changed_from=0, since={"A": 4 * DAY_US}), [0, 0, 1, 1, 1]),
        (
            Region(changed_from=0, since={"B": 4 * DAY_US}, anchor=Anchor.ROWS, symbols=frozenset("AB")),
            [1, 1, 1, 0, 1],
        ),
        (Region(changed_from=6 * DAY_US, anchor=Anchor.ROWS, symbols=frozenset("B")), [0, 0, 0, 0, 1]),
    ],
    ids=lambda value: "" if isinstance(value, list) else _told(value),
)
def test_a_region_holds(region, held):
    assert region.holds(STORED).tolist() == [bool(flag) for flag in held]
    assert region.holds(STORED.slice(0, 0)).tolist() == []


# Merging ---------------------------------------------------------------------------------------------------


@dataclass
class Stored:
    """A table of bars of two days, in files of our choice."""

    table: LakeTable
    paths: dict[str, str] = field(default_factory=dict)

    def put(self, **files):
        """Commit a file by name; an empty table makes no file."""
        add = []
        for name, rows in files.items():
            add.append(self.table.writer().write(rows, {"timeframe": "2d", "period": "all"}, name))
            self.paths[name] = add[-1].path
        self.table.commit(add, base_version=self.table.version, scope=Scope(), run="first")
        return self

    @property
    def snapshot(self):
        return self.table.snapshot()

    def merge(self, made, *regions):
        """Merge and commit; return what the merge asked for."""
        write = writer_of(self.table.writer(), XNYS, f"run{self.table.version}", 0)
        merged = merge_timeframe(self.snapshot, made, TWO_DAYS, regions, write)
        self.table.commit(
            merged.add, merged.remove, base_version=self.table.version, scope=Scope(), run="merge"
        )
        return merged

    def content(self):
        return plain(self.snapshot.read(BARS.names)[0].cast(BAR_BATCH))

    def removed(self, merged):
        names = {path: name for name, path in self.paths.items()}
        return {names[file.path] for file in merged.remove}


@pytest.fixture
def stored(tmp_path):
    return Stored(Lake(str(tmp_path)).table(tables.BARS))


def counts(merged):
    return merged.new, merged.revised, merged.withdrawn, merged.unchanged


def test_the_first_bars_of_a_table(stored):
    snapshot = Snapshot.empty(stored.table.storage, tables.BARS)
    made = bars([("A", 0), ("A", 2)], complete=[True, False])
    merged = merge_timeframe(
        snapshot, made, TWO_DAYS, [Region()], writer_of(stored.table.writer(), XNYS, "r", 0)
    )
    assert counts(merged) == (2, 0, 0, 0)
    # Ended and open ones lie apart.
    assert [(file.rows, "open-" in file.path) for file in merged.add] == [(1, False), (1, True)]
    assert merged.remove == []


def test_nothing_made_of_nothing_stored(stored):
    stored.put(base=bars([("A", 0)]))
    merged = stored.merge(bars([]), Region(symbols=frozenset("B")))
    assert counts(merged) == (0, 0, 0, 0)
    assert (merged.add, merged.remove) == ([], [])


def test_equal_bars_touch_no_file(stored):
    stored.put(base=bars([("A", 0), ("B", 0)], revision=3), open=bars([("A", 2)], complete=False))
    again = bars([("B", 0), ("A", 2), ("A", 0)], complete=[True, False, True])
    merged = stored.merge(again, Region())
    assert counts(merged) == (0, 0, 0, 3)
    assert (merged.add, merged.remove) == ([], [])
    assert stored.content()["A", 0][2] == 3
    assert merged.read.files == 2


def test_a_correction_rewrites_the_file_that_holds_it(stored):
    stored.put(
        a=bars([("A", 0), ("A", 2)], revision=1),
        b=bars([("B", 0), ("B", 2)]),
        open=bars([("A", 4), ("B", 4)], complete=False),
    )
    made = bars([("B", 0), ("B", 2), ("B", 4)], close=[9.0, 1.0, 1.0], complete=[True, True, False])
    merged = stored.merge(made, Region(symbols=frozenset("B")))
    assert counts(merged) == (0, 1, 0, 2)
    assert stored.removed(merged) == {"b"}
    assert stored.content() == {
        ("A", 0): (1.0, True, 1),
        ("A", 2): (1.0, True, 1),
        ("A", 4): (1.0, False, 0),
        ("B", 0): (9.0, True, 1),
        ("B", 2): (1.0, True, 0),
        ("B", 4): (1.0, False, 0),
    }


def test_a_window_that_ends_moves_from_the_open_file_to_the_ended_ones(stored, monkeypatch):
    monkeypatch.setattr(merge, "TAIL_ROWS", 2)
    stored.put(base=bars([("A", 0), ("B", 0)]), open=bars([("A", 2), ("B", 2)], complete=False))
    made = bars([("A", 2), ("B", 2), ("A", 4)], complete=[True, True, False])
    merged = stored.merge(made, Region(changed_from=3 * DAY_US))
    assert counts(merged) == (1, 2, 0, 0)
    assert stored.removed(merged) == {"open"}
    assert stored.content() == {
        ("A", 0): (1.0, True, 0),
        ("B", 0): (1.0, True, 0),
        ("A", 2): (1.0, True, 1),
        ("B", 2): (1.0, True, 1),
        ("A", 4): (1.0, False, 0),
    }


def test_ended_bars_are_added_to_the_smallest_file_that_is_small(stored, monkeypatch):
    monkeypatch.setattr(merge, "TAIL_ROWS", 3)
    stored.put(
        large=bars([("A", 0), ("B", 0), ("C", 0)]),
        small=bars([("A", 2), ("B", 2)]),
        smallest=bars([("C", 2)]),
        open=bars([("A", 4)], complete=False),
    )
    merged = stored.merge(bars([("A", 4)]), Region(changed_from=5 * DAY_US))
    assert stored.removed(merged) == {"open", "smallest"}
    assert [file.rows for file in merged.add] == [2]
    assert len(stored.content()) == 7


def test_bars_that_are_no_more_are_withdrawn(stored):
    stored.put(base=bars([("A", 0), ("A", 2), ("B", 0)]), open=bars([("B", 2)], complete=False))
    merged = stored.merge(bars([("A", 2)]), Region())
    assert counts(merged) == (0, 0, 3, 1)
    assert stored.content() == {("A", 2): (1.0, True, 0)}
    assert counts(stored.merge(bars([]), Region())) == (0, 0, 1, 0)
    assert stored.content() == {}


def test_bars_outside_of_the_regions_stay(stored):
    stored.put(base=bars([("A", day) for day in range(0, 20, 2)]))
    merged = stored.merge(
        bars([("A", 4), ("A", 16)], close=2.0),
        Region(start=4 * DAY_US, end=8 * DAY_US),
        Region(start=16 * DAY_US, end=18 * DAY_US),
    )
    assert counts(merged) == (0, 2, 1, 0)
    assert stored.content() == {
        ("A", day): (2.0, True, 1) if day in (4, 16) else (1.0, True, 0)
        for day in range(0, 20, 2)
        if day != 6
    }


def test_files_that_cannot_hold_a_change_are_not_read(stored):
    stored.put(
        early=bars([("A", 0), ("B", 0)]),
        late=bars([("A", 10), ("B", 10)]),
        others=bars([("Y", 10), ("Z", 10)]),
    )
    merged = stored.merge(
        bars([("A", 10)], close=2.0), Region(changed_from=11 * DAY_US, symbols=frozenset("A"))
    )
    assert merged.read.files == 1
    assert stored.removed(merged) == {"late"}


def test_a_window_of_rows_that_shrinks_takes_the_open_bar_along(stored):
    """Under ``rows`` the open bar may end before the change: the row that it ended with is another's now."""
    stored.put(base=bars([("A", 0)]), open=bars([("A", 2)], complete=False))
    made = bars([("A", 2)], close=5.0, complete=False)
    merged = stored.merge(made, Region(changed_from=8 * DAY_US, symbols=frozenset("A"), anchor=Anchor.ROWS))
    assert counts(merged) == (0, 1, 0, 0)
    assert stored.removed(merged) == {"open"}


VERSIONS = st.dictionaries(
    st.tuples(st.sampled_from(["A", "B", "C"]), st.integers(0, 6).map(lambda n: 2 * n)),
    st.tuples(st.sampled_from([1.0, 2.0]), st.booleans()),
    max_size=10,
)


@settings(max_examples=30)
@given(states=st.lists(VERSIONS, min_size=1, max_size=4), cut=st.integers(0, 14))
def test_merges_leave_what_was_made_last(states, cut, tmp_path_factory):
    """Revisions count the changes of each bar since it was last written first."""
    stored = Stored(Lake(str(tmp_path_factory.mktemp("lake"))).table(tables.BARS))
    stored.put()
    wanted: dict = {}
    for state in states:
        # Before the cut nothing is made anew.
        region = Region(start=cut * DAY_US)
        made = {key: value for key, value in state.items() if key[1] >= cut}
        keys = list(made)
        stored.merge(
            bars(keys, [made[key][0] for key in keys], [made[key][1] for key in keys]) if keys else bars([]),
            region,
        )
        before = {key: value for key, value in wanted.items() if key[1] < cut}
        wanted = before | {
            key: (*value, 0 if key not in wanted else wanted[key][2] + (wanted[key][:2] != value))
            for key, value in made.items()
        }
        assert stored.content() == wanted
        ended = {f.path for f in stored.snapshot.select(where={"complete": True})}
        still_open = {f.path for f in stored.snapshot.select(where={"complete": False})}
        assert not ended & still_open


# Real bars -------------------------------------------------------------------------------------------------


def test_bars_of_an_hour_are_written_by_period(tmp_path):
    table = Lake(str(tmp_path)).table(tables.BARS)
    rows = minute_rows("A", ["2023-12-29T14:30", "2024-01-02T14:30"], 90)
    hour = Timeframe.parse("1h")
    spec = BarSpec((hour,), XNYS)
    (made,) = minute_bars(rows, spec)
    write = writer_of(table.writer(), XNYS, "run", 0)
    snapshot = Snapshot.empty(table.storage, tables.BARS)
    merged = merge_timeframe(snapshot, made, hour, [Region()], write)
    table.commit(merged.add, base_version=-1, scope=Scope(), run="run")
    assert [file.partition["period"] for file in merged.add] == ["2023", "2024"]
    # What follows is added beside: small files are left to compaction.
    (more,) = minute_bars(minute_rows("B", ["2024-01-03T14:30"], 90), spec)
    region = Region(changed_from=int(made["end"].cast(pa.int64()).to_numpy().max()))
    merged = merge_timeframe(table.snapshot(), more, hour, [region], writer_of(table.writer(), XNYS, "b", 0))
    assert merged.remove == []
    assert [(file.partition["period"], file.rows) for file in merged.add] == [("2024", 2)]


def test_each_attempt_writes_files_of_its_own(tmp_path):
    table = Lake(str(tmp_path)).table(tables.BARS)
    rows = daily_rows({"A": ("2024-01-02", "2024-01-31")})
    (made,) = daily_bars(rows, BarSpec(parse_timeframes("5d"), XNYS, as_of(rows)))
    paths = [writer_of(table.writer(), XNYS, "run", attempt)(made, "new-")[0].path for attempt in range(3)]
    assert len(set(paths)) == 3
    assert all("run" in path for path in paths)
