"""Rows as JSON, CSV, Parquet and Arrow, read back by others."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.serving.formats import CONTENT_TYPES, Format, encode, json_rows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = pa.timestamp("us", "UTC")
_FIELDS: list[Any] = [
    pa.field("symbol", pa.string()),
    pa.field("ts", TIMES),
    pa.field("price", pa.float64()),
    pa.field("count", pa.int64()),
    pa.field("flag", pa.bool_()),
    pa.field("day", pa.date32()),
    pa.field("codes", pa.list_(pa.int32())),
]
SCHEMA = pa.schema(_FIELDS)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "symbol": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
            "ts": st.none() | st.integers(-(10**15), 4 * 10**15),
            "price": st.none() | st.floats(),
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "flag": st.none() | st.booleans(),
            "day": st.none() | st.dates(date(1900, 1, 1), date(2100, 1, 1)),
            "codes": st.none() | st.lists(st.integers(0, 99), max_size=3),
        }
    ),
    max_size=6,
)


def table_of(rows: list[dict], schema: pa.Schema = SCHEMA) -> pa.Table:
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        timed = pa.types.is_timestamp(field.type)
        columns.append(
            pa.array(values, pa.int64()).cast(field.type) if timed else pa.array(values, field.type)
        )
    return pa.table(columns, schema=schema)


def as_json(row: dict) -> dict:
    """A row as it has to be told."""
    found = dict(row)
    found["ts"] = None if row["ts"] is None else row["ts"] // 1000
    found["price"] = row["price"] if row["price"] is not None and math.isfinite(row["price"]) else None
    found["day"] = None if row["day"] is None else row["day"].isoformat()
    return found


@given(ROWS, st.booleans(), st.booleans())
def test_json_is_what_the_standard_library_reads_back(rows, drop_nulls, constant):
    names = {"symbol": "T", "ts": "t", "price": "vw", "count": "n", "flag": "final", "day": "d", "codes": "c"}
    told = json_rows(table_of(rows), names, {"ev": "AM", "x": 1} if constant else None, drop_nulls)
    expected = []
    for row in rows:
        members = {"ev": "AM", "x": 1} if constant else {}
        told_row = as_json(row)
        members |= {member: told_row[name] for name, member in names.items()}
        expected.append({k: v for k, v in members.items() if not (drop_nulls and v is None)})
    found = json.loads(told)
    assert found == expected
    assert [list(row) for row in found] == [list(row) for row in expected]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_doubles_come_back_to_the_bit(values):
    told = json_rows(pa.table({"v": pa.array(values, pa.float64())}), {"v": "v"})
    found = [float(row["v"]) for row in json.loads(told)]
    assert [value.hex() for value in found] == [value.hex() for value in values]


def test_columns_are_renamed_and_keep_the_order_that_is_asked_for():
    table = pa.table({"a": [1, 2], "b": ["x", 'quote " and \u00e9']})
    assert (
        json_rows(table, {"b": "B", "a": "A"})
        == '[{"B":"x","A":1},{"B":"quote \\" and \u00e9","A":2}]'.encode()
    )
    assert json_rows(table.slice(0, 0), {"a": "A"}) == b"[]"
    assert json_rows(table, {}, {"k": None}) == b'[{"k":null},{"k":null}]'


def test_dictionaries_chunks_and_other_units_of_time():
    words = pa.chunked_array(
        [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None, "a"]).dictionary_encode()]
    )
    times = pa.chunked_array([pa.array([-1, 0]), pa.array([1, 2, 1_999_999_999])]).cast(
        pa.timestamp("ns", "UTC")
    )
    table = pa.table({"w": words, "t": times, "s": times.cast(pa.timestamp("s", "UTC"), safe=False)})
    found = json.loads(json_rows(table, {"w": "w", "t": "t", "s": "s"}))
    assert [row["w"] for row in found] == ["a", "b", "c", None, "a"]
    assert [row["t"] for row in found] == [-1, 0, 0, 0, 1999]
    assert found[-1]["s"] == 1000
    assert json.loads(json_rows(table.slice(1, 3), {"w": "w"})) == [{"w": "b"}, {"w": "c"}, {"w": None}]


BARS = table_of(
    [
        {
            "symbol": "A,B",
            "ts": 1_700_000_000_000_000,
            "price": 0.1 + 0.2,
            "count": 1,
            "flag": True,
            "day": date(2024, 1, 2),
            "codes": [1, 2],
        },
        {
            "symbol": "C",
            "ts": 1_700_000_060_000_000,
            "price": None,
            "count": None,
            "flag": False,
            "day": None,
            "codes": [],
        },
    ]
)


def test_csv_is_read_by_others():
    told = encode(BARS, Format.CSV).decode()
    assert told.splitlines()[0] == '"symbol","ts","price","count","flag","day","codes"'
    assert told.splitlines()[1] == '"A,B","2023-11-14T22:13:20Z",0.30000000000000004,1,true,2024-01-02,"1;2"'
    fractions = BARS.set_column(1, "ts", pa.array([1, 2], pa.int64()).cast(TIMES))
    assert "1970-01-01T00:00:00.000001Z" in encode(fractions, Format.CSV).decode()


@pytest.mark.parametrize("format", [Format.PARQUET, Format.ARROW])
def test_parquet_and_arrow_hold_the_same_table(format):
    told = io.BytesIO(encode(BARS, format))
    found = pq.read_table(told) if format is Format.PARQUET else pa.ipc.open_stream(told).read_all()
    assert found.equals(BARS)
    if format is Format.PARQUET:
        duckdb.register("bars", found)
        rows = duckdb.execute("SELECT symbol, epoch_us(ts) AS t, price FROM bars ORDER BY 1").fetchall()
        assert rows == [("A,B", 1_700_000_000_000_000, 0.1 + 0.2), ("C", 1_700_000_060_000_000, None)]


def test_each_format_has_its_type():
    assert set(CONTENT_TYPES) == set(Format)
    assert json.loads(encode(BARS, Format.JSON))[0]["ts"] == (
        EPOCH + timedelta(seconds=1_700_000_000) - EPOCH
    ) // timedelta(milliseconds=1)
