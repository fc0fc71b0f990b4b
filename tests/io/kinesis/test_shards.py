"""Shards: listing, dealing, and who reads which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.positions import Position
from fibflow.io.kinesis.shards import HASH_KEYS, Shard, children, deal, list_shards, roots
from fibflow.tests.io.kinesis.fake import FakeClock, FakeKinesis


def listed(kinesis):
    return list_shards(kinesis, "ticks", kinesis.clock.sleep, lambda: 0.5)


@st.composite
def histories(draw):
    """A stream after some splits and merges, with how many shards it had when lanes were dealt."""
    kinesis = FakeKinesis(FakeClock(), draw(st.integers(1, 5)))
    known = None
    for place in draw(st.lists(st.integers(-8, 8), max_size=12)):
        spans = kinesis.open
        if place >= 0:
            kinesis.split(spans[place % len(spans)])
        elif len(spans) > 1:
            at = -place % (len(spans) - 1)
            kinesis.merge(*spans[at : at + 2][:: 1 if place % 2 else -1])
        if draw(st.booleans()):
            known = listed(kinesis)
    return known or listed(kinesis), listed(kinesis)


def family(shards, begin):
    """Every shard that a lane comes to read, in an order in which it may."""
    found, waiting = [], list(begin)
    while waiting:
        found.append(waiting.pop(0))
        waiting += children(shards, found[-1])
    return found


@given(histories(), st.integers(1, 6), st.integers(0, 3))
def test_each_shard_is_read_by_one_lane_after_its_parent(history, lanes, expired):
    at_launch, at_end = history
    gone = [shard for shard in at_launch if not shard.is_open][:expired]
    at_launch = [shard for shard in at_launch if shard not in gone]
    dealt = deal("ticks", at_launch, roots(at_launch, "TRIM_HORIZON", 0), lanes)
    assert [lane.number for lane in dealt] == list(range(lanes))
    read = [shard for lane in dealt for shard in family(at_end, lane.start.shards)]
    assert sorted(read) == sorted({shard.id for shard in at_end} - {shard.id for shard in gone})


@given(histories(), st.integers(1, 4))
def test_of_the_latest_records_only_open_shards_are_read(history, lanes):
    _, shards = history
    begin = roots(shards, "LATEST", 77)
    assert begin == {shard.id: Position(at=77) for shard in shards if shard.is_open}


@given(histories(), st.data())
def test_lanes_go_on_after_given_records(history, data):
    """What came before the shards in ``after`` counts as read, and nothing else does."""
    _, shards = history
    parents = {shard.id: shard.parent for shard in shards}

    def ancestors(shard):
        while parents.get(shard):
            shard = parents[shard]
            yield shard

    chosen = data.draw(st.sets(st.sampled_from(sorted(parents))))
    chosen = {shard for shard in chosen if not set(ancestors(shard)) & chosen}
    begin = roots(shards, 5, 0, dict.fromkeys(chosen, "9"))
    passed = {parent for shard in chosen for parent in ancestors(shard)}
    assert {shard for shard in begin if begin[shard].sequence == "9"} == chosen
    assert all(begin[shard] == Position(at=5) for shard in set(begin) - chosen)
    read = family(shards, begin)
    assert sorted(read) == sorted(set(parents) - passed)


def test_lanes_take_equal_parts_of_the_keys():
    shards = [Shard(f"s{n}", n * HASH_KEYS // 8, (n + 1) * HASH_KEYS // 8 - 1) for n in range(8)]
    begin = roots(shards, "TRIM_HORIZON", 0)
    dealt = deal("ticks", shards[::-1], begin, 3)
    assert [sorted(lane.start.shards) for lane in dealt] == [
        ["s0", "s1", "s2"],
        ["s3", "s4"],
        ["s5", "s6", "s7"],
    ]
    assert [len(lane.start.shards) for lane in deal("ticks", shards[:1], {"s0": Position()}, 2)] == [1, 0]


def test_a_start_after_a_record_of_an_unknown_shard_is_refused():
    with pytest.raises(KinesisError, match="there is no shard s9 to begin in"):
        roots([Shard("s1", 0, HASH_KEYS - 1)], "LATEST", 0, {"s9": "1"})


def test_listing_goes_page_by_page_and_waits_where_the_service_is_busy():
    kinesis = FakeKinesis(FakeClock(), 8)
    faults = ["timeout", "throttled", None, "broken"]
    kinesis.fault = lambda operation: faults.pop() if faults else None
    assert [shard.id for shard in listed(kinesis)] == list(kinesis.shards)
    assert kinesis.calls["list_shards"] == 4 + 3
    assert kinesis.clock.slept == pytest.approx(0.125 + 0.25 + 0.5)


@pytest.mark.parametrize(
    ("fault", "calls", "message"),
    [
        ("denied", 1, "kinesis:ListShards"),
        ("timeout", 8, "cannot be reached: check the network, AWS_ENDPOINT_URL and AWS_REGION"),
        ("throttled", 8, "Rate exceeded"),
    ],
)
def test_listing_gives_up_with_a_clear_line(fault, calls, message):
    kinesis = FakeKinesis(FakeClock(), 1, lambda operation: fault)
    with pytest.raises(KinesisError, match=message):
        listed(kinesis)
    assert kinesis.calls["list_shards"] == calls
