"""JSON of records is that of their table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io import tables
from fibflow.serving.formats import json_rows
from fibflow.serving.history.recordjson import json_records
from fibflow.serving.history.records import Layout, SymbolRows
from fibflow.transforms.schemas import BARS

NAMES = {name: f"{name}_" for name in BARS.names if name != "timeframe"}
LAYOUT = Layout.of(tables.BARS)
assert LAYOUT is not None
_NULLABLE = ("vwap", "trade_count")


@st.composite
def symbol_rows(draw: st.DrawFn) -> SymbolRows:
    """Bars of one symbol, of times before 1970 too, with numbers of all sizes."""
    assert LAYOUT is not None
    rng = np.random.default_rng(draw(st.integers(0, 1_000)))
    count = draw(st.integers(1, 12))
    records = np.zeros(count, LAYOUT.dtype)
    for name, kind in LAYOUT.dtype.fields.items() if LAYOUT.dtype.fields else ():
        if kind[0].kind == "f":
            records[name] = rng.normal(0, 1, count) * 10.0 ** rng.integers(-9, 12, count)
        elif name != "nulls":
            high = 2 if kind[0].itemsize == 1 else 10**6
            records[name] = rng.integers(0 if high == 2 else -high, high, count)
            if draw(st.booleans()):
                records[name] = records[name][0]
    for name in _NULLABLE:
        share = draw(st.sampled_from((0.0, 0.5, 1.0)))
        missing = rng.random(count) < share
        records["nulls"] |= missing.astype(np.uint32) << np.uint32(LAYOUT.numbers[name])
    symbol = draw(st.sampled_from(("AAPL", 'a"b\\', "Ä")))
    rows = SymbolRows(LAYOUT, symbol, records, {"timeframe": "3d"})
    return rows.part(slice(None, None, -1)) if draw(st.booleans()) else rows


@given(symbol_rows(), st.booleans())
def test_it_is_that_of_the_table(rows, drop_nulls):
    expected = json_rows(rows.table(BARS).select(list(NAMES)), NAMES, drop_nulls=drop_nulls)
    assert json_records(rows, NAMES, drop_nulls) == expected


@pytest.mark.parametrize("names", [{"symbol": "T"}, {"close": "c"}, {"revision": "r", "symbol": "T"}])
def test_a_part_of_the_columns(names):
    assert LAYOUT is not None
    rows = SymbolRows(LAYOUT, "A", np.zeros(3, LAYOUT.dtype), {"timeframe": "3d"})
    assert json_records(rows, names) == json_rows(rows.table(BARS).select(list(names)), names)
