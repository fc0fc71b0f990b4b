"""The binary form of COPY: what goes in is what the server has."""

from __future__ import annotations

import math
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.postgresql.binary import Stream, slices
from fibflow.transforms.schemas import TIMESTAMP

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
# Python's own years, but for a day at either end: the server speaks of them in its zone.
MICROS = st.integers(-62_135_510_400_000_000, 253_402_214_400_000_000)
TYPES = {
    "text": (pa.string(), TEXT),
    "double precision": (pa.float64(), st.floats()),
    "bigint": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "integer": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "boolean": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), st.dates()),
    "timestamptz": (TIMESTAMP, MICROS.map(lambda us: EPOCH + timedelta(microseconds=us))),
}


@pytest.fixture(scope="module")
def connection(server):
    with closing(psycopg2.connect(server.make(), options="-c TimeZone=UTC")) as made:
        yield made


def there_and_back(connection, table: pa.Table, kinds: list[str]) -> list[tuple]:
    with connection.cursor() as cursor:
        columns = ", ".join(f"c{place} {kind}" for place, kind in enumerate(kinds))
        cursor.execute(f"CREATE TEMPORARY TABLE t ({columns})")
        cursor.copy_expert("COPY t FROM STDIN (FORMAT binary)", Stream(slices(table)), 100)
        cursor.execute("SELECT * FROM t ORDER BY ctid")
        found = cursor.fetchall()
    connection.rollback()
    return found


def plain(value):
    return math.nan if isinstance(value, float) and math.isnan(value) else value


@settings(max_examples=60)
@given(st.data())
def test_values_of_all_types_arrive_as_they_are(connection, data):
    kinds = data.draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=6))
    count = data.draw(st.integers(0, 12))
    values = [
        data.draw(st.lists(st.none() | TYPES[kind][1], min_size=count, max_size=count)) for kind in kinds
    ]
    arrays = [pa.array(column, TYPES[kind][0]) for column, kind in zip(values, kinds, strict=True)]
    table = pa.table(arrays, names=[f"c{place}" for place in range(len(kinds))])
    # A table in pieces, of which the first starts in the midst of its buffers.
    cut = data.draw(st.integers(0, count))
    pieces = pa.concat_tables([table.slice(cut), table.slice(0, cut)])
    expected = list(zip(*(column[cut:] + column[:cut] for column in values), strict=True))
    found = there_and_back(connection, pieces, kinds)
    assert repr([tuple(map(plain, row)) for row in found]) == repr(
        [tuple(map(plain, row)) for row in expected]
    )


def test_more_rows_than_a_slice_holds_and_long_texts_come_whole(connection):
    numbers = list(range(70_001))
    table = pa.table({"a": pa.array(numbers), "b": pa.array(["x" * (n % 3) for n in numbers])})
    found = there_and_back(connection, table, ["bigint", "text"])
    assert found == [(n, "x" * (n % 3)) for n in numbers]
    # The longest decides how many rows are encoded at once.
    long = pa.table({"a": pa.array(["y" * 10_000_000, None, "z"])})
    assert there_and_back(connection, long, ["text"]) == [("y" * 10_000_000,), (None,), ("z",)]


def test_a_type_that_has_no_form_is_refused():
    with pytest.raises(TypeError, match="float has no form"):
        b"".join(slices(pa.table({"a": pa.array([1.0], pa.float32())})))
