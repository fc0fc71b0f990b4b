"""Buckets of symbols."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.transforms.buckets import BUCKETS, bucket_of, buckets_of
from fibflow.transforms.schemas import SYMBOL


@given(st.lists(st.text(max_size=6)), st.integers(1, 300))
def test_a_column_has_the_buckets_of_its_symbols(symbols, buckets):
    expected = [bucket_of(symbol, buckets) for symbol in symbols]
    plain = pa.array(symbols, pa.string())
    chunked = pa.chunked_array([plain.slice(0, 2), plain.slice(2)])
    for column in (plain, chunked, plain.cast(SYMBOL), chunked.cast(SYMBOL)):
        found = buckets_of(column, buckets)
        assert found.dtype == np.int64
        assert found.tolist() == expected


def test_buckets_never_move():
    assert BUCKETS == 256
    assert [bucket_of(symbol) for symbol in ("A", "AAPL", "BRK.B", "ÅÄÖ", "")] == [139, 92, 172, 19, 0]


def test_a_null_has_no_bucket():
    with pytest.raises(ValueError, match="a symbol is null"):
        buckets_of(pa.array(["A", None]))
