"""Versions that are over are forgotten, and do not count again where the feed tells of them again."""

from __future__ import annotations

import pytest

from fibflow.tests.transforms.alerts import bar_oracle, tables, test_barkernel
from fibflow.tests.transforms.alerts.test_barexamples import CLOSE, five, on
from fibflow.tests.transforms.tables import calendar, ny
from fibflow.transforms.alerts import barcells, cells
from fibflow.transforms.alerts.barkernel import Memo as BarMemo
from fibflow.transforms.alerts.live import Memo, Plan
from fibflow.transforms.alerts.schema import Frequency, Operator

OPEN = ny("2024-07-02T10:00")


@pytest.mark.parametrize("anew", [False, True], ids=["in memory", "from state"])
def test_on_prices(monkeypatch, anew):
    monkeypatch.setattr(cells, "MOST_PARTS", 0)
    made = tables.Bucket(Plan(calendar("XNYS")))
    deleted = tables.change(1, Operator.ABOVE, 500)
    fired = tables.change(2, Operator.BELOW, 500)
    replaced = tables.change(3, Operator.ABOVE, 500)
    made.take([deleted, fired, replaced])
    made.take([tables.change(1, Operator.ENDED, 1, version=2, since=OPEN)])
    edited = tables.change(3, Operator.ABOVE, 900, version=2, since=OPEN)
    made.take([edited])
    made.take([tables.price(OPEN + 1, 400)])
    assert made.ids() == ["2-1-0"]
    assert made.memo.book is not None
    assert made.memo.book.rows["alert"].tolist() == [3]
    made.memo = Memo() if anew else made.memo
    made.take([deleted, fired, replaced, edited])
    made.take([tables.change(4, Operator.ABOVE, 500)])
    made.take([tables.price(OPEN + 2, 400), tables.price(OPEN + 3, 600)])
    assert made.ids() == ["2-1-0", "4-1-0"]


@pytest.mark.parametrize("anew", [False, True], ids=["in memory", "from state"])
def test_on_bars(monkeypatch, anew):
    monkeypatch.setattr(barcells, "_PARTS", 0)
    above, below = on(CLOSE, "above", {"value": 50.0}), on(CLOSE, "below", {"value": 50.0})
    made = test_barkernel.Bucket()
    deleted = bar_oracle.change(1, above)
    fired = bar_oracle.change(2, below, frequency=Frequency.ONCE)
    first, since = five(0, 40.0), five(0)["ts"]
    made.changes(deleted, fired)
    made.changes(bar_oracle.change(1, None, version=2, since=since))
    # One that waits on keeps the bucket.
    made.changes(bar_oracle.change(3, on(CLOSE, "above", {"value": 90.0})))
    assert [event["id"] for event in made.bars(first)] == ["2-1-0"]
    assert made.memo.held is not None
    assert made.memo.held.book.versions["alert"].tolist() == [3]
    made.memo = BarMemo() if anew else made.memo
    made.changes(deleted, fired)
    made.changes(bar_oracle.change(4, above, frequency=Frequency.ONCE))
    assert made.bars(five(1, 40.0)) == []
    assert [event["id"] for event in made.bars(five(2, 60.0))] == ["4-1-0"]
