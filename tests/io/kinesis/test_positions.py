"""The state of lanes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.kinesis.errors import KinesisError
from fibflow.io.kinesis.positions import Lane, LaneState, Position, Step

MICROS = st.integers(-(2**53), 2**53)
POSITIONS = st.builds(
    Position,
    sequence=st.none() | st.integers(0, 2**180).map(str),
    at=st.none() | MICROS,
    newest=st.none() | MICROS,
    behind=st.integers(0, 2**40),
)
STATES = st.dictionaries(st.text(min_size=1, max_size=20), POSITIONS, max_size=5).map(LaneState)


@given(STATES)
def test_a_state_comes_back_and_has_one_encoding(state):
    encoded = state.encode()
    assert LaneState.decode(encoded) == state
    assert LaneState(dict(reversed(list(state.shards.items())))).encode() == encoded


@given(st.text(min_size=1), st.integers(0, 99), STATES)
def test_a_lane_comes_back(stream, number, state):
    lane = Lane(stream, number, state)
    assert Lane.decode(lane.encode()) == lane


def test_the_format_of_saved_states_stays():
    state = LaneState({"b": Position("12", newest=5, behind=7), "a": Position(at=3), "c": Position()})
    encoded = b'\x01{"shards":{"a":{"at":3},"b":{"behind":7,"newest":5,"sequence":"12"},"c":{}}}'
    assert state.encode() == encoded
    assert LaneState.decode(encoded) == state
    assert (
        Lane("ticks", 2, state).encode()
        == encoded[:1] + b'{"number":2,' + encoded[2:-1] + b',"stream":"ticks"}'
    )


@pytest.mark.parametrize(("encoded", "found"), [(b"\x02{}", "2"), (b"", "none")])
@pytest.mark.parametrize("kind", [Lane, LaneState])
def test_a_later_format_is_refused(kind, encoded, found):
    with pytest.raises(KinesisError, match=f"has format {found}, this release reads format 1: resume with"):
        kind.decode(encoded)


def test_newest_times_only_grow():
    state = LaneState({"a": Position("1", newest=100), "b": Position(newest=None)})
    after = state.advanced([Step("a", "2", 9), Step("b", "3", 0)], {"a": 50})
    assert after.shards == {"a": Position("2", newest=100, behind=9), "b": Position("3")}
    after = after.advanced([Step("a", None, 0), Step("b", "4", 0)], {"a": 150, "b": 7})
    assert after.shards == {"a": Position("2", newest=150), "b": Position("4", newest=7)}
    assert after.behind == 0


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (Position(), Position()),
        (Position(at=5), Position(at=5)),
        (Position("7", at=5, newest=9), Position(newest=9)),
    ],
)
def test_children_take_over_from_their_parent(parent, child):
    state = LaneState({"p": parent, "q": Position("1")})
    after = state.advanced([Step("p", None, 0, ended=True, children=("c", "d"))], {})
    assert after.shards == {"q": Position("1"), "c": child, "d": child}


def test_children_know_the_time_of_the_last_records_of_their_parent():
    state = LaneState({"p": Position("1", newest=5)})
    after = state.advanced([Step("p", "2", 0, ended=True, children=("c",))], {"p": 8})
    assert after.shards == {"c": Position(newest=8)}


def test_the_watermark_is_the_least_of_all_shards_in_whole_milliseconds():
    shards = {"a": Position("1", newest=10_000_999), "b": Position("1", newest=20_000_000)}
    assert LaneState(shards).watermark(0) == 10_000_000
    assert LaneState(shards).watermark(5_000_000) == 5_000_000
    assert LaneState(shards).watermark(10_001_000) == -1_000
    assert LaneState(shards | {"c": Position()}).watermark(0) is None
    assert LaneState({}).watermark(0) is None


def test_a_quiet_shard_says_nothing_about_time_unless_asked():
    state = LaneState({"a": Position("1", newest=100)})
    quiet = [Step("a", None, 0, quiet=1_000)]
    assert state.advanced(quiet, {}) == state
    assert state.advanced(quiet, {}, idle_after=300).shards["a"].newest == 700
    assert state.advanced(quiet, {}, idle_after=950).shards["a"].newest == 100
    busy = [Step("a", "2", 0)]
    assert state.advanced(busy, {}, idle_after=300).shards["a"].newest == 100


def test_a_quiet_shard_is_done_where_that_was_asked_for():
    state = LaneState({"a": Position("1"), "b": Position("1")})
    steps = [Step("a", None, 0, quiet=1_000), Step("b", "2", 0)]
    assert state.advanced(steps, {}, stop_at_end=True).shards == {"b": Position("2")}
