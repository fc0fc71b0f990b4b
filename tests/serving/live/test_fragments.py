from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.live.fragments import (
    BAR_MEMBERS,
    FRAME_BYTES,
    FRAME_ROWS,
    array_of,
    by_timeframe,
    frames,
    frames_of,
    objects,
)
from fibflow.tests.io.livestores import MINUTE, T0, bar, rows, table
from fibflow.transforms.schemas import BARS

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
ROWS = st.lists(
    st.builds(
        bar,
        st.text(max_size=5),
        st.sampled_from(["1m", "5m", "3d"]),
        st.integers(0, 2**52),
        FLOATS,
        volume=FLOATS,
        vwap=st.none() | FLOATS,
        trade_count=st.none() | st.integers(0, 2**62),
        final=st.booleans(),
        revision=st.integers(0, 2**31 - 1),
    )
)


def expected(row: dict) -> dict:
    """A row as the object it must become, by plain Python."""
    made = {}
    for name in BAR_MEMBERS:
        value = row[name]
        if name in ("ts", "end"):
            value = value // 1_000
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        made[name] = value
    return made


@given(ROWS)
def test_each_row_is_an_object_without_what_is_not_known(given_rows):
    made = objects(table(*given_rows).cast(BARS), BAR_MEMBERS)
    assert [json.loads(text) for text in made.to_pylist()] == [expected(row) for row in given_rows]


@given(ROWS)
def test_symbols_may_be_a_dictionary(given_rows):
    made = objects(table(*given_rows), BAR_MEMBERS)
    assert [json.loads(text) for text in made.to_pylist()] == [expected(row) for row in given_rows]


def test_the_event_is_the_first_member():
    (text,) = objects(table(bar("A")).cast(BARS), BAR_MEMBERS, "B").to_pylist()
    assert text.startswith('{"ev":"B","symbol":"A","timeframe":"1m","ts":')


def test_a_table_of_several_chunks_is_one():
    both = pa.concat_tables([table(bar("A")), table(bar("B"))])
    assert [json.loads(text)["symbol"] for text in objects(both, BAR_MEMBERS).to_pylist()] == ["A", "B"]
    assert json.loads(array_of(objects(both, {"symbol": "s"}))) == [{"s": "A"}, {"s": "B"}]
    assert array_of(objects(both.slice(0, 0), BAR_MEMBERS)) == b"[]"


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 1), (1, 1), (FRAME_ROWS, 1), (FRAME_ROWS + 1, 1), (5_000, 300), (9, FRAME_BYTES // 2)],
)
def test_frames_hold_all_and_are_bounded(count, size):
    texts = [json.dumps(str(place).ljust(size, "x")) for place in range(count)]
    made = frames_of(texts)
    assert [word for frame in made for word in json.loads(frame)] == [json.loads(text) for text in texts]
    assert all(len(frame) <= FRAME_BYTES and len(json.loads(frame)) <= FRAME_ROWS for frame in made)
    assert len(made) <= 1 + max(count // FRAME_ROWS, count * (size + 3) // (FRAME_BYTES - size - 4))


def test_an_object_larger_than_a_frame_goes_alone():
    big = json.dumps("x" * FRAME_BYTES)
    assert frames(pa.array(["1", big, "2"])) == ["[1]", f"[{big}]", "[2]"]


def test_bars_by_timeframe_stay_in_order():
    bars = table(bar("A", "5m"), bar("A"), bar("B", "5m"), bar("C", ts=T0 + MINUTE))
    found = {name: rows(part, "symbol") for name, part in by_timeframe(bars.cast(BARS))}
    assert found == {"5m": [("A",), ("B",)], "1m": [("A",), ("C",)]}
