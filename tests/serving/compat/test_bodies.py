"""Envelopes: glued around rows, without nulls, the same bytes for the same answer."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from fibflow.serving.compat.bodies import BAR, alone, bar_rows, glued, without_nulls
from fibflow.transforms.schemas import BARS


def test_the_same_answer_has_the_same_bytes_and_another_has_another_id():
    one, two, other = (glued({"status": "OK"}, "results", rows) for rows in (b"[1]", b"[1]", b"[2]"))
    assert one == two
    assert json.loads(one)["results"] == [1]
    ids = {json.loads(body)["request_id"] for body in (one, other, alone({"status": "OK"}))}
    assert len(ids) == 3


def test_members_without_a_value_are_left_out_at_any_depth():
    value = {"a": None, "b": [{"c": None, "d": 0}], "e": {"f": None}, "g": False}
    assert without_nulls(value) == {"b": [{"d": 0}], "e": {}, "g": False}


@pytest.mark.parametrize("known", [True, False])
def test_a_bar_has_the_vendors_names(known):
    row = dict.fromkeys(BARS.names) | {"symbol": "A", "timeframe": "1m", "ts": -1, "end": 59_999_999}
    row |= {"open": 1.0, "high": 2.5, "low": 0.5, "close": 2.0, "volume": 1e9, "final": True, "revision": 3}
    row |= {"vwap": 1.25, "trade_count": 9} if known else {}
    columns = {
        f.name: pa.array([row[f.name]], pa.int64() if f.name in ("ts", "end") else f.type) for f in BARS
    }
    [found] = json.loads(bar_rows(pa.table(columns).cast(BARS)))
    expected = {"o": 1.0, "h": 2.5, "l": 0.5, "c": 2.0, "v": 1e9, "t": -1, "final": True, "rev": 3}
    assert found == expected | ({"vw": 1.25, "n": 9} if known else {})
    assert set(found) <= set(BAR.values())
