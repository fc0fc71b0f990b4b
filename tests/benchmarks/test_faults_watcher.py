"""What readers hold against a job: keys that come twice, revisions with two contents, another last state."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fibflow.benchmarks.faults.watcher import (
    LakeReading,
    Pushed,
    StoreFollowing,
    differences,
    key_of,
    plain,
    repeated,
)
from fibflow.io import tables
from fibflow.io.lake import Lake
from fibflow.io.livestore import LiveStore, refill_closed
from fibflow.tests.io.livestores import MINUTE, T0, Server, again, bar, closed, table
from fibflow.tests.io.streams import JOB, Run
from fibflow.transforms.schemas import BARS

NOW = 1_800_000_000_000_000


def bars(*rows) -> pa.Table:
    return table(*rows).cast(BARS)


def keys(found) -> list[tuple]:
    return sorted(key_of(row) for row in found)


def test_rows_with_one_key_are_counted():
    assert repeated(bars(closed("A"), closed("B"), closed("A", "5m"), closed("A", ts=T0 + MINUTE))) == 0
    assert repeated(bars(closed("A"), closed("B"), closed("A", revision=1), closed("A"))) == 2
    assert repeated(bars(closed("A"))[:0]) == 0


def test_a_revision_may_come_again_but_not_with_other_content():
    told = Pushed()
    told.tell(bars(closed("A"), closed("B")), 1)
    told.tell(
        bars(closed("A"), closed("A", close=2.0, revision=1), closed("A", close=2.0, revision=1, final=True)),
        2,
    )
    assert told.clashes() == []
    told.tell(bars(closed("B", close=3.0)), 3)
    assert told.clashes() == [("B", "1m", T0, 0, False)]
    assert told.state[("B", "1m", T0)] == plain(bars(closed("B", close=3.0)))[0]
    assert [row[BARS.names.index("revision")] for row in told.state.values()] == [1, 0]


@pytest.mark.parametrize(
    ("starts", "clashes"), [((), 2), ((15,), 1), ((20, 5), 1), ((15, 25), 0), ((15, 16, 30), 0)]
)
def test_a_job_that_goes_back_counts_revisions_anew(starts, clashes):
    told = Pushed()
    for at, close in ((10, 1.0), (20, 2.0), (30, 3.0)):
        told.tell(bars(closed("A", close=close)), at)
    assert len(told.clashes(starts)) == clashes


def test_a_store_that_was_emptied_holds_nothing_against_the_next_one():
    told = Pushed()
    told.tell(bars(closed("A"), closed("B")), 1)
    told.forget()
    assert told.state == {}
    told.tell(bars(closed("A", close=2.0)), 2)
    assert told.clashes() == []
    assert keys(told.state.values()) == [("A", "1m", T0)]


def test_differences_are_told_by_key():
    stored = bars(closed("A"), closed("B", close=2.0), closed("C"))
    followed = {key_of(row): row for row in plain(bars(closed("A"), closed("B", close=3.0), closed("D")))}
    assert differences(followed, stored) == [
        "1m of B at 2023-11-14T22:14: close 2.0 in the lake, 3.0 in the store",
        "1m of C at 2023-11-14T22:14 is in the lake only",
        "1m of D at 2023-11-14T22:14 is in the live store only",
    ]
    assert differences({}, stored[:0]) == []


def following(store: LiveStore) -> StoreFollowing:
    made = StoreFollowing(again(store), ("A", "B"), ("1m", "5m"))
    made.look()
    return made


def test_a_follower_has_what_was_there_and_what_comes(store: LiveStore):
    store.write_closed(table(closed("A")), NOW)
    follower = following(store)
    assert keys(follower.pushed.state.values()) == [("A", "1m", T0)]
    assert follower.pushed.told == []
    store.write_closed(table(closed("A", ts=T0 + MINUTE), closed("B")), NOW)
    store.write_closed(table(bar("B", "5m", ts=T0 - MINUTE, complete=True)), NOW)
    follower.look()
    assert keys(follower.pushed.state.values()) == [
        ("A", "1m", T0),
        ("A", "1m", T0 + MINUTE),
        ("B", "1m", T0),
        ("B", "5m", T0 - MINUTE),
    ]
    assert not follower.filled
    assert follower.problems == []


def test_a_follower_reads_anew_when_a_store_was_lost_and_when_it_was_filled(server: Server, store: LiveStore):
    store.write_closed(table(closed("A")), NOW)
    follower = following(store)
    server.kill()
    follower._ended.set()  # it waits for nothing
    follower.look()
    assert keys(follower.pushed.state.values()) == [("A", "1m", T0)]
    server.start()
    store.write_closed(table(closed("B")), NOW)
    follower.look()
    assert follower.resets == 1
    assert keys(follower.pushed.state.values()) == [("B", "1m", T0)]
    refill_closed(store, [bars(closed("A", ts=T0 - MINUTE))], owner="job")
    follower.look()
    assert keys(follower.pushed.state.values()) == [("A", "1m", T0 - MINUTE), ("B", "1m", T0)]
    assert follower.filled


def test_a_reader_of_the_lake_takes_one_timeframe_after_another(tmp_path):
    lake = Lake(str(tmp_path))
    reader = LakeReading(lake, ("1m", "5m"))
    reader.look()
    assert reader.answers == 0
    run = Run(lake, tables.LIVE.name, JOB, tag=1)
    run.write(3)
    run.commit()
    for _ in range(3):
        reader.look()
    assert reader.answers == 3
    assert reader.problems == []
    assert len(reader.bars()) == 3


def test_a_reader_that_breaks_is_a_problem_not_a_pass(tmp_path):
    reader = LakeReading(Lake(str(tmp_path)), ())
    reader.answers = 1
    reader.start()
    reader.join()
    assert reader.problems[0].startswith("the lake's reader: ZeroDivisionError")
