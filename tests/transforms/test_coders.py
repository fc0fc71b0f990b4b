from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from apache_beam import coders as beam_coders

from fibflow.tests.transforms.tables import daily, row, us
from fibflow.transforms.coders import ArrowBatchCoder, ArrowTableCoder, decode_table, encode_table
from fibflow.transforms.schemas import RAW


def rows(count: int, symbols: int = 3) -> pa.Table:
    return pa.table(
        {
            "symbol": pa.array([f"S{n % symbols}" for n in range(count)]).dictionary_encode(),
            "open": np.arange(count, dtype=np.float64),
            "count": pa.array([None if n % 2 else n for n in range(count)], pa.int64()),
        }
    )


def batch(count: int) -> pa.RecordBatch:
    return rows(count).combine_chunks().to_batches()[0]


@pytest.mark.parametrize(
    "table",
    [
        rows(5),
        rows(5).slice(1, 3),
        rows(5).slice(2, 0),
        pa.concat_tables([rows(3), rows(4, symbols=4)]),
        rows(0),
        RAW.empty_table(),
        pa.table({"a": pa.array([], pa.int64())}),
    ],
    ids=[
        "plain",
        "slice",
        "empty slice",
        "dictionaries that differ",
        "no rows",
        "no chunks",
        "one empty column",
    ],
)
def test_tables_go_round(table):
    coder = ArrowTableCoder()
    back = coder.decode(coder.encode(table))
    assert back.schema == table.schema
    assert back.to_pylist() == table.to_pylist()
    assert decode_table(encode_table(table)).equals(back)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_batches_go_round(count):
    coder = ArrowBatchCoder()
    given = batch(7).slice(0, count)
    back = coder.decode(coder.encode(given))
    assert isinstance(back, pa.RecordBatch)
    assert back.schema == given.schema
    assert back.to_pylist() == given.to_pylist()


def test_a_slice_is_encoded_without_what_it_was_cut_from():
    whole = rows(100_000)
    small = ArrowTableCoder().encode(whole.slice(50_000, 10))
    assert len(small) < 3_000
    assert len(ArrowBatchCoder().encode(batch(100_000).slice(50_000, 10))) < 3_000
    assert len(pickle.dumps(whole.slice(50_000, 10))) > len(small), "which is why the coder exists"


def test_sizes_are_estimated_by_the_columns_and_not_by_encoding():
    table = rows(1_000)
    assert ArrowTableCoder().estimate_size(table) == table.nbytes
    assert ArrowBatchCoder().estimate_size(batch(1_000)) == batch(1_000).nbytes
    assert ArrowTableCoder().estimate_size(table.slice(0, 10)) < table.nbytes / 10


@pytest.mark.parametrize(("kind", "coder"), [(pa.Table, ArrowTableCoder), (pa.RecordBatch, ArrowBatchCoder)])
def test_beam_takes_them_for_what_type_hints_name(kind, coder):
    found = beam_coders.registry.get_coder(kind)
    assert isinstance(found, coder)
    assert found.to_type_hint() is kind
    assert not found.is_deterministic()


def test_beam_nests_them_in_pairs():
    coder = beam_coders.registry.get_coder(tuple[int, pa.Table])
    table = daily([row("A", us("2024-07-02"))])
    number, back = coder.decode(coder.encode((7, table)))
    assert number == 7
    assert back.equals(table)
