"""Tables of what fired."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from fibflow.transforms.alerts.events import Firings
from fibflow.transforms.alerts.schema import EVENTS, NEVER, Frequency


def firings(*rows: dict) -> Firings:
    plain = {"frequency": Frequency.ONCE, "gen_ts": NEVER, "price": 1.5, "before": 1.0, "level": 1.2}
    integers = {each.name for each in fields(Firings)} - {"price", "before", "level"}
    columns: dict[str, Any] = {}
    for each in fields(Firings):
        kind = np.int64 if each.name in integers else np.float64
        columns[each.name] = np.array([{**plain, **row}.get(each.name, 0) for row in rows], kind)
    columns["version"], columns["frequency"] = (
        columns["version"].astype(np.int32),
        columns["frequency"].astype(np.int8),
    )
    return Firings(**columns)


def test_ids_of_all_frequencies():
    made = firings(
        {"alert": 1, "version": 2},
        {"alert": 2, "version": 1, "frequency": Frequency.EVERY_TIME, "gen_ts": 5, "gen_seq": 6},
        {"alert": 3, "version": 1, "frequency": Frequency.BAR, "period": 7},
        {"alert": 4, "version": 1, "frequency": Frequency.DAILY, "period": 19906, "place": 1},
    )
    table = made.table(["A", "B"])
    assert table.schema.equals(EVENTS)
    assert table["id"].to_pylist() == ["1-2-0", "2-1-5.6", "3-1-0-7", "4-1-0-2024-07-02"]
    assert table["symbol"].to_pylist() == ["A", "A", "A", "B"]
    assert table["previous"].to_pylist() == [1.0] * 4


def test_parts_are_put_in_order():
    found = Firings.concat(
        [firings({"at": 2, "alert": 1}), firings({"at": 0, "alert": 9}, {"at": 2, "alert": 0})]
    )
    assert found is not None
    assert found.alert.tolist() == [9, 0, 1]
    assert len(found) == 3
    assert Firings.concat([]) is None
