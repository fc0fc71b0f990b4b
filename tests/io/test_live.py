"""What readers see of a stream's tables: a row a bar, a row a message."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io import live as live_module
from fibflow.io import tables
from fibflow.io.lake import Lake, LakeError, Scope
from fibflow.io.live import LiveReader, TickReader
from fibflow.io.maintenance import compact
from fibflow.io.streamcommit import StreamCommit
from fibflow.tests.io.streams import JOB, START, live, log, messages, minute, rows_of, write
from fibflow.transforms.schemas import BARS, TICKS

NEVER_APART = timedelta(0)


@pytest.fixture
def lake(tmp_path):
    # A clock that stands still: the order of commits is that of their versions.
    return Lake(str(tmp_path), clock=lambda: START)


class Writer:
    """Commits rows, a file a table of them, all in one version."""

    def __init__(self, lake, table):
        self.lake, self.table, self.number = lake, table, 0
        self.commits = StreamCommit(lake, table, JOB)

    def commit(self, *parts):
        files = []
        for part in parts:
            files += write(self.lake, self.table, part, self.lake.new_id())
        self.number = self.commits.commit(self.number, files).number


def bars_of(lake, **options):
    rows = LiveReader(lake).bars(None, "5m", **options)
    return [(r["symbol"], (r["ts"] - START) // timedelta(minutes=1), r["close"]) for r in rows.to_pylist()]


# --- bars ------------------------------------------------------------------------------------------


def test_the_latest_commits_bar_counts_and_of_one_commit_the_greatest_revision(anywhere):
    writer = Writer(anywhere, tables.LIVE.name)
    writer.commit(live([("B", 0, 0, False, 1.0), ("A", 0, 3, False, 2.0)]))
    writer.commit(
        live([("B", 0, 2, True, 3.0)]),
        live([("B", 0, 2, False, 4.0)]),
        live([("B", 0, 1, True, 5.0), ("A", 5, 0, False, 6.0)]),
    )
    # Another history of the job may have had more revisions.
    writer.commit(live([("A", 0, 1, False, 7.0)]))
    assert bars_of(anywhere) == [("A", 0, 7.0), ("A", 5, 6.0), ("B", 0, 3.0)]
    rows = LiveReader(anywhere).bars("B", "5m")
    assert rows.schema.equals(BARS)
    assert (rows["final"].to_pylist(), rows["revision"].to_pylist()) == ([True], [2])
    # As it was.
    assert bars_of(anywhere, as_of=0) == [("A", 0, 2.0), ("B", 0, 1.0)]


def test_bars_are_found_by_symbol_timeframe_and_time(lake):
    writer = Writer(lake, tables.LIVE.name)
    writer.commit(live([(s, m, 0, False, 1.0) for s in "ABC" for m in (0, 5, 10)]))
    writer.commit(live([("A", 0, 0, False, 2.0)], "1h"))
    reader = LiveReader(lake)
    found = reader.bars(["A", "C"], "5m", minute(5), minute(10), columns=["ts", "symbol"])
    assert found.column_names == ["ts", "symbol"]
    assert found["symbol"].to_pylist() == ["A", "C"]
    assert reader.bars("A", "1h")["close"].to_pylist() == [2.0]
    assert len(reader.bars("A", "5m", date(2024, 3, 12))) == 0
    assert len(reader.bars("Z", "5m")) == 0
    assert reader.bars("A", "30m").schema.equals(BARS)
    assert len(LiveReader(lake).snapshot().select("A", minute(20))) == 0
    with pytest.raises(ValueError, match="bars have no column 'price'"):
        reader.bars("A", "5m", columns=["price"])


def test_a_lake_without_bars_of_a_stream_says_so(lake):
    with pytest.raises(LakeError, match=r"there is no silver\.live in .*: pipelines\.stream writes it"):
        LiveReader(lake).bars("A", "5m")


def test_a_merged_file_does_not_count_over_later_ones(lake):
    writer = Writer(lake, tables.LIVE.name)
    table = lake.table(tables.LIVE)
    writer.commit(live([("A", 0, 9, False, 1.0)]))
    writer.commit(live([("A", m, 0, False, 2.0) for m in range(0, 50, 5)]))
    writer.commit(live([("B", 0, 0, False, 3.0)]))
    writer.commit(live([("C", 0, 0, False, 4.0)]))
    before = bars_of(lake)
    # The second commit's file is large enough to be left alone: the first must not pass it.
    done = compact(table, 12, "c", keep_apart=NEVER_APART - timedelta(seconds=1))
    assert (done.files_before, done.files_after) == (2, 1)
    assert bars_of(lake) == before
    assert before[0] == ("A", 0, 2.0)


COMMITS = st.lists(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("AB"), st.sampled_from([0, 5]), st.integers(0, 2), st.booleans()),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(COMMITS, st.lists(st.integers(1, 12), max_size=2), st.integers(0, 6))
def test_readers_see_the_same_before_and_after_compaction(tmp_path_factory, commits, targets, cut):
    lake = Lake(str(tmp_path_factory.mktemp("lake")), clock=lambda: START)
    writer = Writer(lake, tables.LIVE.name)
    wanted: dict[tuple[str, int], tuple[int, int, bool]] = {}
    for number, files in enumerate(commits):
        # The close says what the row is: of equal ones either may count.
        parts = [live([(*row, number * 100 + row[2] * 10 + row[3]) for row in rows]) for rows in files]
        writer.commit(*parts)
        for symbol, at, revision, final in (row for rows in files for row in rows):
            wanted[symbol, at] = max(wanted.get((symbol, at), (-1, 0, False)), (number, revision, final))
        if number == cut:
            for target in targets[:1]:
                compact(lake.table(tables.LIVE), target, "cut", keep_apart=-timedelta(seconds=1))
    for target in targets:
        compact(lake.table(tables.LIVE), target, f"t{target}", keep_apart=-timedelta(seconds=1))
    expected = [(s, at, float(n * 100 + r * 10 + f)) for (s, at), (n, r, f) in sorted(wanted.items())]
    assert bars_of(lake) == expected


# --- messages --------------------------------------------------------------------------------------


def ticks(numbers, **options):
    return messages(tables.TICKS, numbers, **options)


def seqs(rows):
    return sorted(rows["seq"].to_pylist())


def test_each_message_is_read_once(anywhere):
    writer = Writer(anywhere, tables.TICKS.name)
    writer.commit(ticks(range(10)), ticks(range(100, 110), shard="shard-1"))
    writer.commit(ticks(range(6, 14)))
    # The same record numbers in another shard are other messages.
    writer.commit(ticks(range(4, 8), shard="shard-2"))
    rows = TickReader(anywhere).ticks()
    assert rows.schema.equals(pa.schema([f for f in TICKS if f.name != "period"]))
    assert seqs(rows) == sorted([*range(14), *range(100, 110), *range(4, 8)])
    ordered = rows.sort_by([(name, "ascending") for name in ("symbol", "ts", "seq")])
    assert rows.equals(ordered)
    assert seqs(TickReader(anywhere).ticks(as_of=0)) == [*range(10), *range(100, 110)]


def test_messages_are_found_by_symbol_time_and_kind(lake):
    Writer(lake, tables.TICKS.name).commit(ticks(range(30)), ticks(range(20, 40)))
    reader = TickReader(lake)
    found = reader.ticks(
        "B", START + timedelta(seconds=6), START + timedelta(seconds=25), columns=["seq", "price"]
    )
    assert found.column_names == ["seq", "price"]
    assert found["seq"].to_pylist() == [n for n in range(6, 25) if n % 3 == 1]
    assert len(reader.ticks(where={"kind": "A"})) == 0
    assert len(reader.ticks(["A", "Z"], where={"kind": ["T", "A"]})) == 14
    with pytest.raises(ValueError, match="ticks have no column 'period'"):
        reader.ticks(columns=["period"])
    with pytest.raises(LakeError, match=r"there is no bronze\.ticks"):
        TickReader(Lake(lake.uri + "/other")).ticks()


def test_files_that_share_no_record_are_not_compared(lake, monkeypatch):
    writer = Writer(lake, tables.TICKS.name)
    for first in range(0, 40, 8):
        writer.commit(ticks(range(first, first + 8)))
    compared: list[int] = []
    lacks = live_module._lacks

    def counted(held, rows):
        compared.append(len(held))
        return lacks(held, rows)

    monkeypatch.setattr(live_module, "_lacks", counted)
    reader = TickReader(lake)
    assert seqs(reader.ticks()) == list(range(40))
    assert compared == []
    writer.commit(ticks(range(38, 46)))
    assert seqs(reader.ticks()) == list(range(46))
    # One file of five, and of it the records that both hold.
    assert compared == [4]


def test_messages_that_came_too_late_are_left_out(anywhere):
    writer = Writer(anywhere, tables.TICKS.name)
    writer.commit(ticks(range(10)))
    writer.commit(ticks(range(8, 20)), ticks(range(5), shard="shard-1"))
    reader = TickReader(anywhere)
    assert len(reader.late()) == 0
    assert reader.late().column_names == [name for name in tables.LATE.schema.names if name != "period"]
    assert sum(map(len, reader.ticks_without_late())) == 25
    Writer(anywhere, tables.LATE.name).commit(messages(tables.LATE, [3, 9, 15]))
    assert reader.late("A")["seq"].to_pylist() == [3, 9, 15]
    assert reader.late("B").num_rows == 0
    parts = list(reader.ticks_without_late())
    assert all(len(part) for part in parts)
    found = pa.concat_tables(parts)
    assert found.schema.equals(reader.ticks().schema)
    # Those of the other shard have the same numbers, and came in time.
    assert Counter(found["seq"].to_pylist()) == Counter(
        [n for n in range(20) if n not in (3, 9, 15)] + list(range(5))
    )
    only = pa.concat_tables(list(reader.ticks_without_late("A", minute(0), columns=["seq"])))
    assert only.column_names == ["seq"]
    assert seqs(only) == [0, 0, 3, 6, 12, 18]


def test_an_instant_before_anything_was_late_has_none(tmp_path):
    now = [START]
    lake = Lake(str(tmp_path), clock=lambda: now[0])
    Writer(lake, tables.TICKS.name).commit(ticks(range(4)))
    now[0] += timedelta(hours=1)
    Writer(lake, tables.LATE.name).commit(messages(tables.LATE, [2]))
    reader = TickReader(lake)
    before = START + timedelta(minutes=1)
    assert len(reader.late(as_of=before)) == 0
    assert len(pa.concat_tables(list(reader.ticks_without_late(as_of=before)))) == 4
    assert len(pa.concat_tables(list(reader.ticks_without_late(as_of=now[0])))) == 3
    # A version is one of ticks.
    assert len(pa.concat_tables(list(reader.ticks_without_late(as_of=0)))) == 3


def test_a_table_without_statistics_is_read_right(lake):
    table = lake.table(tables.TICKS)
    files = []
    for name, numbers in (("a", range(6)), ("b", range(4, 9))):
        files += write(lake, tables.TICKS.name, ticks(numbers), name)
    table.commit([replace(f, stats="") for f in files], base_version=-1, scope=Scope(), run="r")
    assert seqs(TickReader(lake).ticks()) == list(range(9))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=15, unique=True), min_size=1, max_size=6),
    st.lists(st.integers(0, 40), max_size=8, unique=True),
    st.integers(1, 6),
    st.one_of(st.none(), st.integers(2, 30)),
    st.one_of(st.none(), st.sampled_from(["A", "B"])),
)
def test_ticks_minus_late_whatever_the_files(tmp_path_factory, files, late, per_record, target, symbol):
    lake = Lake(str(tmp_path_factory.mktemp("lake")), clock=lambda: START)
    writer = Writer(lake, tables.TICKS.name)
    for numbers in files:
        writer.commit(ticks(numbers, per_record=per_record))
    if late:
        Writer(lake, tables.LATE.name).commit(messages(tables.LATE, late, per_record=per_record))
    if target is not None:
        compact(lake.table(tables.TICKS), target, "c")
    of_symbol = {n for numbers in files for n in numbers if symbol in (None, "ABC"[n % 3])}
    reader = TickReader(lake)
    assert seqs(reader.ticks(symbol)) == sorted(of_symbol)
    parts = reader.ticks_without_late(symbol)
    found: list[int] = [n for part in parts for n in np.asarray(part["seq"]).tolist()]
    assert sorted(found) == sorted(of_symbol - set(late))


# --- order -----------------------------------------------------------------------------------------


def test_files_are_as_old_as_their_version_whatever_the_clock(tmp_path):
    now = [datetime(2024, 3, 11, tzinfo=UTC)]
    lake = Lake(str(tmp_path), clock=lambda: now[0])
    writer = Writer(lake, tables.TICKS.name)
    table = lake.table(tables.TICKS)
    for number in range(12):
        writer.commit(rows_of(tables.TICKS.name, [number]), rows_of(tables.TICKS.name, [number + 100]))
        now[0] -= timedelta(hours=1)
    # Another process, whose clock is another day's, and a commit of the general kind.
    late = Lake(str(tmp_path), clock=lambda: datetime(2020, 1, 1, tzinfo=UTC)).table(tables.TICKS)
    (file,) = write(lake, tables.TICKS.name, rows_of(tables.TICKS.name, [12]), "x")
    late.commit([file], base_version=table.version, scope=Scope(), run="r")
    snapshot = table.snapshot()
    stamps = [{file.modified for file in entry.files("add")} for entry in log(lake, tables.TICKS.name)]
    assert all(len(stamp) == 1 for stamp in stamps)
    in_order = [max(stamp) for stamp in stamps]
    assert np.all(np.diff(in_order) > 0)
    found = Counter(file.modified for file in snapshot.select())
    assert found == {stamp: 1 if stamp == in_order[-1] else 2 for stamp in in_order}
    assert snapshot.newest == in_order[-1]
